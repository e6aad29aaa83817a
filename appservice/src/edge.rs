//! The edge: the real clock and the real chance, the only place where they are taken from.

use std::time::{SystemTime, UNIX_EPOCH};

use parlour_domain::{Chance, Clock, Timestamp};
use rand::RngCore;

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the time comes in")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The system's cryptographic source.
pub struct SystemChance;

impl Chance for SystemChance {
    #[expect(clippy::disallowed_methods, reason = "this is where chance comes in")]
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        bytes
    }
}

/// `digits` hexadecimal digits of chance, for tokens and the like.
#[must_use]
pub fn random_hex(chance: &dyn Chance, digits: usize) -> String {
    let mut text = String::with_capacity(digits + 32);
    while text.len() < digits {
        for byte in chance.bytes() {
            text.push_str(&format!("{byte:02x}"));
        }
    }
    text.truncate(digits);
    text
}
