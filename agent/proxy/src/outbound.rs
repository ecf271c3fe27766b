//! A connection that the kernel turned in: who it is, where it wanted to go, a tunnel there, and its bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::books::{Direction, Parties, Record};
use crate::end::{Refusal, reason};
use crate::node::{Node, Outbound, Place};
use crate::proxy::Shared;
use crate::relay::{self, Stream};
use crate::socket;
use crate::tunnel::{Lease, Route};
use crate::watch::Watch;

/// Serves one turned connection to its end.
pub(crate) async fn serve<N: Node>(shared: Arc<Shared<N>>, place: Place, mut program: TcpStream) {
    let began = Instant::now();
    socket::prepare(&program);
    socket::hold(&program);
    let (Ok(client), Ok(local)) = (program.peer_addr(), program.local_addr()) else { return };
    let (client, local) = (socket::plain(client), socket::plain(local));
    // Before the question: a change that comes after the answer is not missed.
    let (changes, certificates) = (shared.node.changes(), shared.keeper.changes());
    let flow = match Box::pin(shared.node.outbound(place, client)).await {
        Ok(flow) => flow,
        Err(denied) => {
            let edge = denied.edge.clone();
            let refused = Record::refused(Direction::Outbound, (client, local), began, denied.into());
            shared.books.refuse(Record { edge, ..refused });
            return socket::reset(program);
        }
    };
    // Boxed, as is all that is over before bytes flow: a connection that says nothing holds no room for it.
    let opened = Box::pin(open(&shared, place, client, &flow)).await;
    let (lease, mut stream) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            let refused = Record::refused(Direction::Outbound, (client, flow.destination), began, refusal);
            let (client_name, edge) = (Some(flow.own), Some(flow.edge));
            shared.books.refuse(Record { client_name, edge, ..refused });
            return socket::reset(program);
        }
    };
    let peer = Arc::clone(&lease.0.peer);
    let parties = Parties {
        direction: Direction::Outbound,
        client,
        destination: flow.destination,
        names: (flow.own.clone(), peer.facts.name.clone()),
        edge: flow.edge.clone(),
    };
    let entry = shared.books.begin(parties, began);
    let watch = Watch {
        keeper: shared.keeper.clone(),
        peer,
        changes,
        certificates,
        expires: lease.0.expires,
        max_age: flow.max_age,
        stop: shared.stop.subscribe(),
    };
    let relay = Box::pin(relay::run(&mut program, &mut stream, &entry, shared.settings.chunk));
    let allowed = || still_allowed(&shared, place, client, &flow);
    let end = watch.over(relay, allowed).await;
    relay::tell(&mut stream, &end);
    if !end.resets() {
        socket::finish(program);
    }
    entry.close(end);
}

/// The same as was allowed before: another name to show, or to expect, is another connection.
async fn still_allowed<N: Node>(
    shared: &Shared<N>,
    place: Place,
    client: SocketAddr,
    flow: &Outbound,
) -> Result<(), Refusal> {
    let now = shared.node.outbound(place, client).await?;
    let same = now.destination == flow.destination && now.own == flow.own && now.expected == flow.expected;
    if same { Ok(()) } else { Err(Refusal::new("changed", "the policy now asks for other names")) }
}

async fn open<N: Node>(
    shared: &Shared<N>,
    place: Place,
    client: SocketAddr,
    flow: &Outbound,
) -> Result<(Lease, Stream), Refusal> {
    if flow.expected.is_empty() {
        let text = "nobody may answer there: the receiver's zones have no names";
        return Err(Refusal::new(reason::NAMELESS, text));
    }
    let route = Route {
        place,
        own: flow.own.clone(),
        expected: flow.expected.clone(),
        from: client.ip(),
        to: flow.destination.ip(),
        mark: flow.mark,
    };
    // A tunnel that is just going away asks for another; twice is bad luck, more is a defect.
    for _ in 0..3 {
        let lease =
            shared.pool.lease(&*shared.node, &shared.keeper, &shared.settings, &shared.books, &route).await?;
        match lease.0.connect(flow.destination, client, &shared.settings).await {
            Ok(stream) => return Ok((lease, stream)),
            Err(Some(refusal)) => return Err(refusal),
            Err(None) => lease.0.retire(),
        }
    }
    Err(Refusal::new(reason::UNREACHABLE, "the other node's proxy closes every tunnel: is it being stopped?"))
}
