//! A connection that the kernel turned in: who it is, where it wanted to go, a tunnel there, and its bytes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_credentials::SpiffeId;
use tokio::net::TcpStream;

use crate::books::{Direction, Entry, Parties, Record};
use crate::end::{End, Refusal, reason};
use crate::node::{Node, Outbound, Place};
use crate::proxy::Shared;
use crate::relay::{self, Stream};
use crate::socket;
use crate::tunnel::{Lease, Route};
use crate::watch::{Ear, Watch};

/// Serves one turned connection to its end.
pub(crate) async fn serve<N: Node>(
    shared: Arc<Shared<N>>,
    place: Place,
    (program, client): (TcpStream, SocketAddr),
) {
    // What is over before bytes flow is a task's smaller part, and both are boxed: a connection that says
    // nothing holds room for what it has left to do, and for nothing else.
    if let Some(carried) = Box::pin(begin(shared, place, program, client)).await {
        Box::pin(carried.carry()).await;
    }
}

/// A connection whose bytes may flow.
struct Carried<N> {
    shared: Arc<Shared<N>>,
    place: Place,
    client: SocketAddr,
    program: TcpStream,
    allowed: Allowed,
    lease: Lease,
    stream: Stream,
    entry: Entry,
    ear: Ear,
}

/// What was allowed, as far as it must stay as it is.
struct Allowed {
    destination: SocketAddr,
    own: SpiffeId,
    expected: Vec<SpiffeId>,
    max_age: Option<Duration>,
}

/// Asks, and opens a stream; tells of it and resets the program's connection where that may not be or fails.
async fn begin<N: Node>(
    shared: Arc<Shared<N>>,
    place: Place,
    program: TcpStream,
    client: SocketAddr,
) -> Option<Box<Carried<N>>> {
    let began = Instant::now();
    // Before the question: a change that comes after the answer is not missed.
    let ear = Ear::new(&shared.news);
    let flow = match shared.node.outbound(place, client, began).await {
        Ok(flow) => flow,
        Err(denied) => {
            let edge = denied.edge.clone();
            // Where it wanted to go is not known.
            let local = program.local_addr().map_or(client, socket::plain);
            let refused = Record::refused(Direction::Outbound, (client, local), began, denied.into());
            shared.books.refuse(Record { edge, ..refused });
            socket::reset(program);
            return None;
        }
    };
    let (lease, stream) = match open(&shared, place, (client, began), &flow).await {
        Ok(opened) => opened,
        Err(refusal) => {
            let refused = Record::refused(Direction::Outbound, (client, flow.destination), began, refusal);
            let (client_name, edge) = (Some(flow.own), Some(flow.edge));
            shared.books.refuse(Record { client_name, edge, ..refused });
            socket::reset(program);
            return None;
        }
    };
    let Outbound { destination, own, expected, edge, max_age, mark: _ } = flow;
    let names = (own.clone(), lease.0.peer.facts.name.clone());
    let parties = Parties { direction: Direction::Outbound, client, destination, names, edge, audited: None };
    let entry = shared.books.begin(parties, began);
    let allowed = Allowed { destination, own, expected, max_age };
    Some(Box::new(Carried { shared, place, client, program, allowed, lease, stream, entry, ear }))
}

impl<N: Node> Carried<N> {
    /// Carries its bytes until the end.
    async fn carry(mut self: Box<Self>) {
        let end = self.relay().await;
        relay::finish(self.program, self.stream, self.entry, end);
    }

    async fn relay(&mut self) -> End {
        let mut watch = Watch {
            keeper: &self.shared.keeper,
            peer: &self.lease.0.peer,
            ear: &mut self.ear,
            expires: self.lease.0.expires,
            max_age: self.allowed.max_age,
        };
        let chunk = self.shared.settings.chunk;
        let relay = pin!(relay::run(&mut self.program, &mut self.stream, &self.entry, chunk));
        watch.over(relay, || still_allowed(&self.shared, self.place, self.client, &self.allowed)).await
    }
}

/// The same as was allowed before: another name to show, or to expect, is another connection.
async fn still_allowed<N: Node>(
    shared: &Shared<N>,
    place: Place,
    client: SocketAddr,
    before: &Allowed,
) -> Result<(), Refusal> {
    let now = shared.node.outbound(place, client, Instant::now()).await?;
    let same =
        now.destination == before.destination && now.own == before.own && now.expected == before.expected;
    if same { Ok(()) } else { Err(Refusal::new("changed", "the policy now asks for other names")) }
}

async fn open<N: Node>(
    shared: &Shared<N>,
    place: Place,
    (client, began): (SocketAddr, Instant),
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
        let lease = shared.pool.lease(shared, &route, &flow.edge, began).await?;
        match lease.0.connect(flow.destination, (client, began), &shared.settings).await {
            Ok(stream) => return Ok((lease, stream)),
            Err(Some(refusal)) => return Err(refusal),
            Err(None) => lease.0.retire(),
        }
    }
    Err(Refusal::new(reason::UNREACHABLE, "the other node's proxy closes every tunnel: is it being stopped?"))
}
