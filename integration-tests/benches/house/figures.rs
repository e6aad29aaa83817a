//! Many measurements in few numbers.

use std::{fmt, time::Duration};

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// One more.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// One more, in milliseconds.
    pub fn took(&mut self, time: Duration) {
        self.push(millis(time));
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that is not smaller than so many percent of all.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(rank).copied().unwrap_or(f64::NAN)
    }

    /// The middle one; of two, the one between them.
    pub fn median(&self) -> f64 {
        let (low, high) = ((self.0.len().max(1) - 1) / 2, self.0.len() / 2);
        let at = |index: usize| self.0.get(index).copied().unwrap_or(f64::NAN);
        (at(low) + at(high)) / 2.0
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut figures = Self::default();
        values.into_iter().for_each(|value| figures.push(value));
        figures
    }
}

/// The median, and from where to where.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, .., last] = &self.0[..] else { return write!(f, "{:.1}", self.median()) };
        write!(f, "{:.1} ({first:.1}–{last:.1})", self.median())
    }
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
