//! Who takes part in a conversation (S3, S6): who may change that, and what follows from it.

use std::{fmt, str::FromStr};

use crate::{
    Mode,
    clock::Timestamp,
    conversation::{ParticipantLimit, may_change},
    ids::PersonId,
    people::{Person, Role, private_line},
    text::{InvalidText, one_line},
};

private_line! {
    /// The name of a team, at most 60 characters.
    TeamName, 60
}

/// Why a team cannot be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TeamError {
    /// Not a manager.
    #[error("only managers say who is in a team")]
    NotAManager,
    /// A patient is named.
    #[error("only staff are in a team")]
    NotStaff,
    /// More people than [`ParticipantLimit::STAFF`].
    #[error("a team has at most {most} members", most = ParticipantLimit::STAFF)]
    TooMany,
}

/// Whether somebody may say that these people are a team (S3).
///
/// # Errors
/// [`TeamError`], the first that applies.
pub fn may_team(caller: &Person, members: &[Person]) -> Result<(), TeamError> {
    if caller.role != Role::Manager {
        return Err(TeamError::NotAManager);
    }
    if members.iter().any(|member| !member.role.is_staff()) {
        return Err(TeamError::NotStaff);
    }
    if members.len() > ParticipantLimit::STAFF { Err(TeamError::TooMany) } else { Ok(()) }
}

/// Why somebody cannot be included in a conversation, or excluded from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakingPartError {
    /// JOIN-1
    #[error("only the owner of this conversation, or a manager who takes part in it, says who takes part")]
    NotYours,
    /// JOIN-5
    #[error(
        "what was written here was for staff alone, so no patient can be included: begin a new conversation with the same staff"
    )]
    StaffOnly,
    /// JOIN-6
    #[error("nobody of the staff would be left here: include somebody else first")]
    LastOfStaff,
    /// More people than [`ParticipantLimit`].
    #[error("a conversation takes at most {max} patients and {staff} staff", max = ParticipantLimit::PATIENTS, staff = ParticipantLimit::STAFF)]
    TooMany,
}

impl TakingPartError {
    /// The rule, if it is one and not a limit.
    #[must_use]
    pub fn rule(self) -> Option<&'static str> {
        match self {
            Self::NotYours => Some("JOIN-1"),
            Self::StaffOnly => Some("JOIN-5"),
            Self::LastOfStaff => Some("JOIN-6"),
            Self::TooMany => None,
        }
    }
}

/// Who is in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roster {
    /// How many of the staff take part.
    pub staff: usize,
    /// How many patients take part, or have taken part: each has a spoke.
    pub spokes: usize,
}

/// Whether somebody may include a person, who `returns` when they have taken part before.
///
/// # Errors
/// [`TakingPartError`], the first that applies.
pub fn may_include(
    caller: &Person,
    owner: &PersonId,
    (whom, returns): (&Person, bool),
    roster: Roster,
) -> Result<(), TakingPartError> {
    // JOIN-1: the owner, and managers who take part, say who takes part.
    may_change(caller, owner).map_err(|_| TakingPartError::NotYours)?;
    match whom.role.is_staff() {
        true if roster.staff >= ParticipantLimit::STAFF => Err(TakingPartError::TooMany),
        true => Ok(()),
        // JOIN-5: a conversation of staff alone never gains a patient.
        false if roster.spokes == 0 => Err(TakingPartError::StaffOnly),
        false if !returns && roster.spokes >= ParticipantLimit::PATIENTS => Err(TakingPartError::TooMany),
        false => Ok(()),
    }
}

/// Whether somebody may exclude a person who takes part; everybody may go themselves.
///
/// # Errors
/// [`TakingPartError`], the first that applies.
pub fn may_exclude(
    caller: &Person,
    owner: &PersonId,
    whom: &Person,
    roster: Roster,
) -> Result<(), TakingPartError> {
    if caller.id != whom.id {
        may_change(caller, owner).map_err(|_| TakingPartError::NotYours)?;
    }
    may_go(whom, roster)
}

/// Whether somebody who takes part may go, however they do it.
///
/// # Errors
/// [`TakingPartError::LastOfStaff`].
pub fn may_go(whom: &Person, roster: Roster) -> Result<(), TakingPartError> {
    // JOIN-6: somebody of the staff reads what patients write.
    if whom.role.is_staff() && roster.staff <= 1 {
        return Err(TakingPartError::LastOfStaff);
    }
    Ok(())
}

/// Somebody of the staff who takes part, and might own the conversation.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who.
    pub person: PersonId,
    /// Whether they are named to write also when it is one-way.
    pub may_send_one_way: bool,
    /// Since when they take part.
    pub since: Timestamp,
}

/// Who owns a conversation whose owner goes: a named sender before others, and who has taken part for longest. JOIN-7: it
/// is never without an owner.
#[must_use]
pub fn heir(staff: &[Candidate]) -> Option<&Candidate> {
    staff.iter().min_by_key(|candidate| (!candidate.may_send_one_way, candidate.since, &candidate.person))
}

/// The mode of a portal: that of its conversation; in the spoke of a patient who does not take part any more nobody writes but
/// the practice (JOIN-3).
#[must_use]
pub fn mode_of_portal(conversation: Mode, is_open: bool) -> Mode {
    if is_open { conversation } else { Mode::OneWay }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_book_and_the_code_are_the_same() {
        let book = include_str!("../../../docs/rules.md");
        let in_book: Vec<(&str, &str)> = book
            .lines()
            .filter(|line| line.starts_with("| JOIN-"))
            .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
            .filter(|cells| cells.len() == 5 && !cells[3].is_empty())
            .map(|cells| (cells[1], cells[3]))
            .collect();
        let all = [TakingPartError::NotYours, TakingPartError::StaffOnly, TakingPartError::LastOfStaff];
        let in_code: Vec<_> =
            all.iter().map(|error| (error.rule().expect("a rule"), error.to_string())).collect();
        let in_code: Vec<_> = in_code.iter().map(|(rule, sentence)| (*rule, sentence.as_str())).collect();
        assert_eq!(in_book, in_code);
    }
    use crate::Role;
    use crate::people::testing::person;

    #[test]
    fn who_says_who_takes_part() {
        let (kim, other, manager) =
            (person(1, Role::Staff), person(2, Role::Staff), person(3, Role::Manager));
        let (ann, new) = (person(4, Role::Patient), person(5, Role::Staff));
        let some = Roster { staff: 3, spokes: 1 };
        let (yes, no) = (Ok(()), Err(TakingPartError::NotYours));
        let alone = Roster { staff: 3, spokes: 0 };
        let last = Roster { staff: 1, spokes: 1 };
        let full = Roster { staff: ParticipantLimit::STAFF, spokes: ParticipantLimit::PATIENTS };
        for (name, caller, whom, roster, included, excluded) in [
            ("the owner, staff", &kim, &new, some, yes, yes),
            ("a manager, staff", &manager, &new, some, yes, yes),
            ("others, staff", &other, &new, some, no, no),
            ("others, themselves", &other, &other, some, no, yes),
            ("a patient, somebody", &ann, &kim, some, no, no),
            ("a patient, themselves", &ann, &ann, some, no, yes),
            ("the owner, a patient", &kim, &ann, some, yes, yes),
            ("a patient among staff alone", &kim, &ann, alone, Err(TakingPartError::StaffOnly), yes),
            ("staff among staff alone", &kim, &new, alone, yes, yes),
            ("the last of the staff", &kim, &kim, last, yes, Err(TakingPartError::LastOfStaff)),
            ("a patient, with one of the staff", &kim, &ann, last, yes, yes),
            ("one of the staff too many", &kim, &new, full, Err(TakingPartError::TooMany), yes),
            ("one patient too many", &kim, &ann, full, Err(TakingPartError::TooMany), yes),
        ] {
            assert_eq!(may_include(caller, &kim.id, (whom, false), roster), included, "{name} is included");
            assert_eq!(may_exclude(caller, &kim.id, whom, roster), excluded, "{name} is excluded");
        }
        assert_eq!(
            may_include(&kim, &kim.id, (&ann, true), full),
            Ok(()),
            "whose spoke is there is not one more"
        );
    }

    #[test]
    fn managers_make_teams_of_staff() {
        let (kim, manager, ann) =
            (person(1, Role::Staff), person(3, Role::Manager), person(4, Role::Patient));
        for (name, caller, members, wanted) in [
            ("staff, by a manager", &manager, vec![kim.clone(), manager.clone()], Ok(())),
            ("nobody, by a manager", &manager, vec![], Ok(())),
            ("a patient", &manager, vec![kim.clone(), ann.clone()], Err(TeamError::NotStaff)),
            ("by others", &kim, vec![kim.clone()], Err(TeamError::NotAManager)),
            ("by a patient", &ann, vec![], Err(TeamError::NotAManager)),
            ("very many", &manager, vec![kim.clone(); ParticipantLimit::STAFF + 1], Err(TeamError::TooMany)),
        ] {
            assert_eq!(may_team(caller, &members), wanted, "{name}");
        }
    }

    #[test]
    fn who_owns_it_next() {
        let candidate = |n, may_send_one_way, since| Candidate {
            person: PersonId::from_bytes([n; 16]),
            may_send_one_way,
            since: Timestamp::from_millis(since),
        };
        for (name, staff, wanted) in [
            ("nobody is there", vec![], None),
            ("a named sender", vec![candidate(1, false, 1), candidate(2, true, 9)], Some(2)),
            ("the longest there", vec![candidate(1, false, 9), candidate(2, false, 1)], Some(2)),
            ("always the same one", vec![candidate(2, false, 1), candidate(1, false, 1)], Some(1)),
        ] {
            let wanted = wanted.map(|n| PersonId::from_bytes([n; 16]));
            assert_eq!(heir(&staff).map(|heir| heir.person.clone()), wanted, "{name}");
        }
    }

    #[test]
    fn a_closed_spoke_is_read_only_whatever_its_conversation_is() {
        for (conversation, is_open, wanted) in [
            (Mode::TwoWay, true, Mode::TwoWay),
            (Mode::OneWay, true, Mode::OneWay),
            (Mode::TwoWay, false, Mode::OneWay),
            (Mode::OneWay, false, Mode::OneWay),
        ] {
            assert_eq!(mode_of_portal(conversation, is_open), wanted);
        }
    }
}
