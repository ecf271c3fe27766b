//! One end of a conversation that is known in advance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bulkhead_tests::harness::protocol::{Answer, Cause, Kind, Opening, Played, Step};
use rustix::io::Errno;

use crate::sockets::{self, Fault, Socket, Sockets};
use crate::talk;

/// Opens, or waits to be opened to, and plays its part. That it cannot be finished is an answer, too; only
/// a mistake of the test is a failure.
pub(crate) fn play(
    sockets: &Sockets,
    opening: Opening,
    script: &[Step],
    deadline: Instant,
) -> Result<Answer, Fault> {
    let mut played = Played::default();
    let ended = open(sockets, opening, deadline).and_then(|socket| {
        played.connected = true;
        script.iter().try_for_each(|step| act(&socket, step, &mut played.received, deadline))
    });
    match ended {
        Ok(()) => played.complete = true,
        Err(Fault { cause: Cause::Os(errno), .. }) => played.errno = Some(errno),
        Err(Fault { cause: Cause::Closed, .. }) => {}
        Err(Fault { cause: Cause::Timeout, .. }) => played.errno = Some(Errno::TIMEDOUT.raw_os_error()),
        Err(fault) => return Err(fault),
    }
    Ok(Answer::Played(played))
}

fn open(sockets: &Sockets, opening: Opening, deadline: Instant) -> Result<Arc<Socket>, Fault> {
    let fd = match opening {
        Opening::Connect { to, fast_open } => connect(to, fast_open.as_deref(), deadline)?,
        // It may have been closed before this began.
        Opening::Accept { listener } if sockets.get(listener).is_err() => return Err(Fault::closed()),
        Opening::Accept { listener } => sockets.take(listener, deadline)?,
    };
    Ok(Arc::new(Socket { fd, kind: Kind::Tcp, served: Arc::default() }))
}

fn connect(to: SocketAddr, early: Option<&[u8]>, deadline: Instant) -> Result<std::os::fd::OwnedFd, Fault> {
    sockets::connect(Kind::Tcp, to, None, false, early, deadline)
}

fn act(socket: &Socket, step: &Step, received: &mut Vec<u8>, deadline: Instant) -> Result<(), Fault> {
    match step {
        Step::Send(data) => talk::send(socket, data, None).map(drop),
        Step::Receive(count) => {
            let due = received.len() + count;
            while received.len() < due {
                let (part, _) = talk::recv(socket, due - received.len(), deadline)?;
                if part.is_empty() {
                    return Err(Fault::closed());
                }
                received.extend(part);
            }
            Ok(())
        }
    }
}
