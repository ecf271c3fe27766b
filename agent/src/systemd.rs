//! What the service manager is told (sd_notify(3)): ready, reloading, status, still alive.
//!
//! Without `NOTIFY_SOCKET` every call does nothing. A message that cannot be sent is dropped: the
//! agent's work never depends on who watches it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        Self::new(var("NOTIFY_SOCKET"), var("WATCHDOG_USEC"), var("WATCHDOG_PID"))
    }

    /// A notifier that talks to nobody.
    pub fn silent() -> Self {
        Self { to: None, watchdog: None }
    }

    fn new(socket: Option<String>, usec: Option<String>, pid: Option<String>) -> Self {
        let to = socket.and_then(|path| {
            let address = match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&path),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = usec
            .filter(|_| ours)
            .and_then(|usec| usec.parse().ok())
            .filter(|&usec: &u64| usec > 0)
            .map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// How often [`Notifier::alive`] should be called: half of what the manager waits for.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The policy is enforced.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}\n"));
    }

    /// A reload that was asked for by a signal begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self, monotonic: Duration) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic.as_micros()));
    }

    /// The daemon stops; enforcement does not.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopped, enforcement stays on\n");
    }

    /// The reconcile loop turned once more.
    pub fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(buffer.get(..length).unwrap()).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.display().to_string()), Some("4000000".into()), None);
        notifier.ready("generation 3");
        assert_eq!(received(&manager), "READY=1\nSTATUS=generation 3\n");
        notifier.alive();
        assert_eq!(received(&manager), "WATCHDOG=1\n");
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn messages_arrive_at_an_abstract_name() {
        let name = format!("bulkhead-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(Some(format!("@{name}")), None, None);
        notifier.stopping();
        assert!(received(&manager).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let notifier = Notifier::new(None, Some("1000000".into()), Some("1".into()));
        assert_eq!(notifier.watchdog_interval(), None);
        notifier.alive();
    }
}
