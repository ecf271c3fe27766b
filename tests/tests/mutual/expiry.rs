//! Certificates that end while connections live: these go on unless their rule sets a `max_age`, and nothing new
//! is carried under them, also not in a tunnel that is open.

use std::path::Path;
use std::time::Duration;

use bulkhead_tests::harness::{Dial, Peer, Program, Socket, wait_until};

use crate::lab::{DB, Lab, SOON, WEB, ZONES, at, traced, wait_traced};
use crate::peers::{Stranger, forge_short};
use crate::require_python;
use crate::strangers::{Library, begin};

/// Its rule sets a `max_age`.
const AGEING: u16 = 7000;
/// Its rule sets none.
const AGELESS: u16 = 7001;
/// Of the certificates here: long enough that a busy machine has made its connections before.
const LIFE: Duration = Duration::from_secs(25);

fn policy() -> String {
    let rule = |port: u16, more: &str| {
        format!(
            "[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/{port}\"]\ntls = \"mutual\"\n{more}\n"
        )
    };
    format!("{ZONES}{}{}", rule(AGEING, "max_age = \"1s\""), rule(AGELESS, ""))
}

fn echoes(lab: &Lab) {
    for port in [AGEING, AGELESS] {
        lab.db.tcp_echo(at(DB, port)).unwrap();
    }
}

fn speaks(peer: &Peer, socket: &Socket) -> bool {
    peer.exchange(socket, 1, SOON).is_ok()
}

/// A stranger that carries `local` to one port of ours, in one tunnel.
fn carries(lab: &Lab, stranger: &Stranger, shows: &Path, local: u16, port: u16) -> Program {
    let words = [&format!("127.0.0.1:{local}"), DB, &shows.to_string_lossy(), &at(DB, port).to_string()];
    begin(stranger, lab.web_ns(), &Library::Nghttp2.launch().and(["client"]).and(words))
}

/// What others show us.
#[test]
fn a_peer_whose_certificate_has_expired_opens_nothing_new() {
    require_python!();
    let lab = Lab::new(2, &policy());
    echoes(&lab);
    let stranger = Stranger::new();
    let beside = Peer::spawn(Some(lab.web_ns()), Some(stranger.cgroup())).unwrap();
    // Built before the clock runs.
    let _ = Library::Nghttp2.launch();
    let shows = forge_short(&lab, &stranger, "web", LIFE);
    let _tunnels =
        [(9000, AGEING), (9001, AGELESS)].map(|(local, port)| carries(&lab, &stranger, &shows, local, port));
    let dial = |local: u16| beside.connect(&Dial::tcp(at("127.0.0.1", local))).unwrap();
    let [ageing, ageless] = [9000, 9001].map(|local| {
        let socket = dial(local);
        assert!(speaks(&beside, &socket), "its certificate is good: {:#?}", traced(lab.far()));
        socket
    });

    let ended = wait_traced(lab.far(), "the old one is ended", |record| record.outcome == "too-old");
    assert_eq!((ended.destination, ended.direction.as_str()), (at(DB, AGEING), "inbound"));
    assert!(ended.text.contains("max_age"), "{}", ended.text);
    assert!(!speaks(&beside, &ageing), "it has ended for the client, too");
    assert!(speaks(&beside, &ageless), "nothing says how old it may become");

    // The tunnel carries what it did; what is new needs another one, for which the certificate is too old.
    assert!(!speaks(&beside, &dial(9001)), "an expired certificate opened a connection");
    assert!(speaks(&beside, &ageless), "it still goes on");
    let told = stranger.knock(&lab, DB, Some(&shows), &at(DB, AGELESS).to_string(), "");
    assert_eq!(told.status, None, "{told:?}");
    let refused = wait_traced(lab.far(), "the next tunnel is refused", |record| record.reason == "expired");
    assert_eq!(refused.client.ip(), at(WEB, 0).ip());
    assert!(
        traced(lab.far())
            .iter()
            .all(|record| record.outcome != "too-old" || record.destination == ended.destination)
    );
}

/// What is shown to us.
#[test]
fn a_server_whose_certificate_has_expired_is_sent_nothing_new() {
    require_python!();
    let lab = Lab::near_only(&policy());
    echoes(&lab);
    let stranger = Stranger::new();
    let _ = Library::Nghttp2.launch();
    let shows = forge_short(&lab, &stranger, "db", LIFE);
    let words = [&at(DB, 15008).to_string(), &*shows.to_string_lossy()];
    let server = Library::Nghttp2.launch().and(["server"]).and(words);
    let _server = begin(&stranger, lab.db_ns(), &server);
    let dial = |port: u16| lab.web.connect(&Dial::tcp(at(DB, port)).within(SOON));
    let [ageing, ageless] = [AGEING, AGELESS].map(|port| {
        let socket = dial(port).unwrap();
        assert!(speaks(&lab.web, &socket), "its certificate is good: {:#?}", traced(lab.near()));
        socket
    });

    let ended = wait_traced(lab.near(), "the old one is ended", |record| record.outcome == "too-old");
    assert_eq!((ended.destination, ended.direction.as_str()), (at(DB, AGEING), "outbound"));
    assert!(!speaks(&lab.web, &ageing), "it has ended for the client, too");
    assert!(speaks(&lab.web, &ageless), "nothing says how old it may become");

    for port in [AGEING, AGELESS] {
        let carried = dial(port).is_ok_and(|socket| speaks(&lab.web, &socket));
        assert!(!carried, "a connection was opened to an expired certificate");
    }
    let refused = || traced(lab.near()).iter().filter(|record| record.reason == "expired").count() >= 2;
    wait_until(SOON, "both were refused for it", refused).unwrap();
    assert!(speaks(&lab.web, &ageless), "it still goes on");
}
