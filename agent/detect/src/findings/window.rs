//! Counting over a stretch of time that ends now, in three words of memory.

use std::time::Duration;

use super::time::{Time, millis};

/// How many within the last `span`: whole spans are counted, and of the one before as much as still
/// reaches into the stretch, taken as spread evenly. Off by less than what arrived in one span.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Window {
    span: Duration,
    number: u64,
    current: f64,
    previous: f64,
}

impl Window {
    /// Nothing was counted yet.
    pub(crate) const fn new(span: Duration) -> Self {
        Self { span, number: 0, current: 0.0, previous: 0.0 }
    }

    /// Counts, and says how many there are now.
    pub(crate) fn add(&mut self, at: Time, count: u64) -> f64 {
        self.turn(at);
        self.current += count as f64;
        self.count(at)
    }

    /// How many within the span that ends at `at`.
    pub(crate) fn count(&self, at: Time) -> f64 {
        let number = at.span(self.span);
        let passed = (at.millis() % millis(self.span).max(1)) as f64 / millis(self.span).max(1) as f64;
        match number.checked_sub(self.number) {
            Some(0) | None => self.current + self.previous * (1.0 - passed),
            Some(1) => self.current * (1.0 - passed),
            Some(_) => 0.0,
        }
    }

    fn turn(&mut self, at: Time) {
        let number = at.span(self.span);
        match number.checked_sub(self.number) {
            // Also a clock that was set back: what is counted then is counted here.
            Some(0) | None => return,
            Some(1) => self.previous = self.current,
            Some(_) => self.previous = 0.0,
        }
        self.current = 0.0;
        self.number = number;
    }
}

/// Lets so many through at once, and so many in the long run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    size: f64,
    per_second: f64,
    filled: Time,
}

impl Bucket {
    /// `size` at once, `size` again within `refill`.
    pub(crate) fn new(size: u32, refill: Duration) -> Self {
        let size = f64::from(size);
        Self {
            tokens: size,
            size,
            per_second: size / refill.as_secs_f64().max(0.001),
            filled: Time::default(),
        }
    }

    /// Whether one more may pass.
    pub(crate) fn take(&mut self, at: Time) -> bool {
        self.tokens = (self.tokens + at.since(self.filled).as_secs_f64() * self.per_second).min(self.size);
        self.filled = at;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_what_is_older_than_its_span() {
        let mut window = Window::new(Duration::from_secs(60));
        let at = |seconds: u64| Time::from_secs(6000 + seconds);
        assert_eq!(window.add(at(0), 60), 60.0);
        assert_eq!(window.count(at(59)), 60.0);
        assert_eq!(window.count(at(90)), 30.0);
        assert_eq!(window.add(at(90), 5), 35.0);
        assert_eq!(window.count(at(180)), 0.0);
        assert_eq!(window.add(at(500), 1), 1.0);
    }

    #[test]
    fn a_bucket_fills_again() {
        let mut bucket = Bucket::new(3, Duration::from_secs(30));
        let at = |seconds: u64| Time::from_secs(1000 + seconds);
        assert_eq!((0..5).filter(|_| bucket.take(at(0))).count(), 3);
        assert_eq!((0..5).filter(|_| bucket.take(at(20))).count(), 2);
    }
}
