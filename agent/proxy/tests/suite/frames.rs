//! What the wire lets a peer do and our own library never does, frame by frame (RFC 9113): padding, headers in
//! pieces, frames and settings that nobody knows, ends in unusual places.

use bulkhead_proxy::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{LOCAL, Pair, name, soon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

/// A frame as it came.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A peer that writes what it is told.
struct Raw {
    tls: TlsStream<TcpStream>,
    /// How much the other side takes, of the connection and of the one stream that counts.
    room: [i64; 2],
}

impl Raw {
    async fn dial(pair: &Pair) -> Self {
        let keeper = pair.authority.keeper("web");
        let tls = TlsConnector::from(keeper.client(&name("web")).unwrap());
        let stream = TcpStream::connect(pair.server.at).await.unwrap();
        let tls = soon(tls.connect(LOCAL.into(), stream)).await.unwrap();
        // RFC 9113, section 6.9.2.
        let mut raw = Self { tls, room: [65_535, 65_535] };
        raw.tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw
    }

    /// With settings of every kind: those that nobody knows, and the largest windows that there are.
    async fn greet(&mut self) {
        let mut settings = Vec::new();
        for (id, value) in [
            (1u16, 0u32),
            (2, 0),
            (3, 1000),
            (4, 0x7fff_ffff),
            (5, 1 << 20),
            (9, 1),
            (0x0a0a, 7),
            (0xffff, u32::MAX),
        ] {
            settings.extend(id.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &settings).await;
        self.send(WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes()).await;
        self.send(0x42, 0xff, 0, b"a frame of a kind that does not exist").await;
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.tls.write_all(&frame).await.unwrap();
        self.tls.flush().await.unwrap();
        if kind == DATA {
            self.room.iter_mut().for_each(|room| *room -= payload.len() as i64);
        }
    }

    /// The next frame; what it says of windows is noted, settings and pings are answered.
    async fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        soon(self.tls.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        soon(self.tls.read_exact(&mut payload)).await.unwrap();
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match (frame.kind, frame.stream) {
            (WINDOW_UPDATE, stream) => {
                let more = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                self.room[usize::from(stream != 0)] += more;
            }
            (SETTINGS, _) if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                    self.room[1] += i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap())) - 65_535;
                }
                self.send(SETTINGS, ACK, 0, &[]).await;
            }
            (PING, _) if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
            _ => {}
        }
        frame
    }

    /// The next frame of this kind.
    async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await;
            assert!(frame.kind == kind || frame.kind != GOAWAY, "{frame:?}");
            if frame.kind == kind && (kind != PING || frame.flags & ACK != 0) {
                return frame;
            }
        }
    }

    /// What a stream says until its end.
    async fn rest(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            let frame = self.until(DATA).await;
            heard.extend(frame.payload);
            if frame.flags & END_STREAM != 0 {
                return heard;
            }
        }
    }

    /// A ping is answered, and by that all that was sent before was read.
    async fn ping(&mut self) {
        self.send(PING, 0, 0, b"whoareyo").await;
        let pong = self.until(PING).await;
        assert_eq!((pong.flags, &pong.payload[..]), (ACK, &b"whoareyo"[..]));
    }
}

/// Headers of which nothing is compressed (RFC 7541, section 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "its length is one byte");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// As ambient meshes ask, with all headers that they may send.
fn connect(target: &str) -> Vec<u8> {
    block(&[
        (":method", "CONNECT"),
        (":authority", target),
        ("baggage", "k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web"),
        ("forwarded", "for=\"10.1.2.3:4567\";by=\"[fd00::1]:15008\""),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("bulkhead-waited", "no number at all"),
        ("user-agent", "somebody"),
    ])
}

fn is_200(frame: &Frame) -> bool {
    // The entry of the static table (RFC 7541, appendix A), after what the size of the dynamic one is.
    frame.payload.iter().find(|byte| **byte != 0x20) == Some(&0x88)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_in_pieces_padding_and_what_nobody_knows() {
    const FRAMES: usize = 20_000;
    let pair = Pair::new().await;
    let mut raw = Raw::dial(&pair).await;
    raw.greet().await;
    // Of a stream that is not there yet.
    raw.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 15]).await;
    raw.ping().await;

    let target = pair.program.local_addr().unwrap().to_string();
    let block = connect(&target);
    let (first, rest) = block.split_at(5);
    let (second, third) = rest.split_at(100);
    // Padding of four, a priority, a piece; and two pieces more.
    let mut head = vec![4, 0x80, 0, 0, 0, 200];
    head.extend(first);
    head.extend([0; 4]);
    raw.send(HEADERS, PADDED | WITH_PRIORITY, 1, &head).await;
    raw.send(CONTINUATION, 0, 1, second).await;
    raw.send(CONTINUATION, END_HEADERS, 1, third).await;
    let (mut far, _) = soon(pair.program.accept()).await.unwrap();
    assert!(is_200(&raw.until(HEADERS).await));

    // Padding counts against the windows (section 6.9.1), and must come back with what it came with.
    let reading = tokio::spawn(async move {
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        (far, heard)
    });
    let mut padded = vec![255, b'x'];
    padded.extend([0; 255]);
    for _ in 0..FRAMES {
        while raw.room.iter().any(|room| *room < padded.len() as i64) {
            raw.next().await;
        }
        raw.send(DATA, PADDED, 1, &padded).await;
    }
    raw.send(DATA, PADDED | END_STREAM, 1, &[3, 0, 0, 0]).await;
    let (mut far, heard) = soon(reading).await.unwrap();
    assert!(heard.len() == FRAMES && heard.iter().all(|byte| *byte == b'x'), "{} bytes", heard.len());
    far.write_all(b"an answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, b"an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_say_may_end_with_the_headers() {
    let mut pair = Pair::new().await;
    let mut raw = Raw::dial(&pair).await;
    raw.greet().await;
    let target = pair.program.local_addr().unwrap().to_string();
    raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &connect(&target)).await;
    let (mut far, _) = soon(pair.program.accept()).await.unwrap();
    assert!(is_200(&raw.until(HEADERS).await));
    assert_eq!(soon(far.read(&mut [0; 1])).await.unwrap(), 0, "the end of what the client says");
    far.write_all(b"the time of day").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, b"the time of day");
    assert_eq!(pair.server.record().await.outcome, Some(Outcome::Closed));
}

/// A client that is being stopped: it opens nothing more, and what it has goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_keeps_what_it_has() {
    let mut pair = Pair::new().await;
    let mut raw = Raw::dial(&pair).await;
    raw.greet().await;
    let target = pair.program.local_addr().unwrap().to_string();
    raw.send(HEADERS, END_HEADERS, 1, &connect(&target)).await;
    let (mut far, _) = soon(pair.program.accept()).await.unwrap();
    assert!(is_200(&raw.until(HEADERS).await));
    raw.send(GOAWAY, 0, 0, &[0; 8]).await;
    raw.ping().await;
    raw.send(DATA, 0, 1, b"still here").await;
    let mut heard = [0; 10];
    soon(far.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"still here");
    far.write_all(b"so am I").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, b"so am I");
    raw.send(DATA, END_STREAM, 1, b"").await;
    assert_eq!(soon(far.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(pair.server.record().await.outcome, Some(Outcome::Closed));
}

/// Each breaks its own stream, and the tunnel goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_connect_reaches_nobody_and_costs_its_own_stream() {
    let mut pair = Pair::new().await;
    let mut raw = Raw::dial(&pair).await;
    raw.greet().await;
    let target = pair.program.local_addr().unwrap().to_string();
    let requests = [
        // RFC 9113, section 8.5: neither scheme nor path.
        &[(":method", "CONNECT"), (":authority", &*target), (":scheme", "https"), (":path", "/")][..],
        &[(":method", "CONNECT")],
        &[(":method", "CONNECT"), (":authority", "not an authority")],
    ];
    let mut stream = 1;
    for request in requests {
        raw.send(HEADERS, END_HEADERS, stream, &block(request)).await;
        loop {
            let frame = raw.next().await;
            let refused = frame.kind == HEADERS && !is_200(&frame);
            if frame.stream == stream && (frame.kind == RESET || refused) {
                break;
            }
            assert!(frame.kind != GOAWAY && frame.kind != HEADERS, "{request:?}: {frame:?}");
        }
        stream += 2;
    }
    raw.send(HEADERS, END_HEADERS, stream, &connect(&target)).await;
    let (far, _) = soon(pair.program.accept()).await.unwrap();
    assert!(is_200(&raw.until(HEADERS).await));
    // And a peer that breaks one off.
    raw.send(RESET, 0, stream, &8u32.to_be_bytes()).await;
    let broken = soon(far.ready(tokio::io::Interest::ERROR)).await.unwrap();
    assert!(broken.is_error(), "{broken:?}");
    loop {
        let record = pair.server.record().await;
        if record.outcome != Some(Outcome::Refused) {
            break assert_eq!(record.outcome, Some(Outcome::Reset), "{record:?}");
        }
    }
}
