//! The other commands' end of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Reply, Request};

/// How long the agent may take for an answer: a reload of a large policy is waited for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}; start one with `bulkhead run`, or name its instance with --cgroup-root or --instance", .0.display())]
    NotRunning(PathBuf),
    /// Not for this user.
    #[error("{} may be opened by root only; run this as root", .0.display())]
    NotRoot(PathBuf),
    /// The agent refused the request, or failed at it.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the agent's answer was cut off: {0}; see whether it still runs with `bulkhead status`")]
    Cut(String),
}

/// A way to the running agent.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The agent that listens at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Asks, and waits for the whole answer.
    pub fn ask(&self, request: &Request) -> Result<Vec<Reply>, ClientError> {
        let mut replies = Vec::new();
        self.each(request, |reply| {
            replies.push(reply);
            Ok(())
        })?;
        Ok(replies)
    }

    /// Asks, and hands each line of the answer over as it arrives; the last one is not handed over.
    pub fn each(
        &self,
        request: &Request,
        mut take: impl FnMut(Reply) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let cut = |error: std::io::Error| ClientError::Cut(error.to_string());
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning(self.path.clone()),
            ErrorKind::PermissionDenied => ClientError::NotRoot(self.path.clone()),
            _ => cut(error),
        })?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(cut)?;
        let mut line = serde_json::to_string(request).map_err(|error| ClientError::Cut(error.to_string()))?;
        line.push('\n');
        stream.write_all(line.as_bytes()).map_err(cut)?;
        stream.shutdown(Shutdown::Write).map_err(cut)?;
        for line in BufReader::new(stream).lines() {
            let line = line.map_err(cut)?;
            match serde_json::from_str(&line).map_err(|error| ClientError::Cut(error.to_string()))? {
                Reply::Done => return Ok(()),
                Reply::Error { message } => return Err(ClientError::Refused(message)),
                reply => take(reply)?,
            }
        }
        Err(ClientError::Cut("it ended early".to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::super::server::{self, Answers};
    use super::*;

    struct Fixed;

    impl Answers for Fixed {
        fn answer(&self, request: Request) -> Result<Vec<Reply>, String> {
            match request {
                Request::Status => Ok(vec![Reply::Status(Box::default())]),
                _ => Err("not today".to_owned()),
            }
        }
    }

    fn serving(uid_offset: u32) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(dir.path()).unwrap().uid() + uid_offset;
        let path = dir.path().join("control.sock");
        let listener = server::listen(&path).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server::serve(listener, uid, Arc::new(Fixed)))
        });
        (dir, Client::new(&path))
    }

    #[test]
    fn an_answer_arrives_whole() {
        let (_dir, client) = serving(0);
        let expected = vec![Reply::Status(Box::default())];
        assert_eq!(client.ask(&Request::Status).unwrap(), expected);
        assert!(
            matches!(client.ask(&Request::Zones), Err(ClientError::Refused(text)) if text == "not today")
        );
    }

    #[test]
    fn another_user_is_refused() {
        let (_dir, client) = serving(1);
        let error = client.ask(&Request::Status).unwrap_err();
        assert!(matches!(&error, ClientError::Refused(text) if text.contains("runs as user")), "{error}");
    }

    #[test]
    fn what_is_no_request_is_answered_with_an_error() {
        let (_dir, client) = serving(0);
        for text in ["nonsense\n", "{\"request\":\"status\"}"] {
            let mut stream = UnixStream::connect(&client.path).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let line = BufReader::new(stream).lines().next().unwrap().unwrap();
            assert!(matches!(serde_json::from_str(&line).unwrap(), Reply::Error { .. }), "{line}");
        }
    }

    #[test]
    fn an_absent_agent_is_told_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&dir.path().join("control.sock"));
        assert!(matches!(client.ask(&Request::Status), Err(ClientError::NotRunning(_))));
    }
}
