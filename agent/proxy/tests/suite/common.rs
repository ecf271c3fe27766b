//! Two nodes on loopback: an authority, a proxy for the client's side and one for the server's, and a
//! [`Node`] that answers as the test tells it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead_credentials::authority::RootFolder;
use bulkhead_credentials::{
    Bundle, Credentials, Keeper, SpiffeId, certificates_from_pem, key_from_pem, lists_from_pem,
};
use bulkhead_proxy::{Denied, Edge, Inbound, Kind, Mark, Node, Outbound, Place, Proxy, Record, Settings};
use bytes::Bytes;
use rustix::net::{AddressFamily, SocketType};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;

pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const PLACE: Place = Place(1);
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn name(account: &str) -> SpiffeId {
    SpiffeId::new("example.org", "host", account).unwrap()
}

pub fn edge() -> Edge {
    Edge { from: "web".into(), to: "db".into(), rule: "policies/shop.toml:31".into() }
}

/// Waits for `future`, and not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Waits until `holds`.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(reached.await.is_ok(), "never: {what}");
}

/// An authority on disk.
pub struct Authority {
    folder: TempDir,
    root: RootFolder,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = RootFolder::init(&folder.path().join("ca"), "example.org", 30).unwrap();
        Self { folder, root }
    }

    fn bundle(&self) -> Bundle {
        let read = |file: &str| std::fs::read(self.folder.path().join("ca").join(file));
        let lists = read("crl.pem").map(|pem| lists_from_pem(&pem).unwrap()).unwrap_or_default();
        Bundle {
            domain: "example.org".into(),
            roots: certificates_from_pem(&read("ca.crt").unwrap()).unwrap(),
            lists,
        }
    }

    /// A folder with `tls.crt`, `tls.key` and `ca.crt` of `account`.
    pub fn files(&self, account: &str) -> TempDir {
        let within = tempfile::tempdir().unwrap();
        let out = within.path().join("out");
        self.root.issue_workload(&name(account), 1, &out).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            std::fs::rename(out.join(file), within.path().join(file)).unwrap();
        }
        within
    }

    /// A keeper that shows `account`, and believes this authority.
    pub fn keeper(&self, account: &str) -> Keeper {
        let out = self.files(account);
        let keeper = Keeper::new();
        keeper.believe(self.bundle()).unwrap();
        let read = |file: &str| std::fs::read(out.path().join(file)).unwrap();
        let credentials = Credentials {
            name: name(account),
            chain: certificates_from_pem(&read("tls.crt")).unwrap(),
            key: key_from_pem(&read("tls.key")).unwrap(),
        };
        keeper.install(&credentials).unwrap();
        keeper
    }

    /// Revokes what `keeper` shows, and tells `believers`.
    pub fn revoke(&self, keeper: &Keeper, believers: &[&Keeper]) {
        self.root.revoke(&keeper.shown()[0].serial).unwrap();
        for believer in believers {
            believer.believe(self.bundle()).unwrap();
        }
    }
}

/// What the fake node answers.
#[derive(Clone)]
pub struct Answers {
    pub outbound: Result<Outbound, Denied>,
    pub inbound: Result<Inbound, Denied>,
    pub name: Result<Option<SpiffeId>, Denied>,
    /// How long the answer to [`Answers::outbound`] takes.
    pub slow: Duration,
}

pub struct FakeNode {
    answers: Mutex<Answers>,
    changes: watch::Sender<u64>,
    /// The longest that a connection had waited which was asked to be let in.
    waited: Mutex<Duration>,
}

impl FakeNode {
    pub fn waited(&self) -> Duration {
        *self.waited.lock().unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
        self.changes.send_modify(|generation| *generation += 1);
    }

    fn answers(&self) -> Answers {
        self.answers.lock().unwrap().clone()
    }
}

fn socket() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

impl Node for FakeNode {
    async fn outbound(&self, _: Place, _: SocketAddr, _: Instant) -> Result<Outbound, Denied> {
        let Answers { outbound, slow, .. } = self.answers();
        tokio::time::sleep(slow).await;
        outbound
    }

    async fn inbound(
        &self,
        _: Place,
        _: &SpiffeId,
        _: IpAddr,
        _: SocketAddr,
        since: Instant,
    ) -> Result<Inbound, Denied> {
        let mut waited = self.waited.lock().unwrap();
        *waited = waited.max(since.elapsed());
        drop(waited);
        self.answers().inbound
    }

    async fn name_of(&self, _: Place, _: IpAddr, _: Instant) -> Result<Option<SpiffeId>, Denied> {
        self.answers().name
    }

    async fn tunnel_socket(&self, _: Place, from: IpAddr, _: Mark, _: Instant) -> io::Result<OwnedFd> {
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
        Ok(socket)
    }

    async fn last_hop_socket(&self, _: Place, _: IpAddr, _: Mark, _: Instant) -> io::Result<OwnedFd> {
        socket()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

pub fn denied(text: &str) -> Denied {
    Denied { reason: "no-rule", text: text.into(), edge: Some(edge()) }
}

/// One node: its proxy and what it is told.
pub struct End {
    pub proxy: Proxy<FakeNode>,
    pub node: Arc<FakeNode>,
    pub keeper: Keeper,
    pub records: mpsc::Receiver<Record>,
    /// Where its listener is.
    pub at: SocketAddr,
}

impl End {
    fn start(kind: Kind, keeper: Keeper, answers: Answers, settings: impl FnOnce(u16) -> Settings) -> Self {
        let (answers, waited) = (Mutex::new(answers), Mutex::default());
        let node = Arc::new(FakeNode { answers, changes: watch::Sender::new(0), waited });
        let (ended, records) = mpsc::channel(100_000);
        // With the standard library's queue of 128, a thousand at once overflow it: with SYN cookies such a
        // client believes that it is connected, and nobody knows of it.
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        listener.bind(SocketAddr::new(LOCAL, 0)).unwrap();
        let listener = listener.listen(4096).unwrap().into_std().unwrap();
        let at = listener.local_addr().unwrap();
        let proxy = Proxy::new(Arc::clone(&node), keeper.clone(), settings(at.port()), ended);
        proxy.listen(PLACE, kind, listener).unwrap();
        Self { proxy, node, keeper, records, at }
    }

    /// The receiving node.
    pub fn server(authority: &Authority, settings: Settings) -> Self {
        let inbound = Inbound { edge: edge(), max_age: None, mark: Mark::default(), audited: None };
        let answers = Answers {
            outbound: Err(denied("not here")),
            inbound: Ok(inbound),
            name: Ok(Some(name("db"))),
            slow: Duration::ZERO,
        };
        Self::start(Kind::Tunnel, authority.keeper("db"), answers, |port| Settings {
            tunnel_port: port,
            ..settings
        })
    }

    /// The dialling node: what it takes in wants to go to `destination`, by way of `tunnel`.
    pub fn client(
        authority: &Authority,
        destination: SocketAddr,
        tunnel: SocketAddr,
        settings: Settings,
    ) -> Self {
        let outbound = Outbound {
            destination,
            own: name("web"),
            expected: vec![name("db")],
            edge: edge(),
            max_age: None,
            mark: Mark::default(),
        };
        let answers = Answers {
            outbound: Ok(outbound),
            inbound: Err(denied("not here")),
            name: Ok(Some(name("web"))),
            slow: Duration::ZERO,
        };
        Self::start(Kind::Capture, authority.keeper("web"), answers, |_| Settings {
            tunnel_port: tunnel.port(),
            ..settings
        })
    }

    pub async fn record(&mut self) -> Record {
        soon(self.records.recv()).await.expect("a record")
    }

    pub async fn dial(&self) -> TcpStream {
        soon(TcpStream::connect(self.at)).await.unwrap()
    }

    /// Dials, and is reset: mostly after the connection stands, at times before we know that it does.
    pub async fn is_refused(&self) {
        let error = match soon(TcpStream::connect(self.at)).await {
            Ok(mut near) => soon(near.read(&mut [0; 1])).await.expect_err("neither bytes nor an orderly end"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// How many connections live.
    pub fn open(&self) -> usize {
        self.proxy.connections().len()
    }
}

/// Both nodes, and where the program listens.
pub struct Pair {
    pub authority: Authority,
    pub client: End,
    pub server: End,
    pub program: TcpListener,
}

impl Pair {
    pub async fn new() -> Self {
        Self::with(Settings::default(), Settings::default()).await
    }

    pub async fn with(client: Settings, server: Settings) -> Self {
        let authority = Authority::new();
        let program = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let server = End::server(&authority, server);
        let client = End::client(&authority, program.local_addr().unwrap(), server.at, client);
        Self { authority, client, server, program }
    }

    /// A connection through both, and its far end.
    pub async fn connect(&self) -> (TcpStream, TcpStream) {
        let near = self.client.dial().await;
        let (far, _) = soon(self.program.accept()).await.unwrap();
        (near, far)
    }
}

/// A peer made by hand: HTTP/2 over mutual TLS, driven in the background.
pub async fn by_hand(keeper: &Keeper, own: &str, at: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let tls = TlsConnector::from(keeper.client(&name(own)).unwrap());
    let stream = soon(TcpStream::connect(at)).await.unwrap();
    let tls = soon(tls.connect(LOCAL.into(), stream)).await.unwrap();
    let (requests, connection) = soon(h2::client::handshake(tls)).await.unwrap();
    tokio::spawn(connection);
    soon(requests.ready()).await.unwrap()
}

/// Asks for `target`: the status, and the text that came with it.
pub async fn ask(requests: &mut h2::client::SendRequest<Bytes>, target: &str) -> (u16, String) {
    let request = http::Request::connect(target).body(()).unwrap();
    let (answer, _send) = requests.send_request(request, false).unwrap();
    let answer = soon(answer).await.unwrap();
    let status = answer.status().as_u16();
    let mut text = Vec::new();
    let mut body = answer.into_body();
    if status != 200 {
        while let Some(Ok(bytes)) = soon(body.data()).await {
            text.extend_from_slice(&bytes);
        }
    }
    (status, String::from_utf8(text).unwrap())
}
