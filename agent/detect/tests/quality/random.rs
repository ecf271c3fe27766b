//! Numbers that look random and are the same for the same seed (splitmix64).

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `range`.
    pub(crate) fn among(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.bits() % (range.end - range.start)
    }

    /// Between the two, every order of magnitude alike.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit())
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Around 1: `exp` of a normal with this deviation.
    pub(crate) fn noise(&mut self, deviation: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        (normal * deviation).exp()
    }

    /// A whole number with this mean: rounded up as often as its fraction says.
    pub(crate) fn whole(&mut self, mean: f64) -> u64 {
        mean.floor() as u64 + u64::from(self.chance(mean.fract()))
    }
}
