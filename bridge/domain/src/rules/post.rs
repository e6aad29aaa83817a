//! Who may write.

use crate::{Mode, Refusal};

/// What is known of a person about to write.
#[derive(Clone, Copy, Debug)]
pub struct PostFacts {
    /// The conversation's mode.
    pub mode: Mode,
    /// Whether they take part, and write in the portal that is theirs.
    pub takes_part: bool,
    /// Whether they are the owner or a named sender.
    pub may_send_one_way: bool,
}

/// Whether a person may write in a conversation (S8, S14, S16).
///
/// # Errors
/// [`Refusal::NotTakingPart`], [`Refusal::OneWay`].
pub fn may_post(facts: &PostFacts) -> Result<(), Refusal> {
    // POST-1: only who takes part writes, each in their own portal: staff in the hub, a patient in their spoke.
    if !facts.takes_part {
        return Err(Refusal::NotTakingPart);
    }
    // POST-2: in a one-way conversation only its owner, and staff named as senders, write.
    if facts.mode == Mode::OneWay && !facts.may_send_one_way {
        return Err(Refusal::OneWay);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write() {
        for (name, mode, takes_part, may_send_one_way, wanted) in [
            ("patient, two-way", Mode::TwoWay, true, false, Ok(())),
            ("patient, one-way", Mode::OneWay, true, false, Err(Refusal::OneWay)),
            ("owner, one-way", Mode::OneWay, true, true, Ok(())),
            ("stranger, two-way", Mode::TwoWay, false, false, Err(Refusal::NotTakingPart)),
            ("owner of before, one-way", Mode::OneWay, false, true, Err(Refusal::NotTakingPart)),
        ] {
            assert_eq!(may_post(&PostFacts { mode, takes_part, may_send_one_way }), wanted, "{name}");
        }
    }
}
