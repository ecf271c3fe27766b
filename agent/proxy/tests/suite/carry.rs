//! Bytes arrive as they were sent, and ends as they were meant.

use bulkhead_proxy::{Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Pair, name, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_may_say_its_last_word_first() {
    let mut pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(far.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "question");
    far.write_all(b"a late answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(near.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "a late answer");

    let (mut near, mut far) = pair.connect().await;
    far.write_all(b"220 the server speaks first").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(near.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "220 the server speaks first");
    near.write_all(b"and still listens").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(far.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "and still listens");

    for (sent, received) in [(8, 13), (17, 27)] {
        let (out, into) = (pair.client.record().await, pair.server.record().await);
        for record in [&out, &into] {
            assert_eq!((record.sent, record.received), (sent, received), "{record:?}");
            assert_eq!(record.outcome, Some(Outcome::Closed), "{record:?}");
            assert_eq!(record.client_name, Some(name("web")));
            assert_eq!(record.server_name, Some(name("db")));
        }
        assert_eq!((out.direction, into.direction), (Direction::Outbound, Direction::Inbound));
    }
    assert_eq!(pair.client.proxy.stats().made(), 1, "both went by one tunnel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_arrives_whole_both_ways_at_once() {
    const LENGTH: usize = 48 << 20;
    let pair = Pair::new().await;
    let (near, far) = pair.connect().await;
    let pattern = |seed: usize| move |at: usize| (at.wrapping_mul(seed) >> 7) as u8;
    let work = |stream: tokio::net::TcpStream, says: usize, hears: usize| async move {
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            let mut at = 0;
            while at < LENGTH {
                // Pieces of uneven length, so that no boundary falls together with another.
                let length = (1 + at % 100_003).min(LENGTH - at);
                let piece: Vec<u8> = (at..at + length).map(pattern(says)).collect();
                write.write_all(&piece).await.unwrap();
                at += length;
            }
            write.shutdown().await.unwrap();
        });
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        loop {
            let length = read.read(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            let expected = (at..at + length).map(pattern(hears));
            assert!(buffer[..length].iter().copied().eq(expected), "wrong bytes after {at}");
            at += length;
        }
        assert_eq!(at, LENGTH);
        writing.await.unwrap();
    };
    let both = async { tokio::join!(work(near, 31, 37), work(far, 37, 31)) };
    tokio::time::timeout(std::time::Duration::from_secs(120), both).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_on_one_side_is_one_on_the_other() {
    let mut pair = Pair::new().await;
    for from_client in [true, false] {
        let (mut near, mut far) = pair.connect().await;
        near.write_all(b"x").await.unwrap();
        far.write_all(b"y").await.unwrap();
        soon(far.read_u8()).await.unwrap();
        soon(near.read_u8()).await.unwrap();
        let (broken, mut other) = if from_client { (near, far) } else { (far, near) };
        broken.set_zero_linger().unwrap();
        drop(broken);
        let error = soon(other.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "from_client: {from_client}");
        for record in [pair.client.record().await, pair.server.record().await] {
            assert_eq!(record.outcome, Some(Outcome::Reset), "{record:?}");
        }
    }
}

/// Whoever has said all and goes on listening may still break off: the other one must not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_after_the_last_word_is_one_on_the_other_side() {
    let mut pair = Pair::new().await;
    for from_client in [true, false] {
        let (near, far) = pair.connect().await;
        let (mut broken, mut other) = if from_client { (near, far) } else { (far, near) };
        broken.write_all(b"all").await.unwrap();
        broken.shutdown().await.unwrap();
        let mut heard = String::new();
        soon(other.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "all");
        broken.set_zero_linger().unwrap();
        drop(broken);
        soon(other.ready(tokio::io::Interest::ERROR)).await.unwrap();
        for record in [pair.client.record().await, pair.server.record().await] {
            assert_eq!(record.outcome, Some(Outcome::Reset), "from_client: {from_client}, {record:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_connections() {
    const EACH: usize = 400;
    const WORKERS: usize = 25;
    let pair = Pair::new().await;
    let at = pair.client.at;
    let program = pair.program;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = program.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(async move {
            for turn in 0..EACH {
                let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
                let said = format!("{worker} says {turn}");
                stream.write_all(said.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut heard = String::new();
                soon(stream.read_to_string(&mut heard)).await.unwrap();
                assert_eq!(heard, said);
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    crate::common::until("all are closed", || pair.client.open() == 0 && pair.server.open() == 0).await;
    let stats = pair.client.proxy.stats();
    assert_eq!((stats.edges[0].2.connections, stats.made(), stats.lost), (10_000, 1, 0));
    assert_eq!(pair.server.proxy.stats().edges[0].2.first_byte.last().unwrap().1, 10_000);
}
