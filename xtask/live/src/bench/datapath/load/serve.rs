//! The serving end.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

use super::{CONNECT, DENIED, ECHO, SINK, SMALL, STREAM, TLS_CONNECT, TLS_STREAM, tls};

/// Serves every kind of load; prints `ready`, and a line with the number of datagrams that were read
/// for each line that it is given. Ends with its standard input.
pub(super) fn serve(at: Ipv4Addr) -> Result<()> {
    let streams = TcpListener::bind((at, STREAM))?;
    thread::spawn(move || {
        streams
            .incoming()
            .flatten()
            .for_each(|stream| drop(thread::spawn(|| swallow(stream, u64::to_le_bytes))))
    });
    let connects = TcpListener::bind((at, CONNECT))?;
    thread::spawn(move || connects.incoming().flatten().for_each(answer_once));
    let tls_streams = TcpListener::bind((at, TLS_STREAM))?;
    thread::spawn(move || {
        tls_streams.incoming().flatten().for_each(|stream| {
            drop(thread::spawn(|| greeted(stream).map(|stream| swallow(stream, tls::number))));
        });
    });
    let tls_connects = TcpListener::bind((at, TLS_CONNECT))?;
    thread::spawn(move || {
        tls_connects.incoming().flatten().filter_map(greeted).for_each(answer_once);
    });
    let echoes = TcpListener::bind((at, ECHO))?;
    thread::spawn(move || {
        echoes.incoming().flatten().for_each(|stream| drop(thread::spawn(|| echo(stream))))
    });
    let datagrams = UdpSocket::bind((at, ECHO))?;
    thread::spawn(move || echo_datagrams(&datagrams));
    let sink = UdpSocket::bind((at, SINK))?;
    // Read without waiting: waking a sleeping reader costs more than a packet, and at random.
    sink.set_nonblocking(true)?;
    let (busy, read) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counter = (Arc::clone(&busy), Arc::clone(&read));
    thread::spawn(move || sink_datagrams(&sink, &counter.0, &counter.1));
    // Nobody reads here: what arrives fills the buffer and is dropped.
    let _denied = UdpSocket::bind((at, DENIED))?;

    println!("ready");
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "read on" => busy.store(1, Ordering::Relaxed),
            "read off" => busy.store(0, Ordering::Relaxed),
            _ => {}
        }
        println!("{}", read.load(Ordering::Relaxed));
    }
    Ok(())
}

/// A connection on which hellos were exchanged.
fn greeted(mut stream: TcpStream) -> Option<TcpStream> {
    stream.read_exact(&mut [0; tls::CLIENT_HELLO]).ok()?;
    stream.write_all(&tls::server_hello()).ok()?;
    Some(stream)
}

/// Reads to the end, and answers how many bytes it was, as `number` writes it.
fn swallow<N: AsRef<[u8]>>(mut stream: TcpStream, number: fn(u64) -> N) {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0_u64;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        total += count as u64;
    }
    let _ = stream.write_all(number(total).as_ref());
}

/// Reads a request to its end, answers and closes. The asking end closes first, so that no connection
/// ends in a reset.
fn answer_once(mut stream: TcpStream) {
    let mut request = Vec::with_capacity(SMALL);
    if stream.read_to_end(&mut request).is_ok() {
        let _ = stream.write_all(&request);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; SMALL];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(buffer.get(..count).unwrap_or_default(), from);
    }
}

/// Counts datagrams, by polling while it is told to.
fn sink_datagrams(socket: &UdpSocket, busy: &AtomicU64, read: &AtomicU64) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                read.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) if busy.load(Ordering::Relaxed) == 1 => std::hint::spin_loop(),
            Err(_) => thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}
