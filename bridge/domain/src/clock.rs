//! Time and chance, as arguments.

use std::fmt;

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch; moments before it become the epoch itself.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(if millis < 0 { 0 } else { millis })
    }

    /// Milliseconds since the Unix epoch, never negative.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0
    }

    /// The moment `millis` milliseconds later.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// As Matrix writes it (`origin_server_ts`).
    #[must_use]
    pub fn to_matrix(self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.0.unsigned_abs()))
    }
}

impl From<MilliSecondsSinceUnixEpoch> for Timestamp {
    fn from(at: MilliSecondsSinceUnixEpoch) -> Self {
        Self::from_millis(i64::from(at.get()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the time. The edge hands in the real one, tests their own.
pub trait Clock: Send + Sync {
    /// The moment it is now.
    fn now(&self) -> Timestamp;
}

/// Gives random bytes fit for secrets and opaque ids.
pub trait Chance: Send + Sync {
    /// Sixteen bytes from a cryptographic source.
    fn bytes(&self) -> [u8; 16];
}
