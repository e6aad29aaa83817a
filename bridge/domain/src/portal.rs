//! Portals: how the room of a hub or a spoke is made, as far as it is a decision.

use std::collections::BTreeMap;

use ruma::{
    Int, OwnedUserId,
    events::{TimelineEventType, room::power_levels::RoomPowerLevelsEventContent},
    int,
};

use crate::{Mode, Subject};

/// The type of the state event by which a portal says what it is; clients may show it.
pub const PORTAL_EVENT: &str = "io.parlour.portal";

/// The field, outside the ciphertext, by which an event of ours says which leg it is.
pub const LEG_FIELD: &str = "io.parlour.leg";

/// Which of a conversation's rooms it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortalKind {
    /// The staff's room.
    Hub,
    /// One patient's room.
    Spoke,
}

impl PortalKind {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Spoke => "spoke",
        }
    }
}

/// Who is who in a portal, for its power levels.
#[derive(Clone, Debug)]
pub struct PowerFacts<'a> {
    /// The conversation's mode.
    pub mode: Mode,
    /// The people whose own accounts are in this portal, and whether each may send one-way.
    pub people: &'a [(OwnedUserId, bool)],
}

/// The power levels of a portal in a room of version 12, whose creator, the bot, outranks everybody and is
/// not listed. Ghosts have 50 by default; people are listed before they are joined. A switch between modes
/// is one number: `events_default`, 0 or 50 (S8, S16).
#[must_use]
pub fn power_levels(facts: &PowerFacts<'_>) -> RoomPowerLevelsEventContent {
    let mut levels = RoomPowerLevelsEventContent::new(&ruma::room_version_rules::AuthorizationRules::V12);
    levels.users_default = int!(50);
    levels.users = facts
        .people
        .iter()
        .map(|(user_id, may_send_one_way)| {
            (user_id.clone(), if *may_send_one_way { int!(50) } else { int!(0) })
        })
        .collect::<BTreeMap<OwnedUserId, Int>>();
    levels.events_default = match facts.mode {
        Mode::TwoWay => int!(0),
        Mode::OneWay => int!(50),
    };
    levels.state_default = int!(100);
    levels.invite = int!(100);
    levels.kick = int!(100);
    levels.ban = int!(100);
    levels.redact = int!(100);
    // One's own messages can be deleted also where one cannot write (S18).
    levels.events = BTreeMap::from([(TimelineEventType::RoomRedaction, int!(0))]);
    levels.notifications.room = int!(100);
    levels
}

/// The mode that an `events_default` comes to, as [`power_levels`] writes it: whoever is listed as a reader has 0.
#[must_use]
pub fn mode_of(events_default: i64) -> Mode {
    if events_default > 0 { Mode::OneWay } else { Mode::TwoWay }
}

/// The name of a spoke: the practice's, and what patients see of the matter; never the staff's own name.
#[must_use]
pub fn spoke_name(practice: &str, subject: Option<&Subject>) -> String {
    subject.map_or_else(|| practice.to_owned(), |subject| format!("{practice}: {}", subject.as_str()))
}

/// The topic of a hub: who reads what is written here. `patients`: how many take part; `spokes`: how many take part or have
/// taken part.
#[must_use]
pub fn hub_topic(patients: usize, spokes: usize) -> String {
    match patients {
        0 if spokes == 0 => "Staff only".to_owned(),
        0 => "What you write here is read by no patient any more".to_owned(),
        1 => "What you write here is read by 1 patient".to_owned(),
        n => format!("What you write here is read by {n} patients"),
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn one_way_is_one_number() {
        let people = [(user_id!("@kim:x").to_owned(), true), (user_id!("@ann:x").to_owned(), false)];
        let level = |mode| power_levels(&PowerFacts { mode, people: &people });
        let (two, one) = (level(Mode::TwoWay), level(Mode::OneWay));
        assert_eq!((two.events_default, one.events_default), (int!(0), int!(50)));
        for (mode, levels) in [(Mode::TwoWay, &two), (Mode::OneWay, &one)] {
            assert_eq!(mode_of(levels.events_default.into()), mode);
        }
        assert_eq!(one.users[user_id!("@kim:x")], int!(50));
        assert_eq!(one.users[user_id!("@ann:x")], int!(0));
        assert_eq!(one.users_default, int!(50), "ghosts write");
        assert_eq!(one.state_default, int!(100), "only the creator changes state");
        let mut same = two;
        same.events_default = one.events_default;
        assert_eq!(format!("{same:?}"), format!("{one:?}"), "nothing else differs");
    }
}
