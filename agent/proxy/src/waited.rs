//! How long a connection has waited at the client's node, told to the server's in a header of its CONNECT: both
//! together have so much time for their agents' answers, and not each of them.
//!
//! Others send no such header, and their proxies take no notice of it. Whoever writes too much into it has less
//! patience for himself.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

/// Milliseconds, as a decimal number.
pub(crate) const HEADER: &str = "bulkhead-waited";
/// Less is not worth a word.
const LEAST: Duration = Duration::from_millis(50);
/// More than this is not believed: nobody has patience for more anyway.
const MOST: Duration = Duration::from_secs(1);

/// What is told of a connection that began at `since`, if anything.
pub(crate) fn told(since: Instant) -> Option<HeaderValue> {
    let waited = since.elapsed();
    let told = u64::try_from(waited.min(MOST).as_millis()).unwrap_or(u64::MAX);
    (waited >= LEAST).then(|| HeaderValue::from(told))
}

/// When a connection began that came with these headers.
pub(crate) fn since(headers: &HeaderMap) -> Instant {
    let told = headers.get(HEADER).and_then(|told| told.to_str().ok()?.parse().ok());
    let waited = told.map_or(Duration::ZERO, Duration::from_millis).min(MOST);
    let now = Instant::now();
    now.checked_sub(waited).unwrap_or(now)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn waited(value: &str) -> Duration {
        let headers = [(HEADER.try_into().unwrap(), value.parse().unwrap())];
        since(&HeaderMap::from_iter(headers)).elapsed()
    }

    #[test]
    fn what_was_waited_is_told_and_believed_up_to_a_bound() {
        let begun = Instant::now().checked_sub(Duration::from_millis(400)).unwrap();
        let long = told(begun).unwrap();
        assert!(waited(long.to_str().unwrap()) >= Duration::from_millis(400));
        assert_eq!(told(Instant::now() + MOST), None);
        assert!(since(&HeaderMap::new()).elapsed() < MOST);
        for (value, least) in
            [("18446744073709551615", MOST), ("-1", Duration::ZERO), ("soon", Duration::ZERO)]
        {
            assert!((least..least + MOST).contains(&waited(value)), "{value}");
        }
    }
}
