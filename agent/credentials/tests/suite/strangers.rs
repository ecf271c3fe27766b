//! OpenSSL and GnuTLS as peers, both ways, over loopback.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_credentials::authority::{NodeFolder, RootFolder};
use bulkhead_credentials::{Keeper, Reason};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::common::{DOMAIN, Found, answered, dialled, name};

/// How long a stranger may take on a busy machine.
const PATIENT: Duration = Duration::from_secs(20);

struct Lab {
    dir: TempDir,
    keeper: Keeper,
}

impl Lab {
    /// A node that shows `db`, and a folder with certificates by hand for `web`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = RootFolder::init(&dir.path().join("ca"), DOMAIN, 10).unwrap();
        root.issue_node("one", 5, &dir.path().join("node")).unwrap();
        root.issue_workload(&name("web"), 5, &dir.path().join("web")).unwrap();
        let node = NodeFolder::open(&dir.path().join("node")).unwrap();
        let keeper = Keeper::new();
        keeper.believe(node.bundle(DOMAIN)).unwrap();
        keeper.install(&node.issuing().workload(&name("db"), 3600).unwrap()).unwrap();
        Self { dir, keeper }
    }

    fn web(&self, file: &str) -> PathBuf {
        self.dir.path().join("web").join(file)
    }

    /// Runs `command` with our end as its server; what we found of it, and what it said.
    async fn serve(&self, command: impl FnOnce(u16) -> Command) -> (Found, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut command = command(listener.local_addr().unwrap().port());
        // Its standard input stays open until it is done: its end would be the connection's.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut stranger = command.spawn().unwrap();
        stranger.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        let found = tokio::time::timeout(PATIENT, async {
            let (tcp, _) = listener.accept().await.unwrap();
            answered(&self.keeper, &name("db"), tcp).await
        });
        let found = found.await.expect("the stranger does not come");
        let output = tokio::task::spawn_blocking(move || stranger.wait_with_output().unwrap()).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (found, String::from_utf8_lossy(&text).into_owned())
    }

    /// Dials `stranger`, which serves on `port`.
    async fn dial(&self, mut stranger: Server) -> Found {
        let begun = std::time::Instant::now();
        let tcp = loop {
            match TcpStream::connect(("127.0.0.1", stranger.port)).await {
                Ok(tcp) => break tcp,
                Err(error) if begun.elapsed() > PATIENT => panic!("the stranger does not listen: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let config = self.keeper.client(&name("db")).unwrap();
        // What it reads from its standard input goes to us.
        let mut input = stranger.child.stdin.take().unwrap();
        input.write_all(b"!!!!\n").unwrap();
        tokio::time::timeout(PATIENT, dialled(&self.keeper, config, tcp)).await.expect("nothing comes")
    }
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(lab: &Lab, command: &str, more: &[&str]) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.arg(command).args(["-alpn", "h2", "-CAfile"]).arg(lab.web("ca.crt")).args(more);
    openssl
}

fn with_own(mut command: Command, lab: &Lab, words: [&str; 2]) -> Command {
    for (word, file) in words.into_iter().zip(["tls.crt", "tls.key"]) {
        command.arg(word).arg(lab.web(file));
    }
    command
}

#[tokio::test]
async fn openssl_comes_in_with_its_certificate_and_believes_ours() {
    let lab = Lab::new();
    let (found, said) = lab
        .serve(|port| {
            let to = format!("127.0.0.1:{port}");
            let client = openssl(&lab, "s_client", &["-tls1_3", "-verify_return_error", "-connect", &to]);
            let mut client = with_own(client, &lab, ["-cert", "-key"]);
            client.arg("-cert_chain").arg(lab.web("tls.crt"));
            client
        })
        .await;
    assert_eq!(found.expect(&said).facts.name, name("web"), "{said}");
    for line in ["Verify return code: 0 (ok)", "ALPN protocol: h2", "TLSv1.3", "ECDSA"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test]
async fn openssl_without_a_certificate_or_tls13_does_not_come_in() {
    let lab = Lab::new();
    for (reason, word) in [(Reason::NoCertificate, "-tls1_3"), (Reason::TlsVersion, "-tls1_2")] {
        let (found, said) = lab
            .serve(|port| openssl(&lab, "s_client", &[word, "-connect", &format!("127.0.0.1:{port}")]))
            .await;
        assert_eq!(found.unwrap_err().reason, reason, "{said}");
    }
}

#[tokio::test]
async fn we_come_in_at_openssl_which_insists_on_our_certificate() {
    let lab = Lab::new();
    let server = openssl(
        &lab,
        "s_server",
        &["-tls1_3", "-Verify", "3", "-verify_return_error", "-accept", "127.0.0.1:0"],
    );
    let mut server = with_own(server, &lab, ["-cert", "-key"]);
    let mut child =
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let port = said_port(&mut child);
    let found = lab.dial(Server { child, port }).await;
    assert_eq!(found.unwrap().facts.name, name("web"));
}

/// The port in OpenSSL's `ACCEPT 127.0.0.1:PORT`.
fn said_port(child: &mut Child) -> u16 {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        if let Some(port) = line.strip_prefix("ACCEPT ").and_then(|address| address.rsplit(':').next()) {
            return port.trim().parse().unwrap();
        }
    }
    panic!("it says no port")
}

fn gnutls(program: &str, lab: &Lab) -> Command {
    let mut gnutls = Command::new(program);
    gnutls
        .args(["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "--alpn", "h2", "--x509cafile"])
        .arg(lab.web("ca.crt"));
    with_own(gnutls, lab, ["--x509certfile", "--x509keyfile"])
}

#[tokio::test]
async fn gnutls_comes_in_with_its_certificate() {
    let lab = Lab::new();
    let (found, said) = lab
        .serve(|port| {
            let mut client = gnutls("gnutls-cli", &lab);
            // Our certificates carry no name of a host, which it would look for.
            client.args(["--insecure", "--port", &port.to_string(), "127.0.0.1"]);
            client
        })
        .await;
    assert_eq!(found.expect(&said).facts.name, name("web"), "{said}");
    assert!(said.contains("Application protocol: h2"), "{said}");
    let status = said.lines().find(|line| line.starts_with("- Status:")).unwrap_or_default();
    assert!(!status.contains("issuer") && !status.contains("expired"), "{said}");
}

#[tokio::test]
async fn we_come_in_at_gnutls_which_insists_on_our_certificate() {
    let lab = Lab::new();
    let port = free_port();
    let mut server = gnutls("gnutls-serv", &lab);
    server.args(["--require-client-cert", "--verify-client-cert", "--echo", "--port", &port.to_string()]);
    let child = server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let config = lab.keeper.client(&name("db")).unwrap();
    let found = echoed(&lab, config, Server { child, port }).await;
    assert_eq!(found.facts.name, name("web"));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a line to a server that echoes it: then it has taken our certificate.
async fn echoed(
    lab: &Lab,
    config: std::sync::Arc<rustls::ClientConfig>,
    stranger: Server,
) -> bulkhead_credentials::Peer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let work = async {
        let tcp = loop {
            match TcpStream::connect(("127.0.0.1", stranger.port)).await {
                Ok(tcp) => break tcp,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let mut tls = tokio_rustls::TlsConnector::from(config).connect(address.into(), tcp).await.unwrap();
        tls.write_all(b"hello\n").await.unwrap();
        let mut line = [0; 6];
        tls.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"hello\n");
        let chain = tls.get_ref().1.peer_certificates();
        lab.keeper.peer(chain, bulkhead_credentials::Usage::Server, None).unwrap()
    };
    tokio::time::timeout(PATIENT, work).await.expect("nothing comes")
}
