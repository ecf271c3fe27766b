//! What must not be is refused, with its reason and a text that says what to do.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_proxy::{Outcome, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use crate::common::{Authority, End, LOCAL, Pair, ask, by_hand, denied, name, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_name_gets_nothing() {
    let mut pair = Pair::new().await;
    pair.client.node.change(|answers| answers.outbound.as_mut().unwrap().expected = vec![name("other")]);
    pair.client.is_refused().await;
    let record = pair.client.record().await;
    assert_eq!((record.outcome, record.reason), (Some(Outcome::Refused), Some("wrong-name")), "{record:?}");
    assert!(record.text.contains("sa/db") && record.text.contains("sa/other"), "{}", record.text);
    assert_eq!(pair.server.open(), 0);

    // Nobody is expected: nobody may answer.
    pair.client.node.change(|answers| answers.outbound.as_mut().unwrap().expected.clear());
    pair.client.is_refused().await;
    assert_eq!(pair.client.record().await.outcome, Some(Outcome::Refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_out_gets_a_reset_and_a_record() {
    let mut pair = Pair::new().await;
    pair.client.node.change(|answers| answers.outbound = Err(denied("nobody turned it in")));
    pair.client.is_refused().await;
    let record = pair.client.record().await;
    assert_eq!((record.reason, &record.text[..]), (Some("no-rule"), "nobody turned it in"));
    assert_eq!(pair.client.proxy.stats().refused[0].2, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_other_policy_says_reaches_this_log() {
    let mut pair = Pair::new().await;
    pair.server.node.change(|answers| answers.inbound = Err(denied("policies/shop.toml:31 allows api only")));
    pair.client.is_refused().await;
    let record = pair.client.record().await;
    assert_eq!(record.reason, Some("refused-by-peer-proxy"), "{record:?}");
    assert!(record.text.contains("401") && record.text.contains("allows api only"), "{}", record.text);
    assert_eq!(pair.server.record().await.reason, Some("no-rule"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_named() {
    let mut pair = Pair::new().await;
    drop(std::mem::replace(&mut pair.program, tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap()));
    pair.client.is_refused().await;
    let record = pair.client.record().await;
    assert_eq!(record.reason, Some("program-unreachable"), "{record:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_proxy_is_named_with_its_port() {
    let authority = Authority::new();
    let nowhere = std::net::TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap();
    let mut client = End::client(&authority, nowhere, nowhere, Settings::default());
    client.is_refused().await;
    let record = client.record().await;
    assert_eq!(record.reason, Some("tunnel-unreachable"), "{record:?}");
    assert!(record.text.contains(&format!("let port {} through", nowhere.port())), "{}", record.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_no_tunnel_leads_to() {
    let mut pair = Pair::new().await;
    let keeper = pair.authority.keeper("web");
    let mut requests = by_hand(&keeper, "web", pair.server.at).await;
    let tunnel = pair.server.at.port();
    for target in [
        "127.0.0.2:80".to_owned(),
        "[::1]:80".to_owned(),
        "localhost:80".to_owned(),
        "127.0.0.1:15001".to_owned(),
        "127.0.0.1:15006".to_owned(),
        "127.0.0.1:15008".to_owned(),
        format!("127.0.0.1:{tunnel}"),
    ] {
        let (status, text) = ask(&mut requests, &target).await;
        assert_eq!(status, 400, "{target}: {text}");
        assert_eq!(pair.server.record().await.reason, Some("bad-target"), "{target}");
    }
    let get = http::Request::get("https://127.0.0.1/").body(()).unwrap();
    let (answer, _) = requests.send_request(get, true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 400);
    let good = pair.program.local_addr().unwrap().to_string();
    assert_eq!(ask(&mut requests, &good).await.0, 200, "and the tunnel goes on");
}

/// That nobody could be asked is told as it is, and not as if there were no name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_could_not_be_asked_for_is_refused_with_the_reason() {
    let mut pair = Pair::new().await;
    pair.server.node.change(|answers| answers.name = Err(denied("nobody is there to ask")));
    pair.client.is_refused().await;
    let record = pair.server.record().await;
    assert_eq!((record.reason, &record.text[..]), (Some("no-rule"), "nobody is there to ask"));
    let mut pair = Pair::new().await;
    pair.server.node.change(|answers| answers.name = Ok(None));
    pair.client.is_refused().await;
    let record = pair.server.record().await;
    assert_eq!(record.reason, Some("no-name"), "{record:?}");
}

/// A client that shows `certificates`, and believes everybody.
async fn shake_hands(
    at: std::net::SocketAddr,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> String {
    #[derive(Debug)]
    struct Anybody(Arc<rustls::crypto::CryptoProvider>);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(at).await.unwrap();
    match soon(TlsConnector::from(Arc::new(config)).connect(LOCAL.into(), stream)).await {
        Ok(mut tls) => {
            soon(tls.read(&mut [0; 1])).await.map(|_| String::new()).unwrap_or_else(|e| e.to_string())
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_or_speaks_something_else() {
    let mut pair = Pair::new().await;
    let at = pair.server.at;
    assert!(shake_hands(at, &[&rustls::version::TLS13]).await.contains("CertificateRequired"));
    let record = pair.server.record().await;
    assert_eq!(record.reason, Some("no-certificate"), "{record:?}");

    let mut clear = TcpStream::connect(at).await.unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await.unwrap();
    let _ = soon(clear.read_to_end(&mut Vec::new())).await;
    let record = pair.server.record().await;
    assert_eq!(record.reason, Some("not-tls"), "{record:?}");

    // A certificate of another authority of the same trust domain.
    let stranger = Authority::new().keeper("web");
    let tls = TlsConnector::from(stranger.client(&name("web")).unwrap());
    let stream = TcpStream::connect(at).await.unwrap();
    assert!(soon(tls.connect(LOCAL.into(), stream)).await.is_err(), "and it does not believe us either");
    assert_eq!(pair.server.record().await.outcome, Some(Outcome::Refused));

    let stats = pair.server.proxy.stats();
    let failed = stats.handshakes.iter().filter(|(.., failed, _)| failed.is_some());
    assert_eq!(failed.map(|(.., count)| count).sum::<u64>(), 3, "{:?}", stats.handshakes);
    assert_eq!(stats.made(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_headers_end_the_tunnel() {
    let mut pair = Pair::new().await;
    let keeper = pair.authority.keeper("web");
    let mut requests = by_hand(&keeper, "web", pair.server.at).await;
    let mut request = http::Request::connect(pair.program.local_addr().unwrap().to_string());
    for number in 0..200 {
        request = request.header(format!("x-{number}"), "y".repeat(1000));
    }
    let sent = requests.send_request(request.body(()).unwrap(), false);
    let refused = match sent {
        Ok((answer, _)) => soon(answer).await.map_or(true, |answer| answer.status() != 200),
        Err(_) => true,
    };
    assert!(refused);
    assert!(tokio::time::timeout(Duration::from_millis(300), pair.program.accept()).await.is_err());
    assert!(pair.server.records.try_recv().map_or(true, |record| record.outcome == Some(Outcome::Refused)));
    drop(requests);
    pair.connect().await;
}
