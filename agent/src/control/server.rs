//! The agent's end of the control socket.
//!
//! Two gates keep others out: the socket's mode, and the peer's user as the kernel tells it. A request
//! that is too long, too slow or not understood is answered with an error and nothing is done.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::protocol::{Reply, Request};

/// Longest request in bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// Time for the request to arrive whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the answer to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at a time; more wait.
const CONNECTIONS: usize = 16;

/// Whoever knows the answers. May block.
pub trait Answers: Send + Sync + 'static {
    /// The lines of the answer, without the last, or why there is none.
    fn answer(&self, request: Request) -> Result<Vec<Reply>, String>;
}

/// Listens at `path`, for this process's user alone. The instance's lock must be held.
pub fn listen(path: &Path) -> Result<StdListener, bulkhead_sys::Error> {
    bulkhead_sys::unix::listen(path)
}

/// Serves until it is dropped. Only peers that run as `uid` are heard.
pub async fn serve(listener: StdListener, uid: u32, answers: Arc<dyn Answers>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting a control connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            if let Err(error) = converse(stream, uid, answers).await {
                tracing::debug!(%error, "a control connection broke");
            }
            drop(place);
        });
    }
}

async fn converse(stream: UnixStream, uid: u32, answers: Arc<dyn Answers>) -> std::io::Result<()> {
    let admitted = bulkhead_sys::unix::peer_with_uid(&stream, uid);
    let (read, mut write) = stream.into_split();
    // Read even where it is not heard: closing on unread bytes would reset the answer away.
    let request = request(read).await;
    let answer = match (admitted, request) {
        (Err(error), _) => {
            tracing::warn!(%error, "somebody was refused at the control socket");
            Err(error.to_string())
        }
        (Ok(_), Err(message)) => Err(message),
        (Ok(_), Ok(request)) => tokio::task::spawn_blocking(move || answers.answer(request))
            .await
            .unwrap_or_else(|error| Err(error.to_string())),
    };
    let replies = match answer {
        Ok(mut replies) => {
            replies.push(Reply::Done);
            replies
        }
        Err(message) => vec![Reply::Error { message }],
    };
    let mut text = Vec::new();
    for reply in &replies {
        serde_json::to_writer(&mut text, reply)?;
        text.push(b'\n');
    }
    tokio::time::timeout(ANSWER_TIMEOUT, write.write_all(&text)).await??;
    write.shutdown().await
}

async fn request(read: impl tokio::io::AsyncRead + Unpin) -> Result<Request, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX));
    tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line))
        .await
        .map_err(|_| "the request did not arrive in time; send one JSON line".to_owned())?
        .map_err(|error| format!("the request could not be read: {error}"))?;
    if !line.ends_with('\n') {
        return Err(format!("the request is not one line of at most {REQUEST_MAX} bytes"));
    }
    serde_json::from_str(&line).map_err(|error| {
        format!("the request was not understood: {error}; is this command as old as the running agent?")
    })
}
