//! A Workload API to follow: a server of our own that speaks its gRPC, written from the specification
//! (SPIFFE Workload API, section 5; gRPC over HTTP/2).

use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_credentials::source::{Event, Place, Settings, Supply};
use bulkhead_credentials::{Credentials, Der};
use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::common::{Authority, DOMAIN, name, uri};

/// How long something that must happen may take on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);

/// What the server answers at the moment: a message, or a status.
#[derive(Clone)]
enum Answer {
    Message(Vec<u8>),
    Denied,
}

struct Server {
    answer: watch::Sender<Answer>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(socket: &Path, answer: Answer) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, receiver) = watch::channel(answer);
        let task = tokio::spawn(async move {
            // With its streams, so that all end with this.
            let mut streams = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let receiver = receiver.clone();
                streams.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let mut calls = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        calls.spawn(call(request, respond, receiver.clone()));
                    }
                });
            }
        });
        Self { answer: sender, task }
    }

    fn say(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    mut answers: watch::Receiver<Answer>,
) {
    assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(request.headers()["workload.spiffe.io"], "true");
    let answer = answers.borrow_and_update().clone();
    let head = Response::builder().header("content-type", "application/grpc");
    let Answer::Message(mut message) = answer else {
        let head =
            head.header("grpc-status", "7").header("grpc-message", "no identity issued").body(()).unwrap();
        respond.send_response(head, true).unwrap();
        return;
    };
    let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
    loop {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(&message);
        body.send_data(frame.into(), false).unwrap();
        if answers.changed().await.is_err() {
            return;
        }
        let answer = answers.borrow_and_update().clone();
        match answer {
            Answer::Message(next) => message = next,
            Answer::Denied => {
                let mut end = HeaderMap::new();
                end.insert("grpc-status", "7".parse().unwrap());
                end.insert("grpc-message", "no identity issued".parse().unwrap());
                body.send_trailers(end).unwrap();
                return;
            }
        }
    }
}

/// `X509SVIDResponse` with these, of protocol buffers.
fn message(svids: &[&Credentials], root: &Authority) -> Answer {
    let mut response = Vec::new();
    for credentials in svids {
        let key: Vec<u8> = serde_json::from_slice(&serde_json::to_vec(&credentials.key).unwrap()).unwrap();
        let chain: Vec<u8> = credentials.chain.iter().flat_map(Der::as_bytes).copied().collect();
        let mut svid = Vec::new();
        field(&mut svid, 1, credentials.name.as_str().as_bytes());
        field(&mut svid, 2, &chain);
        field(&mut svid, 3, &key);
        field(&mut svid, 4, root.der.as_bytes());
        field(&mut response, 1, &svid);
    }
    Answer::Message(response)
}

fn field(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        to.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    to.push(u8::try_from(length).unwrap());
    to.extend(bytes);
}

fn supply(socket: PathBuf) -> Supply {
    let lifetime = Duration::ZERO;
    Supply::new(Settings { domain: DOMAIN.to_owned(), place: Place::WorkloadApi(socket), lifetime })
}

async fn next(supply: &mut Supply) -> Event {
    tokio::time::timeout(PATIENT, supply.next()).await.expect("nothing happens")
}

#[tokio::test]
async fn what_the_workload_api_gives_is_shown_replaced_and_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let mut supply = supply(socket.clone());
    let Event::Trouble(text) = next(&mut supply).await else { panic!("no server, and no trouble") };
    assert!(text.contains("api.sock") && text.contains("does the server run"), "{text}");

    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let (first, other) = (root.intermediate("spire").leaf(&web), root.leaf(&db));
    let server = Server::start(&socket, message(&[&first, &other], &root));
    let bundle = loop {
        match next(&mut supply).await {
            Event::Bundle(bundle) => break bundle,
            Event::Trouble(_) => {}
            event => panic!("{event:?}"),
        }
    };
    assert_eq!((bundle.domain.as_str(), bundle.roots), (DOMAIN, vec![root.der.clone()]));
    assert_eq!(next(&mut supply).await, Event::Credentials(first.clone()));
    assert_eq!(next(&mut supply).await, Event::Credentials(other.clone()));

    // A new certificate for one, the same for the other: one event.
    let second = root.leaf(&web);
    server.say(message(&[&second, &other], &root));
    assert_eq!(next(&mut supply).await, Event::Credentials(second.clone()));

    // One that peers would refuse: the one before stays.
    let expired = root.leaf_with(&web, |params| params.not_after = params.not_before);
    server.say(message(&[&expired, &other], &root));
    let Event::Trouble(text) = next(&mut supply).await else { panic!("taken") };
    assert!(text.contains("expired"), "{text}");
    assert_eq!(supply.keeper().shown().len(), 2);

    // A name that is none of ours is told and left.
    let foreign =
        root.leaf_with(&db, |params| params.subject_alt_names = vec![uri("spiffe://example.org/six")]);
    server.say(message(&[&second, &other, &foreign], &root));
    let text = loop {
        match next(&mut supply).await {
            Event::Trouble(text) => break text,
            Event::Credentials(credentials) => assert_eq!(credentials, second),
            event => panic!("{event:?}"),
        }
    };
    assert!(text.contains("left out") && text.contains("spiffe://example.org/six"), "{text}");

    // Gone at the server, gone here.
    server.say(message(&[&second], &root));
    assert_eq!(next(&mut supply).await, Event::Gone(db));

    // A server that refuses, and one that is new: what is shown stays, and what is new is taken.
    server.say(Answer::Denied);
    let Event::Trouble(text) = next(&mut supply).await else { panic!("no trouble") };
    assert!(text.contains("register an entry"), "{text}");
    assert_eq!(supply.keeper().shown().len(), 1);
    drop(server);
    let third = root.leaf(&web);
    let _server = Server::start(&socket, message(&[&third], &root));
    loop {
        match next(&mut supply).await {
            Event::Credentials(credentials) => break assert_eq!(credentials, third),
            Event::Trouble(_) => {}
            event => panic!("{event:?}"),
        }
    }
}
