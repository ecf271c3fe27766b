//! A live connection is asked about again; and everything can be brought to an end.

use std::time::{Duration, Instant};

use bulkhead_proxy::{Outcome, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Pair, denied, edge, name, soon, until};

/// What the issue allows between a change and the end of what it forbids.
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policy_ends_what_it_forbids_within_a_second() {
    for at_client in [true, false] {
        let mut pair = Pair::new().await;
        let (mut near, mut far) = pair.connect().await;
        until("both know it", || pair.client.open() == 1 && pair.server.open() == 1).await;
        let side = if at_client { &pair.client } else { &pair.server };
        // A change that leaves the right as it is leaves the connection.
        side.node.change(|_| ());
        near.write_all(b"x").await.unwrap();
        soon(far.read_u8()).await.unwrap();

        let began = Instant::now();
        side.node.change(|answers| match at_client {
            true => answers.outbound = Err(denied("the rule is gone")),
            false => answers.inbound = Err(denied("the rule is gone")),
        });
        assert!(soon(near.read_u8()).await.is_err());
        assert!(soon(far.read_u8()).await.is_err());
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        let side = if at_client { &mut pair.client } else { &mut pair.server };
        let record = side.record().await;
        assert_eq!(record.outcome, Some(Outcome::Withdrawn), "{record:?}");
        assert!(record.text.contains("the rule is gone") && record.edge == Some(edge()), "{record:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_name_to_show_or_expect_is_another_connection() {
    let mut pair = Pair::new().await;
    let (mut near, _far) = pair.connect().await;
    until("it is known", || pair.client.open() == 1).await;
    pair.client.node.change(|answers| answers.outbound.as_mut().unwrap().expected = vec![name("other")]);
    assert!(soon(near.read_u8()).await.is_err());
    assert_eq!(pair.client.record().await.outcome, Some(Outcome::Withdrawn));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_is_cut_off_within_a_second() {
    for at_client in [true, false] {
        let mut pair = Pair::new().await;
        let (mut near, mut far) = pair.connect().await;
        until("both know it", || pair.client.open() == 1 && pair.server.open() == 1).await;
        let began = Instant::now();
        match at_client {
            true => pair.authority.revoke(&pair.server.keeper, &[&pair.client.keeper]),
            false => pair.authority.revoke(&pair.client.keeper, &[&pair.server.keeper]),
        }
        assert!(soon(near.read_u8()).await.is_err());
        assert!(soon(far.read_u8()).await.is_err());
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        let side = if at_client { &mut pair.client } else { &mut pair.server };
        let record = side.record().await;
        assert_eq!(record.outcome, Some(Outcome::Revoked), "{record:?}");
        pair.client.is_refused().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_lets_them_finish_and_then_does_not() {
    let mut pair = Pair::new().await;
    let (mut ends, mut its_far) = pair.connect().await;
    let (mut stays, mut far) = pair.connect().await;
    until("both are known", || pair.client.open() == 2 && pair.server.open() == 2).await;
    let draining = pair.server.proxy.drain(Duration::from_secs(3));
    let finishing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        ends.write_all(b"last words").await.unwrap();
        ends.shutdown().await.unwrap();
        let mut heard = String::new();
        soon(its_far.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "last words");
        its_far.shutdown().await.unwrap();
        assert_eq!(soon(ends.read(&mut [0; 1])).await.unwrap(), 0, "an orderly end");
        stays.write_all(b"x").await.unwrap();
        soon(far.read_u8()).await.unwrap();
    };
    let began = Instant::now();
    tokio::join!(draining, finishing);
    assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < Duration::from_secs(10));
    assert!(soon(stays.read_u8()).await.is_err() && soon(far.read_u8()).await.is_err());
    assert_eq!(pair.server.record().await.outcome, Some(Outcome::Closed));
    assert_eq!(pair.server.record().await.outcome, Some(Outcome::Drained));
    assert_eq!(pair.server.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_given_up() {
    let quick = Settings {
        ping: Duration::from_millis(100),
        pong: Duration::from_millis(400),
        ..Settings::default()
    };
    let authority = crate::common::Authority::new();
    // A server that answers one CONNECT and then neither reads nor closes.
    let server = authority.keeper("db");
    let listener = tokio::net::TcpListener::bind((crate::common::LOCAL, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (silent, silence) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(server.server(&name("db")).unwrap());
        let mut connection = h2::server::handshake(tls.accept(stream).await.unwrap()).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let _send = respond.send_response(http::Response::new(()), false).unwrap();
        tokio::select! {
            _ = connection.accept() => {}
            _ = silence => {}
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop((connection, _send));
    });
    let mut client = crate::common::End::client(&authority, at, at, quick);
    let mut near = client.dial().await;
    until("it is open", || client.open() == 1).await;
    let began = Instant::now();
    silent.send(()).unwrap();
    assert!(soon(near.read_u8()).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(client.record().await.outcome, Some(Outcome::TunnelLost));
    serving.abort();
}

/// One connection has so much patience, and not each of its nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_waited_at_one_node_is_told_to_the_other() {
    let pair = Pair::new().await;
    pair.connect().await;
    assert!(pair.server.node.waited() < SECOND, "nothing was waited for");
    pair.client.node.change(|answers| answers.slow = SECOND);
    pair.connect().await;
    assert!(pair.server.node.waited() >= SECOND, "{:?}", pair.server.node.waited());
}
