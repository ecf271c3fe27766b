//! Who is taken for a peer, and for which reason everybody else is not: handshakes over loopback, each
//! case from both ends.

use std::sync::Arc;

use crate::common::{Authority, answered, bundle, careless, dialled, name, node, shake, uri};
use bulkhead_credentials::{Credentials, HandshakeError, Problem, Reason, SpiffeId, Unfit, Usage};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn two_nodes_of_one_domain_know_each_other_by_name() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let client = node(&root, &root.intermediate("node 1").leaf(&web));
    let server = node(&root, &root.intermediate("node 2").leaf(&db));
    let (server_found, client_found) = shake((&client, &web), (&server, &db)).await;
    assert_eq!(server_found.unwrap().facts.name, db);
    assert_eq!(client_found.unwrap().facts.name, web);
}

#[tokio::test]
async fn a_handshake_is_tls13_with_a_post_quantum_key_exchange_http2_no_sni_and_no_ticket() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let client = node(&root, &root.leaf(&web));
    let server = node(&root, &root.leaf(&db));
    let mut dialling =
        rustls::ClientConnection::new(client.client(&web).unwrap(), "db.example.org".try_into().unwrap())
            .unwrap();
    let mut hello = Vec::new();
    dialling.write_tls(&mut hello).unwrap();
    assert!(!hello.windows(14).any(|window| window == b"db.example.org"), "SNI sent");
    let mut answering = rustls::ServerConnection::new(server.server(&db).unwrap()).unwrap();
    answering.read_tls(&mut hello.as_slice()).unwrap();
    answering.process_new_packets().unwrap();
    while dialling.is_handshaking() || answering.is_handshaking() {
        let mut wire = Vec::new();
        answering.write_tls(&mut wire).unwrap();
        dialling.read_tls(&mut wire.as_slice()).unwrap();
        dialling.process_new_packets().unwrap();
        let mut wire = Vec::new();
        dialling.write_tls(&mut wire).unwrap();
        answering.read_tls(&mut wire.as_slice()).unwrap();
        answering.process_new_packets().unwrap();
    }
    assert_eq!(dialling.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(dialling.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(dialling.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert!(!answering.wants_write(), "a session ticket is waiting to be sent");
}

/// What is wrong with a certificate, and what it is counted under.
struct Case {
    reason: Reason,
    make: fn(&Authority, &SpiffeId) -> Credentials,
}

const fn case(reason: Reason, make: fn(&Authority, &SpiffeId) -> Credentials) -> Case {
    Case { reason, make }
}

fn cases() -> Vec<Case> {
    fn times(from: Duration, to: Duration) -> impl FnOnce(&mut CertificateParams) {
        let now = OffsetDateTime::now_utc();
        move |params| (params.not_before, params.not_after) = (now + from, now + to)
    }
    fn named(names: &[&str]) -> impl FnOnce(&mut CertificateParams) {
        let names: Vec<SanType> = names.iter().map(|name| uri(name)).collect();
        move |params| params.subject_alt_names = names
    }
    vec![
        case(Reason::Expired, |root, name| {
            root.leaf_with(name, times(Duration::hours(-2), Duration::seconds(-2)))
        }),
        case(Reason::NotYetValid, |root, name| {
            root.leaf_with(name, times(Duration::hours(1), Duration::hours(2)))
        }),
        case(Reason::Expired, |root, name| {
            root.intermediate_with("old", times(Duration::hours(-2), Duration::seconds(-2))).leaf(name)
        }),
        case(Reason::UnknownIssuer, |_, name| Authority::root("somebody").leaf(name)),
        case(Reason::BadSignature, |_, name| Authority::root("root").leaf(name)),
        case(Reason::UnknownIssuer, |root, name| {
            // The chain lacks its middle.
            let mut credentials = root.intermediate("node").leaf(name);
            credentials.chain.truncate(1);
            credentials
        }),
        case(Reason::UnknownIssuer, |_, name| {
            // Signed by itself.
            let other = Authority::root("itself");
            let mut credentials = other.leaf(name);
            credentials.chain.push(other.der.clone());
            credentials
        }),
        case(Reason::WrongTrustDomain, |root, name| {
            root.leaf_with(name, named(&["spiffe://elsewhere.org/ns/host/sa/web"]))
        }),
        case(Reason::WrongTrustDomain, |root, name| {
            root.leaf_with(name, named(&["spiffe://example.org.evil.org/ns/host/sa/web"]))
        }),
        case(Reason::TwoNames, |root, name| {
            root.leaf_with(name, named(&[name.as_str(), "spiffe://example.org/ns/host/sa/other"]))
        }),
        case(Reason::TwoNames, |root, name| root.leaf_with(name, named(&[name.as_str(), name.as_str()]))),
        case(Reason::NoName, |root, name| {
            root.leaf_with(name, |params| {
                params.subject_alt_names = vec![SanType::DnsName("web.example.org".try_into().unwrap())];
            })
        }),
        case(Reason::NoName, |root, name| root.leaf_with(name, named(&[]))),
        case(Reason::BadName, |root, name| {
            root.leaf_with(name, named(&["spiffe://example.org/ns/host/sa/web/six"]))
        }),
        case(Reason::BadName, |root, name| {
            root.leaf_with(name, named(&["https://example.org/ns/host/sa/web"]))
        }),
        case(Reason::BadName, |root, name| {
            root.leaf_with(name, named(&["spiffe://Example.org/ns/host/sa/web"]))
        }),
        case(Reason::WrongUsage, |root, name| {
            root.leaf_with(name, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
            })
        }),
        case(Reason::WrongUsage, |root, name| {
            root.leaf_with(name, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement])
        }),
        case(Reason::AuthorityAsLeaf, |root, name| {
            root.leaf_with(name, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
        }),
        case(Reason::AuthorityAsLeaf, |root, name| {
            root.leaf_with(name, |params| {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
            })
        }),
        case(Reason::Constraint, |root, name| root.intermediate("a").intermediate("b").leaf(name)),
        case(Reason::Constraint, |root, name| {
            root.intermediate_with("node", |params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![],
                    excluded_subtrees: vec![GeneralSubtree::DnsName(String::new())],
                });
            })
            .leaf_with(name, |params| {
                params.subject_alt_names.push(SanType::DnsName("bank.example".try_into().unwrap()));
            })
        }),
        case(Reason::Revoked, |root, name| {
            root.leaf_with(name, |params| params.serial_number = Some(SerialNumber::from(666)))
        }),
        case(Reason::Revoked, |root, name| {
            root.intermediate_with("stolen", |params| params.serial_number = Some(SerialNumber::from(666)))
                .leaf(name)
        }),
    ]
}

#[tokio::test]
async fn each_bad_certificate_is_refused_for_its_own_reason_by_both_ends() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let good = node(&root, &root.leaf(&db));
    good.believe(bundle(&[&root], vec![root.list(&[666])])).unwrap();
    for (number, case) in cases().into_iter().enumerate() {
        let bad = (case.make)(&root, &web);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = async {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let config = careless::client(Some(&bad), &[&rustls::version::TLS13]);
            dialled(&good, Arc::new(config), tcp).await
        };
        let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
        let (told, found) = tokio::join!(dial, answer);
        let found = found.expect_err(&format!("case {number}: taken for a client"));
        assert_eq!(found.reason, case.reason, "case {number}, as client: {found}");
        assert_eq!(told.unwrap_err().reason, Reason::RefusedByPeer, "case {number}");

        let dial = async {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            dialled(&good, good.client(&db).unwrap(), tcp).await
        };
        let answer = async {
            let tcp = listener.accept().await.unwrap().0;
            TlsAcceptor::from(Arc::new(careless::server(&bad))).accept(tcp).await.map(|_| ())
        };
        let (found, told) = tokio::join!(dial, answer);
        let found = found.expect_err(&format!("case {number}: taken for a server"));
        assert_eq!(found.reason, case.reason, "case {number}, as server: {found}");
        assert_eq!(
            HandshakeError::from_io(&told.unwrap_err()).reason,
            Reason::RefusedByPeer,
            "case {number}"
        );

        // And we would not show it ourselves.
        let refused = good.install(&bad).unwrap_err();
        assert_eq!(refused.why.reason(), case.reason, "case {number}, as our own: {refused}");
        assert!(good.client(&web).is_err());
    }
}

#[tokio::test]
async fn a_certificate_for_one_use_is_refused_for_the_other() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let good = node(&root, &root.leaf(&db));
    let only = |usage| root.leaf_with(&web, |params| params.extended_key_usages = vec![usage]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (usage, ok) in
        [(ExtendedKeyUsagePurpose::ClientAuth, true), (ExtendedKeyUsagePurpose::ServerAuth, false)]
    {
        let dial = async {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let config = careless::client(Some(&only(usage.clone())), &[&rustls::version::TLS13]);
            dialled(&good, Arc::new(config), tcp).await
        };
        let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
        let found = tokio::join!(dial, answer).1;
        assert_eq!(
            found.map(drop).map_err(|error| error.reason),
            if ok { Ok(()) } else { Err(Reason::WrongUsage) }
        );
        assert_eq!(good.install(&only(usage)).unwrap_err().why.reason(), Reason::WrongUsage);
    }
}

#[tokio::test]
async fn without_a_certificate_or_http2_or_tls_nobody_comes_in() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let good = node(&root, &root.leaf(&db));
    let shown = root.leaf(&web);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut other_protocol = careless::client(Some(&shown), &[&rustls::version::TLS13]);
    other_protocol.alpn_protocols = vec![b"http/1.1".to_vec()];
    let cases = [
        (Reason::NoCertificate, careless::client(None, &[&rustls::version::TLS13])),
        (Reason::NoHttp2, other_protocol),
    ];
    for (reason, config) in cases {
        let dial = async {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            dialled(&good, Arc::new(config), tcp).await
        };
        let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
        let (told, found) = tokio::join!(dial, answer);
        let found = found.unwrap_err();
        assert_eq!(found.reason, reason, "{found}");
        // Nothing was said to it but the refusal.
        assert!(matches!(told.unwrap_err().reason, Reason::RefusedByPeer | Reason::NoHttp2));
    }
    let clear = async {
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n").await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    };
    let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
    assert_eq!(tokio::join!(clear, answer).1.unwrap_err().reason, Reason::NotTls);
    let silent = async { drop(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()) };
    let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
    assert_eq!(tokio::join!(silent, answer).1.unwrap_err().reason, Reason::Closed);
}

#[tokio::test]
async fn a_peer_that_has_only_the_post_quantum_key_exchange_is_understood() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let good = node(&root, &root.leaf(&db));
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let mut config = careless::client(Some(&root.leaf(&web)), &[&rustls::version::TLS13]);
    let mut only = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_cert_resolver(config.client_auth_cert_resolver.clone());
    only.dangerous().set_certificate_verifier(Arc::new(careless::Everybody));
    only.alpn_protocols = std::mem::take(&mut config.alpn_protocols);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = async {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        dialled(&good, Arc::new(only), tcp).await
    };
    let answer = async { answered(&good, &db, listener.accept().await.unwrap().0).await };
    let (server, client) = tokio::join!(dial, answer);
    assert_eq!((server.unwrap().facts.name, client.unwrap().facts.name), (db, web));
}

#[test]
fn a_good_name_that_is_not_expected_is_refused_and_the_text_names_both() {
    let root = Authority::root("root");
    let good = node(&root, &root.leaf(&name("db")));
    let chain: Vec<_> = root
        .leaf(&name("web"))
        .chain
        .iter()
        .map(|der| rustls::pki_types::CertificateDer::from(der.as_bytes().to_vec()))
        .collect();
    assert!(good.peer(Some(&chain), Usage::Server, Some(&[name("api"), name("web")])).is_ok());
    let refused = good.peer(Some(&chain), Usage::Server, Some(&[name("api")])).unwrap_err();
    assert_eq!(refused.reason(), Reason::WrongName);
    let text = refused.to_string();
    assert!(text.contains("spiffe://example.org/ns/host/sa/web") && text.contains("sa/api"), "{text}");
    assert_eq!(good.peer(Some(&chain), Usage::Server, Some(&[])).unwrap_err().reason(), Reason::WrongName);
    assert_eq!(good.peer(None, Usage::Server, None).unwrap_err().problem, Problem::None);
}

#[test]
fn our_own_must_fit_its_key_and_its_name() {
    let root = Authority::root("root");
    let good = node(&root, &root.leaf(&name("db")));
    let mut swapped = root.leaf(&name("web"));
    swapped.key = root.leaf(&name("web")).key;
    assert_eq!(good.install(&swapped).unwrap_err().why, Unfit::KeyOfAnother);
    let mut renamed = root.leaf(&name("web"));
    renamed.name = name("db");
    let serial = good.shown()[0].serial.clone();
    assert_eq!(good.install(&renamed).unwrap_err().why, Unfit::NameOfAnother(name("web")));
    assert_eq!(good.shown()[0].serial, serial, "the one before stays");
}
