//! A tunnel that we dialled: TLS 1.3 with both certificates checked, and HTTP/2 in it.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bulkhead_credentials::{HandshakeError, Keeper, Moment, Peer, SpiffeId, Usage};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Version};
use rustls::pki_types::ServerName;
use tokio::sync::watch as watch_of;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::books::Direction;
use crate::end::{self, Refusal, reason};
use crate::keepalive;
use crate::node::{Edge, Mark, Node, Place};
use crate::proxy::Shared;
use crate::relay::Stream;
use crate::settings::Settings;
use crate::socket;
use crate::waited;
use crate::watch;
use crate::wire::Wire;

/// Longest text of the other proxy that is quoted, in bytes.
const QUOTED: usize = 512;
/// What stands for the number of streams that the peer takes until it has told; nobody can tell so many.
const UNTOLD: usize = usize::MAX - 1;

/// Where a tunnel leads, and as whom: those who agree in all of it may share one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Route {
    pub(crate) place: Place,
    /// The name that is shown.
    pub(crate) own: SpiffeId,
    /// Names of which the peer must show one.
    pub(crate) expected: Vec<SpiffeId>,
    /// The client's address, from which it is dialled.
    pub(crate) from: IpAddr,
    /// The server's address.
    pub(crate) to: IpAddr,
    pub(crate) mark: Mark,
}

/// An open tunnel. Its connection is driven by a task of its own, which ends when nobody holds this any
/// more and no stream is open.
pub(crate) struct Tunnel {
    requests: SendRequest<Bytes>,
    pub(crate) peer: Arc<Peer>,
    /// The last second of the first of its two certificates.
    pub(crate) expires: Moment,
    /// The keeper's count of changes when the peer was last found good.
    believed: AtomicU64,
    streams: AtomicUsize,
    /// Whether the peer has told how many it takes.
    told: watch_of::Receiver<bool>,
    closed: Arc<AtomicBool>,
    /// Why it was lost, once it is.
    lost: Arc<Mutex<Option<Refusal>>>,
    used: Mutex<Instant>,
}

/// One of the streams that a tunnel may carry; given back when dropped.
pub(crate) struct Lease(pub(crate) Arc<Tunnel>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Tunnel {
    /// Dials.
    pub(crate) async fn dial<N: Node>(
        shared: &Shared<N>,
        route: &Route,
        edge: &Edge,
        since: Instant,
    ) -> Result<Arc<Self>, Refusal> {
        let Shared { keeper, settings, books, .. } = shared;
        // Before the handshake: a change during it is one to ask about.
        let believed = *keeper.changes().borrow();
        let dialled = Self::shake_hands(shared, route, since).await;
        let failed = dialled.as_ref().err().map(|refusal| refusal.reason);
        books.shook_hands(Direction::Outbound, Some(edge.clone()), failed);
        let (connection, requests, peer) = dialled?;
        books.tunnel_opened();
        let (telling, heard) = watch_of::channel(false);
        let tunnel = Arc::new(Self {
            requests,
            expires: watch::expiry(keeper, &route.own, &peer),
            peer,
            believed: AtomicU64::new(believed),
            streams: AtomicUsize::new(0),
            told: heard,
            closed: Arc::default(),
            lost: Arc::default(),
            used: Mutex::new(Instant::now()),
        });
        let (closed, lost) = (Arc::clone(&tunnel.closed), Arc::clone(&tunnel.lost));
        let (settings, books) = (settings.clone(), books.clone());
        tokio::spawn(async move {
            let refusal = drive(connection, &settings, telling).await;
            *lost.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
            closed.store(true, Ordering::Release);
            books.tunnel_closed();
        });
        Ok(tunnel)
    }

    async fn shake_hands<N: Node>(
        shared: &Shared<N>,
        route: &Route,
        since: Instant,
    ) -> Result<(Connection<TlsStream<Wire>>, SendRequest<Bytes>, Arc<Peer>), Refusal> {
        let Shared { node, keeper, settings, .. } = shared;
        let config = keeper.client(&route.own)?;
        let at = SocketAddr::new(route.to, settings.tunnel_port);
        let made = node.tunnel_socket(route.place, route.from, route.mark, since).await;
        let made = made.map_err(|error| {
            Refusal::new(reason::SOCKET, format!("no socket to dial {at} from {}: {error}", route.from))
        })?;
        let stream = socket::connect(made, None, at, settings.dial).await.map_err(|error| {
            Refusal::new(
                reason::UNREACHABLE,
                format!(
                    "cannot dial the other node's proxy at {at}: {error}; does a proxy run there, and does \
                     everything between let port {} through?",
                    at.port()
                ),
            )
        })?;
        let shaken =
            TlsConnector::from(config).connect(ServerName::IpAddress(route.to.into()), Wire::new(stream));
        let mut tls = tokio::time::timeout(settings.handshake, shaken)
            .await
            .map_err(|_| slow(at))?
            .map_err(|error| Refusal::from(HandshakeError::from_io(&error)).at(at))?;
        end::speaks_http2(tls.get_ref().1.alpn_protocol()).map_err(|refusal| refusal.at(at))?;
        let chain = tls.get_ref().1.peer_certificates();
        let peer = keeper.peer(chain, Usage::Server, Some(&route.expected)).map_err(Refusal::from)?;
        tls.get_mut().1.set_buffer_limit(Some(settings.unsent));
        let handshake = h2::client::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.tunnel_window)
            .max_frame_size(settings.frame)
            .max_header_list_size(16 << 10)
            .max_send_buffer_size(settings.unsent)
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .handshake(tls);
        let (requests, connection) = tokio::time::timeout(settings.handshake, handshake)
            .await
            .map_err(|_| slow(at))?
            .map_err(|error| end::http2(&error).at(at))?;
        Ok((connection, requests, Arc::new(peer)))
    }

    /// Takes one of its streams, if there is one left: of `most`, and of those that the peer takes. Before it has
    /// told how many these are there is one.
    pub(crate) fn lease(self: &Arc<Self>, most: usize) -> Option<Lease> {
        if self.is_closed() {
            return None;
        }
        let most = if self.has_told() { most.min(self.requests.current_max_send_streams()) } else { 1 };
        let taken = self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| {
            (streams < most).then_some(streams + 1)
        });
        taken.is_ok().then(|| Lease(Arc::clone(self)))
    }

    /// Whether the peer has told how many streams it takes.
    pub(crate) fn has_told(&self) -> bool {
        *self.told.borrow()
    }

    /// Waits until it has, or is gone.
    pub(crate) async fn told(&self) {
        // Whoever is gone tells nothing more.
        let _ = self.told.clone().wait_for(|told| *told).await;
    }

    /// Whether its peer is still believed; asked again only after certificates or lists have changed.
    pub(crate) fn is_believed(&self, keeper: &Keeper) -> bool {
        let now = *keeper.changes().borrow();
        if self.believed.load(Ordering::Acquire) == now {
            return true;
        }
        let believed = keeper.recheck(&self.peer).is_ok();
        if believed {
            self.believed.store(now, Ordering::Release);
        }
        believed
    }

    /// Whether it can carry no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nobody is to be given it any more.
    pub(crate) fn retire(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether it has carried nothing for so long.
    pub(crate) fn is_idle(&self, settings: &Settings) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Relaxed) == 0 && used.elapsed() >= settings.idle
    }

    /// Opens a stream to `destination`. `Err(None)`: the tunnel is going, and nothing was asked; try another.
    pub(crate) async fn connect(
        &self,
        destination: SocketAddr,
        (client, since): (SocketAddr, Instant),
        settings: &Settings,
    ) -> Result<Stream, Option<Refusal>> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(destination.to_string())
            .header("forwarded", format!("for=\"{client}\""))
            .body(())
            .map_err(|error| Some(Refusal::new(reason::PROTOCOL, error.to_string())))?;
        if let Some(waited) = waited::told(since) {
            request.headers_mut().insert(waited::HEADER, waited);
        }
        let mut requests = self.requests.clone().ready().await.map_err(|_| None)?;
        let (response, send) = requests.send_request(request, false).map_err(|_| None)?;
        let response = match tokio::time::timeout(settings.answer, response).await {
            Ok(Ok(response)) => response,
            // It was not even looked at (RFC 9113, section 8.7).
            Ok(Err(error)) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => return Err(None),
            Ok(Err(error)) if error.is_go_away() && error.is_remote() => return Err(None),
            Ok(Err(error)) => {
                let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(Some(lost.unwrap_or_else(|| end::http2(&error))));
            }
            Err(_) => {
                let text = format!("the other node's proxy did not answer within {:?}", settings.answer);
                return Err(Some(Refusal::new(reason::SLOW, text)));
            }
        };
        let status = response.status();
        let receive = response.into_body();
        // Any of them says that the tunnel is there (RFC 9110, section 9.3.6).
        if status.is_success() {
            return Ok(Stream { send, receive });
        }
        Err(Some(refused(status, destination, send, receive).await))
    }
}

/// What the other proxy says, in our words and its own.
async fn refused(
    status: StatusCode,
    destination: SocketAddr,
    mut send: SendStream<Bytes>,
    mut receive: RecvStream,
) -> Refusal {
    let said = tokio::time::timeout(std::time::Duration::from_millis(200), receive.data()).await;
    send.send_reset(h2::Reason::CANCEL);
    let said = said.ok().flatten().and_then(Result::ok).unwrap_or_default();
    let said: String = String::from_utf8_lossy(said.get(..said.len().min(QUOTED)).unwrap_or_default())
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    let what = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "the other node's policy refuses it",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            "the program there cannot be reached"
        }
        StatusCode::BAD_REQUEST => "the other node's proxy does not take this target",
        _ => "the other node's proxy refuses it",
    };
    let quote = if said.is_empty() { String::new() } else { format!(": {said}") };
    let reason = if what.contains("program") { reason::PROGRAM } else { reason::REFUSED };
    Refusal::new(reason, format!("{destination}: {what} (status {}){quote}", status.as_u16()))
}

/// Drives a connection until it ends; why, if it did not end well. Tells when the peer's settings have come.
async fn drive(
    mut connection: Connection<TlsStream<Wire>>,
    settings: &Settings,
    telling: watch_of::Sender<bool>,
) -> Option<Refusal> {
    let pings = connection.ping_pong();
    let mut untold = true;
    let driven = poll_fn(|context| {
        let polled = Pin::new(&mut connection).poll(context);
        if untold && connection.max_concurrent_send_streams() != UNTOLD {
            untold = false;
            telling.send_replace(true);
        }
        polled
    });
    tokio::select! {
        ended = driven => ended.err().map(|error| end::http2(&error)),
        () = keepalive::until_silent(pings, settings.ping, settings.pong) => {
            let text = format!("the other node's proxy has been silent for {:?}", settings.pong);
            Some(Refusal::new(reason::SLOW, text))
        }
    }
}

fn slow(at: SocketAddr) -> Refusal {
    Refusal::new(reason::SLOW, format!("the other node's proxy at {at} does not finish its handshake"))
}

impl Refusal {
    fn at(self, at: SocketAddr) -> Self {
        Self { text: format!("the other node's proxy at {at}: {}", self.text), ..self }
    }
}
