//! `bulkhead-peer`: opens sockets on request, in the cgroup and network namespace it was put into.
//!
//! `bulkhead-peer [--cgroup PATH] [--netns PATH]` reads requests on standard input and writes
//! responses on standard output (see `harness::protocol`); each request has a thread of its own.
//! It ends with its standard input, so it never outlives the test. An error in the set-up is
//! printed, and nothing is served from a wrong place.
//!
//! With `--activated` it is a program that was started for a socket: it answers as an echo on the
//! listening socket that is its standard error.

mod load;
mod ping;
mod play;
mod serve;
mod sockets;
mod talk;
mod tricks;

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::protocol::{Answer, Call, Failure, Request, Response};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sockets::{Fault, Sockets};

fn main() -> ExitCode {
    match set_up() {
        Ok(false) => obey(),
        Ok(true) => tricks::serve_inherited(),
        Err(error) => {
            eprintln!("bulkhead-peer: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Goes where the command line says, before there is any other thread or socket. Whether it was
/// started for a socket.
fn set_up() -> Result<bool> {
    let mut arguments = std::env::args_os().skip(1);
    let mut activated = false;
    while let Some(option) = arguments.next() {
        if option == "--activated" {
            activated = true;
            continue;
        }
        let value = arguments.next().with_context(|| format!("{} needs a path", option.display()))?;
        match option.to_str() {
            Some("--cgroup") => join_cgroup(Path::new(&value))?,
            Some("--netns") => {
                let file = File::open(&value).with_context(|| format!("cannot open {}", value.display()))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            _ => bail!("unknown option {}", option.display()),
        }
    }
    Ok(activated)
}

fn join_cgroup(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.procs"), "0").with_context(|| format!("cannot join {}", path.display()))
}

fn obey() {
    let output = Arc::new(Mutex::new(std::io::stdout()));
    say(&output, "ready");
    let sockets = Arc::new(Sockets::default());
    for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
        let request: Request = match serde_json::from_str(&line) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("bulkhead-peer: {error} in {line}");
                continue;
            }
        };
        let (output, sockets) = (Arc::clone(&output), Arc::clone(&sockets));
        std::thread::spawn(move || {
            let response = answer(&sockets, request);
            match serde_json::to_string(&response) {
                Ok(text) => say(&output, &text),
                Err(error) => eprintln!("bulkhead-peer: {error}"),
            }
        });
    }
}

fn say(output: &Mutex<std::io::Stdout>, line: &str) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody reads any more: standard input ends too, and with it this process.
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}

fn answer(sockets: &Sockets, request: Request) -> Response {
    let started = Instant::now();
    let result = call(sockets, request.call, started).map_err(|fault| {
        let Fault { cause, done } = fault;
        Failure { cause, elapsed_us: micros(started.elapsed()), done }
    });
    Response { id: request.id, result }
}

fn call(sockets: &Sockets, call: Call, started: Instant) -> Result<Answer, Fault> {
    let after = |timeout_ms: u64| started + Duration::from_millis(timeout_ms);
    match call {
        Call::Listen { kind, at, serve } => sockets.listen(kind, at, serve, started),
        Call::Open { kind, bind, v6 } => sockets.open(kind, bind, v6, started),
        Call::Connect { kind, to, bind, v6, fast_open, timeout_ms } => {
            let socket = sockets::connect(kind, to, bind, v6, fast_open.as_deref(), after(timeout_ms))?;
            sockets.keep(socket, kind, started)
        }
        Call::Dial { socket, to, timeout_ms } => sockets.dial(socket, to, after(timeout_ms), started),
        Call::Accept { socket, timeout_ms } => sockets.accept(socket, after(timeout_ms), started),
        Call::Send { socket, data, to } => talk::send(&*sockets.get(socket)?, &data, to).map(Answer::Sent),
        Call::Recv { socket, max, timeout_ms } => {
            let (data, from) = talk::recv(&*sockets.get(socket)?, max, after(timeout_ms))?;
            Ok(Answer::Data { data, from })
        }
        Call::Exchange { socket, count, size, to, timeout_ms } => {
            let limit = Duration::from_millis(timeout_ms);
            talk::exchange(&*sockets.get(socket)?, count, size, to, limit).map(Answer::Exchanged)
        }
        Call::Stream { socket, duration_ms, timeout_ms } => {
            let limit = Duration::from_millis(timeout_ms);
            load::stream(&sockets.get(socket)?, after(duration_ms), limit).map(Answer::Streamed)
        }
        Call::Ended { socket, timeout_ms } => {
            talk::ended(&*sockets.get(socket)?, after(timeout_ms), started).map(Answer::Ended)
        }
        Call::Ping { to, bind, raw, count, size, timeout_ms } => {
            let limit = Duration::from_millis(timeout_ms);
            ping::ping(to.ip(), bind.map(|bind| bind.ip()), raw, (count, size), limit).map(Answer::Exchanged)
        }
        Call::ConnectLoop { kind, targets, v6, exchange, duration_ms, timeout_ms } => {
            let (until, limit) = (after(duration_ms), Duration::from_millis(timeout_ms));
            load::connect_loop(kind, &targets, v6, exchange, until, limit).map(Answer::Loop)
        }
        Call::Capture => sockets.keep_packet(bulkhead_sys::packet::capture(), started),
        Call::Captured { socket, marker, timeout_ms } => {
            let data = talk::captured(&*sockets.get(socket)?, &marker, after(timeout_ms))?;
            Ok(Answer::Data { data, from: None })
        }
        Call::Wire { interface, bypass } => {
            let any = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            let index = name_to_index(&any, &interface)?;
            sockets.keep_packet(bulkhead_sys::packet::sender(index, bypass), started)
        }
        Call::Disconnect { socket } => {
            rustix::net::connect_unspec(&sockets.get(socket)?.fd)?;
            Ok(Answer::Done)
        }
        Call::SendFrom { socket, data, to, source } => {
            tricks::send_from(&*sockets.get(socket)?, &data, to, source).map(Answer::Sent)
        }
        Call::Hand { socket, path, timeout_ms } => {
            tricks::hand(&*sockets.get(socket)?, &path, after(timeout_ms)).map(|()| Answer::Done)
        }
        Call::Take { path, kind, timeout_ms } => {
            sockets.keep(tricks::take(&path, after(timeout_ms))?, kind, started)
        }
        Call::Activate { socket, cgroup } => {
            tricks::activate(&*sockets.get(socket)?, &cgroup).map(|()| Answer::Done)
        }
        Call::Ring { kind, to, data, timeout_ms } => {
            tricks::ring(kind, to, data, Duration::from_millis(timeout_ms)).map(|()| Answer::Done)
        }
        Call::Play { opening, script, timeout_ms } => {
            play::play(sockets, opening, &script, after(timeout_ms))
        }
        Call::Served { socket } => Ok(Answer::Served(sockets.get(socket)?.served.counts())),
        Call::Close { socket, reset } => sockets.close(socket, reset).map(|()| Answer::Done),
        Call::JoinCgroup { path } => {
            join_cgroup(&path).map_err(|error| Fault::wrong(format!("{error:#}"))).map(|()| Answer::Done)
        }
    }
}

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
