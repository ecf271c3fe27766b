//! The server: a thread for each connection, which does what the connection's plan says.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::carry::{Came, End, carry, word};
use super::{HEADER, Manner, Notes, PATIENCE, Plan, Told, now};

/// Where it listens, and where it is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    at: SocketAddr,
    /// What became of each connection, appended.
    #[arg(long)]
    notes: PathBuf,
}

/// Serves until it is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let notes = Arc::new(Notes::open(&args.notes)?);
    let listener = TcpListener::bind(args.at).with_context(|| format!("cannot listen on {}", args.at))?;
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let notes = Arc::clone(&notes);
        let serve = move || notes.write(&one(&stream));
        // Without a thread the connection ends.
        let _ = std::thread::Builder::new().stack_size(256 << 10).spawn(serve);
    }
}

fn one(stream: &TcpStream) -> Told {
    let began = now();
    let (plan, came) = match plan(stream) {
        Ok(plan) => (plan, carry(stream, &plan, End::Server)),
        Err(how) => {
            let plan = Plan { id: 0, manner: Manner::Duplex, up: 0, down: 0, pause: 0 };
            (plan, Came { sent: 0, received: 0, how })
        }
    };
    let Came { sent, received, how } = came;
    let Plan { id, manner, up, down, .. } = plan;
    Told { id, manner, up, down, client: false, began, ended: now(), sent, received, how }
}

/// What the client says that it is going to do.
fn plan(mut stream: &TcpStream) -> Result<Plan, String> {
    let mut header = [0; HEADER];
    let _ = stream.set_read_timeout(Some(PATIENCE));
    stream.read_exact(&mut header).map_err(|error| word(&error))?;
    Plan::read(&header).ok_or_else(|| "wrong".to_owned())
}
