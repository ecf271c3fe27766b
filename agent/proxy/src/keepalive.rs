//! PINGs (RFC 9113, section 6.7): a peer that has gone without a word is found out.

use std::time::Duration;

use h2::{Ping, PingPong};

/// Pings until an answer fails to come; returns then. A connection without PINGs (somebody took them) lives
/// without.
pub(crate) async fn until_silent(pings: Option<PingPong>, every: Duration, patience: Duration) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        match tokio::time::timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, which whoever drives it will find.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
