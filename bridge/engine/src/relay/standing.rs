//! How a message stands to the rooms of its conversation: what was told of them when it was written.

use parlour_domain::{Mode, Person, Timestamp, rules::Lane};

use crate::{
    intake::Event,
    store::{People, Portal},
};

/// The mode that a message was written under, as far as it is known: what the homeserver took before the last switch is passed
/// on, however late it can be read.
pub(super) fn mode_for(event: &Event, home: &Portal) -> Option<Mode> {
    let before = Timestamp::from(event.origin_server_ts) <= home.mode_since;
    if before { Some(Mode::TwoWay) } else { home.mode }
}

/// Whether somebody writes in the portal that is theirs.
pub(super) fn is_at_home(sender: &Person, home: &Portal) -> bool {
    match &home.patient {
        None => sender.role.is_staff(),
        Some(patient) => sender.id == *patient,
    }
}

/// Whether the sender of an event took part when the homeserver took it: nobody has put them out of their room before.
pub(super) fn took_part(people: &People, event: &Event) -> bool {
    let before = |gone_at: Timestamp| Timestamp::from(event.origin_server_ts) <= gone_at;
    let former = people.former.iter().find(|former| former.person.user_id == event.sender);
    former.and_then(|former| former.gone_at).is_none_or(before)
}

/// Whether a message goes from one portal into another: from the hub into the spokes of its lane, from a spoke
/// into the hub.
pub(super) fn is_target(target: &Portal, home: &Portal, lane: &Lane) -> bool {
    match (&home.patient, &target.patient) {
        (None, Some(patient)) => match lane {
            Lane::Everybody => true,
            Lane::Only(wanted) => wanted == patient,
        },
        (Some(_), None) => true,
        (None, None) | (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use parlour_domain::{ConversationId, PersonId, PortalId};

    use super::*;

    #[test]
    fn a_message_is_judged_by_the_mode_that_it_was_written_under() {
        let event = |at: i64| -> Event {
            let event = serde_json::json!({
                "event_id": "$a", "room_id": "!r", "sender": "@a:x", "type": "m.room.encrypted",
                "origin_server_ts": at,
            });
            serde_json::from_value(event).expect("an event")
        };
        let home = |mode, since| Portal {
            id: PortalId::from_bytes([1; 16]),
            conversation: ConversationId::from_bytes([9; 16]),
            patient: None,
            room_id: None,
            attempted: None,
            mode: Some(mode),
            mode_since: Timestamp::from_millis(since),
            revision: 0,
            revision_set: 0,
        };
        for (name, at, mode, since, wanted) in [
            ("after the switch", 8, Mode::OneWay, 7, Mode::OneWay),
            ("before it, and readable only now", 6, Mode::OneWay, 7, Mode::TwoWay),
            ("never switched", 6, Mode::OneWay, 0, Mode::OneWay),
            ("switched on again", 8, Mode::TwoWay, 7, Mode::TwoWay),
        ] {
            assert_eq!(mode_for(&event(at), &home(mode, since)), Some(wanted), "{name}");
        }
    }

    #[test]
    fn nothing_goes_from_spoke_to_spoke() {
        let (ann, ben) = (PersonId::from_bytes([1; 16]), PersonId::from_bytes([2; 16]));
        let portal = |n: u8, patient: Option<&PersonId>| Portal {
            id: PortalId::from_bytes([n; 16]),
            conversation: ConversationId::from_bytes([9; 16]),
            patient: patient.cloned(),
            room_id: None,
            attempted: None,
            mode: None,
            mode_since: Timestamp::from_millis(0),
            revision: 0,
            revision_set: 0,
        };
        let (hub, anns, bens) = (portal(0, None), portal(1, Some(&ann)), portal(2, Some(&ben)));
        let to_ann = Lane::Only(ann);
        for (name, from, to, lane, wanted) in [
            ("hub to all", &hub, &bens, &Lane::Everybody, true),
            ("hub to Ann", &hub, &anns, &to_ann, true),
            ("hub to Ann, not Ben", &hub, &bens, &to_ann, false),
            ("hub to itself", &hub, &hub, &Lane::Everybody, false),
            ("Ann to the hub", &anns, &hub, &Lane::Everybody, true),
            ("Ann to Ben", &anns, &bens, &Lane::Everybody, false),
            ("Ann to herself", &anns, &anns, &Lane::Everybody, false),
        ] {
            assert_eq!(is_target(to, from, lane), wanted, "{name}");
        }
    }
}
