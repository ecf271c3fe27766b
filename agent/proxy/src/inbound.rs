//! A tunnel that comes in: whose it is, and for each connection in it, whether it may reach the program that
//! it names.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_credentials::{HandshakeError, Moment, Peer, SpiffeId, Usage};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::watch as watch_of;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::books::{Direction, Entry, Parties, Record};
use crate::end::{self, End, Refusal, reason};
use crate::gate::{Guest, Permit};
use crate::keepalive;
use crate::node::{Edge, Node, Place};
use crate::proxy::Shared;
use crate::relay::{self, Stream};
use crate::socket;
use crate::waited;
use crate::watch::{self, Ear, Watch};
use crate::wire::Wire;

/// A peer that is no longer believed opens nothing more; what it has open ends by itself, each with its
/// reason, and the tunnel after so long.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Not within the life of a tunnel.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// A tunnel, and what its connections have in common.
struct Tunnel<N> {
    shared: Arc<Shared<N>>,
    place: Place,
    /// The client's address, which its proxy dials from.
    client: SocketAddr,
    /// Ours: the workload's.
    local: SocketAddr,
    /// The name that we have shown.
    own: SpiffeId,
    peer: Arc<Peer>,
    /// The last second of the first of both certificates.
    expires: Moment,
    /// Whether its handshake is in the books.
    counted: AtomicBool,
}

/// A tunnel whose peer is known.
struct Shaken {
    connection: Connection<TlsStream<Wire>, Bytes>,
    own: SpiffeId,
    peer: Arc<Peer>,
    expires: Moment,
}

/// A connection whose bytes may flow.
struct Carried<N> {
    tunnel: Arc<Tunnel<N>>,
    program: TcpStream,
    destination: SocketAddr,
    max_age: Option<Duration>,
    stream: Stream,
    entry: Entry,
    ear: Ear,
    _permit: Permit,
}

/// Serves one tunnel to its end.
pub(crate) async fn serve<N: Node>(
    shared: Arc<Shared<N>>,
    place: Place,
    (stream, client): (TcpStream, SocketAddr),
) {
    let Ok(local) = stream.local_addr().map(socket::plain) else { return };
    let began = Instant::now();
    // Before the handshake: what changes while it lasts is not missed.
    let certificates = shared.keeper.changes();
    let Shaken { connection, own, peer, expires } =
        match shake_hands(&shared, place, local, stream, began).await {
            Ok(shaken) => shaken,
            Err(refusal) => {
                shared.books.shook_hands(Direction::Inbound, None, Some(refusal.reason));
                shared.books.refuse(Record::refused(Direction::Inbound, (client, local), began, refusal));
                return;
            }
        };
    let counted = AtomicBool::new(false);
    let tunnel = Arc::new(Tunnel { shared, place, client, local, own, peer, expires, counted });
    Arc::clone(&tunnel).serve(connection, certificates).await;
    tunnel.count(None);
}

async fn shake_hands<N: Node>(
    shared: &Shared<N>,
    place: Place,
    local: SocketAddr,
    stream: TcpStream,
    began: Instant,
) -> Result<Shaken, Refusal> {
    let settings = &shared.settings;
    let shaken = async {
        let own = shared.node.name_of(place, local.ip(), began).await?;
        let own = own.ok_or_else(|| {
            Refusal::new(
                reason::NAMELESS,
                format!("whoever has {local} is in no zone, so there is no name to show"),
            )
        })?;
        let mut tls = TlsAcceptor::from(shared.keeper.server(&own)?)
            .accept(Wire::new(stream))
            .await
            .map_err(|error| HandshakeError::from_io(&error))?;
        end::speaks_http2(tls.get_ref().1.alpn_protocol())?;
        let peer = shared.keeper.peer(tls.get_ref().1.peer_certificates(), Usage::Client, None)?;
        tls.get_mut().1.set_buffer_limit(Some(settings.unsent));
        let connection = h2::server::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.tunnel_window)
            .max_frame_size(settings.frame)
            .max_header_list_size(16 << 10)
            .max_send_buffer_size(settings.unsent)
            .max_concurrent_streams(u32::try_from(settings.streams * 2).unwrap_or(u32::MAX))
            .handshake(tls)
            .await
            .map_err(|error| end::http2(&error))?;
        let expires = watch::expiry(&shared.keeper, &own, &peer);
        Ok(Shaken { connection, own, peer: Arc::new(peer), expires })
    };
    tokio::time::timeout(settings.handshake, shaken)
        .await
        .map_err(|_| Refusal::new(reason::SLOW, "the peer did not finish its handshake in time"))?
}

impl<N: Node> Tunnel<N> {
    async fn serve(
        self: Arc<Self>,
        mut connection: Connection<TlsStream<Wire>, Bytes>,
        mut certificates: watch_of::Receiver<u64>,
    ) {
        let settings = &self.shared.settings;
        let mut drain = self.shared.drain.subscribe();
        let mut draining = false;
        let silent = keepalive::until_silent(connection.ping_pong(), settings.ping, settings.pong);
        let mut believed = true;
        let cut = tokio::time::sleep(FAR);
        let expired = watch::past(self.expires);
        tokio::pin!(silent, cut, expired);
        loop {
            tokio::select! {
                request = connection.accept() => match request {
                    // Whoever is to be believed dials again, with another certificate.
                    Some(Ok((_, mut respond))) if !believed || watch::is_past(self.expires) => {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                    Some(Ok((request, respond))) => {
                        tokio::spawn(Arc::clone(&self).connection(request, respond));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(client = %self.client, %error, "a tunnel was lost");
                        if error.is_library() {
                            self.breaks(&error);
                        }
                        return;
                    }
                    None => return,
                },
                () = watch::raised(&mut drain), if !draining => {
                    draining = true;
                    connection.graceful_shutdown();
                }
                // What it carries goes on.
                () = &mut expired, if !draining => {
                    draining = true;
                    connection.graceful_shutdown();
                }
                Ok(()) = certificates.changed(), if believed => {
                    if let Err(error) = self.shared.keeper.recheck(&self.peer) {
                        tracing::info!(client = %self.client, peer = %self.peer.facts.name, %error, "a tunnel is ended");
                        believed = false;
                        cut.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                    }
                }
                () = &mut cut, if !believed => {
                    connection.abrupt_shutdown(h2::Reason::INADEQUATE_SECURITY);
                    cut.as_mut().reset(tokio::time::Instant::now() + FAR);
                }
                () = &mut silent => return,
            }
        }
    }

    /// Puts the handshake into the books, once: which zones it was for is known with the first connection.
    fn count(&self, edge: Option<&Edge>) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            self.shared.books.shook_hands(Direction::Inbound, edge.cloned(), None);
        }
    }

    /// The peer has broken HTTP/2's rules: what it had is lost, and somebody should know why.
    fn breaks(&self, error: &h2::Error) {
        let ends = (self.client, self.local);
        let refused = Record::refused(Direction::Inbound, ends, Instant::now(), end::http2(error));
        self.shared.books.refuse(Record { client_name: Some(self.peer.facts.name.clone()), ..refused });
    }

    /// One connection in it.
    async fn connection(self: Arc<Self>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        // As in `outbound`: in silence there is room for the rest alone.
        if let Some(carried) = Box::pin(self.begin(request, respond)).await {
            Box::pin(carried.carry()).await;
        }
    }

    async fn begin(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Box<Carried<N>>> {
        let began = waited::since(request.headers());
        // Before the question: a change that comes after the answer is not missed.
        let ear = Ear::new(&self.shared.news);
        let entered = self.shared.gate.enter(Guest::Connection, || self.shared.node.resident());
        let reached = match entered {
            Ok(permit) => self.reach(&request, began).await.map(|reached| (permit, reached)),
            Err(refusal) => Err((StatusCode::SERVICE_UNAVAILABLE, None, None, refusal)),
        };
        let (permit, (destination, program, flow)) = match reached {
            Ok(reached) => reached,
            Err((status, destination, edge, refusal)) => {
                if edge.is_some() {
                    self.count(edge.as_ref());
                }
                answer(&mut respond, status, &refusal.text);
                let ends = (self.client, destination.unwrap_or(self.local));
                let client_name = Some(self.peer.facts.name.clone());
                let refused = Record::refused(Direction::Inbound, ends, began, refusal);
                self.shared.books.refuse(Record { client_name, edge, ..refused });
                return None;
            }
        };
        self.count(Some(&flow.edge));
        socket::hold(&program);
        let send = respond.send_response(Response::new(()), false).ok()?;
        let stream = Stream { send, receive: request.into_body() };
        let parties = Parties {
            direction: Direction::Inbound,
            client: self.client,
            destination,
            names: (self.peer.facts.name.clone(), self.own.clone()),
            edge: flow.edge,
            audited: flow.audited,
        };
        let entry = self.shared.books.begin(parties, began);
        let max_age = flow.max_age;
        Some(Box::new(Carried {
            tunnel: self,
            program,
            destination,
            max_age,
            stream,
            entry,
            ear,
            _permit: permit,
        }))
    }

    async fn still_allowed(&self, destination: SocketAddr) -> Result<(), Refusal> {
        let name = &self.peer.facts.name;
        let (node, now) = (&self.shared.node, Instant::now());
        let allowed = node.inbound(self.place, name, self.client.ip(), destination, now).await;
        allowed.map(drop).map_err(Refusal::from)
    }

    /// Asks whether it may, and dials the program.
    async fn reach(
        &self,
        request: &Request<RecvStream>,
        began: Instant,
    ) -> Result<
        (SocketAddr, TcpStream, crate::Inbound),
        (StatusCode, Option<SocketAddr>, Option<Edge>, Refusal),
    > {
        let bad = |text: String| (StatusCode::BAD_REQUEST, None, None, Refusal::new(reason::TARGET, text));
        if request.method() != Method::CONNECT {
            return Err(bad(format!("{} is not CONNECT: nothing else is served here", request.method())));
        }
        let authority = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let destination: SocketAddr = authority.parse().map(socket::plain).map_err(|_| {
            bad(format!("`{authority}` is no address with a port, as 10.0.0.1:80 or [fd00::1]:80"))
        })?;
        if destination.ip() != self.local.ip() {
            return Err(bad(format!(
                "{destination} is not the address that was dialled, {}",
                self.local.ip()
            )));
        }
        if crate::FORBIDDEN.contains(&destination.port())
            || destination.port() == self.shared.settings.tunnel_port
        {
            return Err(bad(format!("port {} is the proxies' own", destination.port())));
        }
        let name = &self.peer.facts.name;
        let (node, from) = (&self.shared.node, self.client.ip());
        let allowed = node.inbound(self.place, name, from, destination, began).await;
        let flow = allowed.map_err(|denied| {
            (StatusCode::UNAUTHORIZED, Some(destination), denied.edge.clone(), denied.into())
        })?;
        let unreachable = |text: String| {
            let refusal = Refusal::new(reason::PROGRAM, text);
            (StatusCode::SERVICE_UNAVAILABLE, Some(destination), Some(flow.edge.clone()), refusal)
        };
        let made = node.last_hop_socket(self.place, from, flow.mark, began).await;
        let made = made.map_err(|error| unreachable(format!("no socket for the last hop: {error}")))?;
        let program = socket::connect(made, Some(from), destination, self.shared.settings.dial).await;
        let program = program.map_err(|error| {
            unreachable(format!("the program at {destination} cannot be reached: {error}"))
        })?;
        Ok((destination, program, flow))
    }
}

impl<N: Node> Carried<N> {
    /// Carries its bytes until the end.
    async fn carry(mut self: Box<Self>) {
        let end = self.relay().await;
        relay::finish(self.program, self.stream, self.entry, end);
    }

    async fn relay(&mut self) -> End {
        let Tunnel { shared, peer, expires, .. } = &*self.tunnel;
        let (keeper, ear) = (&shared.keeper, &mut self.ear);
        let mut watch = Watch { keeper, peer, ear, expires: *expires, max_age: self.max_age };
        let chunk = shared.settings.chunk;
        let relay = pin!(relay::run(&mut self.program, &mut self.stream, &self.entry, chunk));
        watch.over(relay, || self.tunnel.still_allowed(self.destination)).await
    }
}

/// Says no, and why.
fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode, text: &str) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Ok(mut send) = respond.send_response(response, false) {
        // Whoever has gone does not hear.
        let _ = send.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
    }
}
