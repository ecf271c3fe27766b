//! What a peer or a program may take is bounded.

use std::time::{Duration, Instant};

use bulkhead_proxy::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Pair, soon, until};

fn limited(limits: Limits) -> Settings {
    Settings { limits, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_ended() {
    let quick = Settings { handshake: Duration::from_millis(500), ..Settings::default() };
    let mut pair = Pair::with(Settings::default(), quick).await;
    let mut slow = TcpStream::connect(pair.server.at).await.unwrap();
    let began = Instant::now();
    // The head of a record, and nothing after it.
    slow.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let _ = soon(slow.read_to_end(&mut Vec::new())).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(pair.server.record().await.reason, Some("too-slow"));
    pair.connect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_handshakes_a_second_than_are_set() {
    let few = limited(Limits { handshakes_per_second: 5, ..Limits::default() });
    let mut pair = Pair::with(Settings::default(), few).await;
    let mut all = Vec::new();
    for _ in 0..50 {
        // One that is reset at once may be reset before we know that it stands.
        all.extend(TcpStream::connect(pair.server.at).await);
    }
    let mut refused = 0;
    while refused < 30 {
        let record = pair.server.record().await;
        assert_eq!(record.reason, Some("too-many-handshakes"), "{record:?}");
        refused += 1;
    }
    drop(all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_than_are_set_and_places_come_back() {
    let few = limited(Limits { connections: 3, ..Limits::default() });
    let mut pair = Pair::with(few, Settings::default()).await;
    let mut live = Vec::new();
    for _ in 0..3 {
        live.push(pair.connect().await);
    }
    pair.client.is_refused().await;
    assert_eq!(pair.client.record().await.reason, Some("too-many-connections"));
    drop(live.pop());
    until("one is gone", || pair.client.open() == 2).await;
    // The place comes back with the task, a moment after the record.
    let mut tries = 0;
    loop {
        let waits = async { TcpStream::connect(pair.client.at).await?.read_u8().await };
        if tokio::time::timeout(Duration::from_millis(500), waits).await.is_err() {
            break;
        }
        tries += 1;
        assert!(tries < 500, "the place does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_makes_nobody_hold_much() {
    let pair = Pair::new().await;
    let (near, mut far) = pair.connect().await;
    let piece = vec![0; 1 << 16];
    let mut taken = 0u64;
    // Until a write waits for two seconds.
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(2), far.write(&piece)).await {
        taken += written.unwrap() as u64;
        assert!(taken < 64 << 20, "nothing stops it");
    }
    let read_by_proxy = pair.server.proxy.connections()[0].received;
    // A stream's window, what waits to be sent, and the sockets of the last leg.
    let bound = u64::from(Settings::default().stream_window) + (2 << 20) + (8 << 20);
    assert!(read_by_proxy < bound, "{read_by_proxy} of {taken}");
    drop(near);
    until("it is gone", || pair.server.open() == 0).await;
}

/// Each connection counts at the server's node, too, and not each tunnel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_share_a_tunnel_are_counted_one_by_one() {
    let few = limited(Limits { connections: 3, ..Limits::default() });
    let mut pair = Pair::with(Settings::default(), few).await;
    let mut live = Vec::new();
    for _ in 0..3 {
        live.push(pair.connect().await);
    }
    pair.client.is_refused().await;
    assert_eq!(pair.server.record().await.reason, Some("too-many-connections"));
    let record = pair.client.record().await;
    assert!(record.text.contains("503") && record.text.contains("as are configured"), "{record:?}");
    drop(live.pop());
    // The place comes back a moment after the record.
    pair.server.record().await;
    let mut tries = 0;
    loop {
        let mut near = pair.client.dial().await;
        if tokio::time::timeout(Duration::from_millis(500), near.read_u8()).await.is_err() {
            break;
        }
        tries += 1;
        assert!(tries < 500, "the place does not come back");
    }
}
