//! Several measurements of one thing.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    pub(crate) fn new(mut values: Vec<f64>) -> Result<Spread> {
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max), Some(&median)) =
            (values.first(), values.last(), values.get(values.len() / 2))
        else {
            bail!("nothing was measured");
        };
        Ok(Spread { median, min, max, count: values.len() })
    }

    pub(crate) fn text(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::new(vec![3.0, 1.0, 100.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.count), (3.0, 1.0, 100.0, 3));
        assert!(Spread::new(Vec::new()).is_err());
    }
}
