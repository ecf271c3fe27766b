//! The serving end: as many threads as connections want, each waiting for the next when it is done.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};

use super::pattern::{LAST, PIECE};
use super::{ECHO, Pattern, REQUEST, STREAM};

/// Threads that wait for a connection, at least.
const SPARE: usize = 24;
const STACK: usize = 256 * 1024;

struct Server {
    listener: TcpListener,
    waiting: AtomicUsize,
}

/// Prints `ready` and serves until the process is killed.
pub(super) fn serve(at: SocketAddrV4) -> Result<()> {
    answer(TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?)?;
    println!("ready");
    loop {
        thread::park();
    }
}

/// Serves from now on, in threads of its own.
pub(super) fn answer(listener: TcpListener) -> Result<()> {
    let server = Arc::new(Server { listener, waiting: AtomicUsize::new(0) });
    (0..SPARE).try_for_each(|_| begin(&server))
}

fn begin(server: &Arc<Server>) -> Result<()> {
    let server = Arc::clone(server);
    server.waiting.fetch_add(1, Ordering::Relaxed);
    thread::Builder::new().stack_size(STACK).spawn(move || {
        while let Ok((stream, _)) = server.listener.accept() {
            if server.waiting.fetch_sub(1, Ordering::Relaxed) <= SPARE / 2 {
                let _ = begin(&server);
            }
            let _ = one(stream);
            server.waiting.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

/// A connection that is not as it should be is closed; the asking end says so then.
fn one(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request[..1])?;
    match request[0] {
        ECHO => {
            let mut held = 1;
            loop {
                match stream.read(request.get_mut(held..).unwrap_or_default())? {
                    0 => return Ok(()),
                    count => held += count,
                }
                if held == REQUEST {
                    stream.write_all(&request)?;
                    held = 0;
                }
            }
        }
        STREAM => swallow(stream),
        _ => Ok(()),
    }
}

/// Reads to the end's mark, and answers how many bytes were as they should be.
fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let (pattern, mut buffer, mut good) = (Pattern::new(), vec![0; PIECE], 0);
    loop {
        let count = stream.read(&mut buffer)?;
        let read = buffer.get(..count).unwrap_or_default();
        if read == pattern.at(good, count) && count > 0 {
            good += count as u64;
            continue;
        }
        return match read.split_last() {
            Some((&LAST, rest)) if rest == pattern.at(good, rest.len()) => {
                good += rest.len() as u64;
                stream.write_all(&good.to_le_bytes())
            }
            _ => Ok(()),
        };
    }
}
