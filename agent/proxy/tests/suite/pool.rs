//! Tunnels are shared, dialled once, and left when their peer goes.

use std::time::Duration;

use bulkhead_proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Authority, End, LOCAL, Pair, name, soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_dial_no_more_than_they_need() {
    let pair = Pair::new().await;
    let at = pair.client.at;
    let dials: Vec<_> = (0..1000).map(|_| tokio::spawn(TcpStream::connect(at))).collect();
    let mut near = Vec::new();
    for dial in dials {
        near.push(soon(dial).await.unwrap().unwrap());
    }
    let mut far = Vec::new();
    for _ in 0..1000 {
        far.push(soon(pair.program.accept()).await.unwrap().0);
    }
    until("all are open", || pair.client.open() == 1000).await;
    let stats = pair.client.proxy.stats();
    assert_eq!((stats.made(), stats.tunnels), (10, 10), "a hundred connections to a tunnel");
    assert_eq!(pair.server.proxy.stats().made(), 10);
    drop((near, far));
    until("all are closed", || pair.client.open() == 0 && pair.server.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_carries_nothing_is_closed() {
    let idle = Settings { idle: Duration::from_millis(300), ..Settings::default() };
    let pair = Pair::with(idle, Settings::default()).await;
    let (near, far) = pair.connect().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pair.client.proxy.stats().tunnels, 1, "not while it carries something");
    drop((near, far));
    until("it is closed", || pair.client.proxy.stats().tunnels == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_keeps_what_it_has_and_gets_nothing_new() {
    let authority = Authority::new();
    let server = authority.keeper("db");
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    // Each tunnel echoes, and says GOAWAY after its first connection.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tokio_rustls::TlsAcceptor::from(server.server(&name("db")).unwrap());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tls.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(bytes)) = body.data().await {
                            let _ = body.flow_control().release_capacity(bytes.len());
                            send.send_data(bytes, false).unwrap();
                        }
                    });
                    connection.graceful_shutdown();
                }
            });
        }
    });
    let client = End::client(&authority, at, at, Settings::default());
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = client.dial().await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
        streams.push(stream);
        // GOAWAY may take a moment; what crosses it must work all the same, which the next turn shows.
    }
    for stream in &mut streams {
        stream.write_all(b"y").await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'y', "the elder ones live on");
    }
    assert!(client.proxy.stats().made() >= 2, "{:?}", client.proxy.stats().made());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_do_not_read_leave_the_tunnel_to_others() {
    let pair = Pair::new().await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let (near, mut far) = pair.connect().await;
        let writing = tokio::spawn(async move {
            let piece = vec![0; 1 << 20];
            while far.write_all(&piece).await.is_ok() {}
        });
        stalled.push((near, writing));
    }
    // Until none of them can write any more.
    let sent = || pair.server.proxy.connections().iter().map(|live| live.received).sum::<u64>();
    let mut before = 0;
    while sent() != before || before == 0 {
        before = sent();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (mut near, mut far) = pair.connect().await;
    let mut heard = vec![0; 1 << 20];
    let (said, read) =
        soon(async { tokio::join!(far.write_all(&[7; 1 << 20]), near.read_exact(&mut heard)) }).await;
    said.unwrap();
    read.unwrap();
    assert!(heard.iter().all(|byte| *byte == 7));
    assert_eq!(pair.client.proxy.stats().tunnels, 1, "they do share a tunnel");
    for (_, writing) in stalled {
        writing.abort();
    }
}

/// A peer that takes few streams at a time (RFC 9113, section 5.1.2), also before it could say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tunnel_carries_more_than_its_peer_takes() {
    const TAKES: u32 = 3;
    const AT_ONCE: usize = 20;
    let authority = Authority::new();
    let server = authority.keeper("db");
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tokio_rustls::TlsAcceptor::from(server.server(&name("db")).unwrap());
            tokio::spawn(async move {
                let tls = tls.accept(stream).await.unwrap();
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(TAKES);
                let mut connection = builder.handshake::<_, bytes::Bytes>(tls).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    send.send_data("x".into(), false).unwrap();
                    open.push((request, send));
                }
            });
        }
    });
    let mut client = End::client(&authority, at, at, Settings::default());
    for round in 1..=2 {
        let dials: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(TcpStream::connect(client.at))).collect();
        let mut streams = Vec::new();
        for dial in dials {
            let mut stream = soon(dial).await.unwrap().unwrap();
            let heard = soon(stream.read_u8()).await;
            assert!(heard.is_ok(), "round {round}: {:?}", client.records.try_recv());
            streams.push(stream);
        }
        let tunnels = AT_ONCE.div_ceil(TAKES as usize) as u64;
        assert_eq!(client.proxy.stats().tunnels, tunnels, "as many tunnels as it takes");
        for stream in streams {
            stream.set_zero_linger().unwrap();
        }
        until("all are closed", || client.open() == 0).await;
    }
}
