//! Which devices are there to read: what is sent to no other would be read by nobody.

use crate::Timestamp;

/// For how long a device counts as live after it was seen, in milliseconds: five days.
pub const LIVE_MILLIS: i64 = 5 * 24 * 60 * 60 * 1000;

/// What is known of a person's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Whether its owner's cross-signing identity has signed it.
    pub signed: bool,
    /// Whether it lies on the homeserver, to be woken by its owner's next device (MSC3814).
    pub dehydrated: bool,
    /// When the homeserver saw it last; none when it never did.
    pub seen_at: Option<Timestamp>,
}

/// Whether a device is there to read what is sent to it.
#[must_use]
pub fn is_live(device: &DeviceFacts, now: Timestamp) -> bool {
    // HOLD-1: a device is live when its owner has signed it, and it is dehydrated or was seen within five days. What seems to
    // be seen later than now was seen before the clock was set back.
    device.signed
        && (device.dehydrated
            || device.seen_at.is_some_and(|seen| now.millis() - seen.millis() <= LIVE_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn ago(millis: i64) -> Option<Timestamp> {
        Some(NOW.plus_millis(-millis))
    }

    #[test]
    fn which_devices_are_live() {
        for (name, signed, dehydrated, seen_at, wanted) in [
            ("seen now", true, false, ago(0), true),
            ("seen five days ago", true, false, ago(LIVE_MILLIS), true),
            ("seen longer ago", true, false, ago(LIVE_MILLIS + 1), false),
            ("never seen", true, false, None, false),
            ("dehydrated, never seen", true, true, None, true),
            ("dehydrated, seen long ago", true, true, ago(10 * LIVE_MILLIS), true),
            ("the clock was set back", true, false, ago(-10 * LIVE_MILLIS), true),
            ("not signed, seen now", false, false, ago(0), false),
            ("not signed, dehydrated", false, true, None, false),
            ("seen at the epoch", true, false, Some(Timestamp::from_millis(0)), false),
        ] {
            assert_eq!(is_live(&DeviceFacts { signed, dehydrated, seen_at }, NOW), wanted, "{name}");
        }
    }
}
