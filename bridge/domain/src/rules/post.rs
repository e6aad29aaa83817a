//! Who may write.

use crate::{Mode, Person, PersonId, Refusal, Timestamp};

/// What is known of somebody who has written, and of the room that they wrote in.
#[derive(Clone, Copy, Debug)]
pub struct PostFacts<'a> {
    /// Who.
    pub sender: &'a Person,
    /// When, by the homeserver's clock.
    pub written_at: Timestamp,
    /// The patient whose room it is; none is the hub.
    pub room_of: Option<&'a PersonId>,
    /// When they were put out of their room, by the homeserver's clock, if they were.
    pub gone_at: Option<Timestamp>,
    /// The mode that the room was set to last.
    pub mode: Mode,
    /// When that was, by the homeserver's clock; 0 is when it was made.
    pub mode_since: Timestamp,
    /// Whether they are the owner or a named sender.
    pub may_send_one_way: bool,
}

/// Whether somebody may write in a conversation (S8, S14, S16).
///
/// # Errors
/// [`Refusal::NotTakingPart`], [`Refusal::OneWay`].
pub fn may_post(facts: &PostFacts<'_>) -> Result<(), Refusal> {
    // POST-1: only who takes part writes, each in their own portal. What the homeserver took before they were put out counts.
    let took_part = facts.gone_at.is_none_or(|gone_at| facts.written_at <= gone_at);
    if !took_part || !is_at_home(facts.sender, facts.room_of) {
        return Err(Refusal::NotTakingPart);
    }
    // POST-2: in a one-way conversation only its owner, and staff named as senders, write. What the homeserver took before the
    // last switch is passed on, however late it can be read.
    let is_one_way = facts.mode == Mode::OneWay && facts.written_at > facts.mode_since;
    // No patient is a named sender, whatever level somebody has given them.
    let may_send = facts.may_send_one_way && facts.sender.role.is_staff();
    if is_one_way && !may_send { Err(Refusal::OneWay) } else { Ok(()) }
}

/// Whether a room is somebody's own: staff write in the hub, a patient in their spoke. `room_of` is the patient whose room it is,
/// none for the hub.
#[must_use]
pub fn is_at_home(person: &Person, room_of: Option<&PersonId>) -> bool {
    match room_of {
        None => person.role.is_staff(),
        Some(patient) => person.id == *patient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, people::testing::person};

    #[test]
    fn who_may_write() {
        let at = Timestamp::from_millis;
        let (kim, ann, ben) = (person(1, Role::Staff), person(2, Role::Patient), person(3, Role::Patient));
        let (one_way, two_way) = ((Mode::OneWay, at(7)), (Mode::TwoWay, at(7)));
        let gone = Err(Refusal::NotTakingPart);
        for (name, sender, room_of, written_at, gone_at, (mode, mode_since), named, wanted) in [
            ("a patient, two-way", &ann, Some(&ann.id), 8, None, two_way, false, Ok(())),
            ("a patient, one-way", &ann, Some(&ann.id), 8, None, one_way, false, Err(Refusal::OneWay)),
            ("before the switch, read only now", &ann, Some(&ann.id), 6, None, one_way, false, Ok(())),
            (
                "never switched",
                &ann,
                Some(&ann.id),
                8,
                None,
                (Mode::OneWay, at(0)),
                false,
                Err(Refusal::OneWay),
            ),
            ("a patient of a high level", &ann, Some(&ann.id), 8, None, one_way, true, Err(Refusal::OneWay)),
            ("staff, one-way", &kim, None, 8, None, one_way, false, Err(Refusal::OneWay)),
            ("the owner, one-way", &kim, None, 8, None, one_way, true, Ok(())),
            ("a patient in another's room", &ben, Some(&ann.id), 8, None, two_way, false, gone),
            ("a patient in the hub", &ann, None, 8, None, two_way, false, gone),
            ("staff in a patient's room", &kim, Some(&ann.id), 8, None, two_way, true, gone),
            ("after they were put out", &kim, None, 8, Some(at(7)), two_way, false, gone),
            ("before they were put out", &kim, None, 7, Some(at(7)), two_way, false, Ok(())),
            ("the owner of before, one-way", &kim, None, 8, Some(at(7)), one_way, true, gone),
        ] {
            let written_at = at(written_at);
            let facts =
                PostFacts { sender, written_at, room_of, gone_at, mode, mode_since, may_send_one_way: named };
            assert_eq!(may_post(&facts), wanted, "{name}");
        }
    }
}
