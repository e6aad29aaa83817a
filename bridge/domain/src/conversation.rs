//! Conversations: what a member of staff asks for, made sure.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    ids::PersonId,
    people::{Person, Role, private_line},
    text::{InvalidText, is_misleading, one_line},
};

/// Who may write (S8, S16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everybody who takes part.
    TwoWay,
    /// The owner and named senders; the others read.
    OneWay,
}

impl Mode {
    /// As it is stored and shown in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TwoWay => "two-way",
            Self::OneWay => "one-way",
        }
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;
    fn from_str(value: &str) -> Result<Self, UnknownMode> {
        match value {
            "two-way" => Ok(Self::TwoWay),
            "one-way" => Ok(Self::OneWay),
            _ => Err(UnknownMode),
        }
    }
}

/// A mode is `two-way` or `one-way`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mode is two-way or one-way")]
pub struct UnknownMode;

private_line! {
    /// The staff's own name for a conversation, often a patient's (S7); at most 120 characters. Never shown to patients.
    ConversationName, 120
    /// What patients see beside the practice's name; at most 120 characters.
    Subject, 120
    /// Why somebody deletes a message; at most 500 characters.
    DeletionReason, 500
}

impl DeletionReason {
    /// What of a text that a client sends is a reason: on one line, and cut where it is too long. None says nothing.
    #[must_use]
    pub fn of_client(text: &str) -> Option<Self> {
        let line = |c: char| c.is_whitespace() || is_misleading(c);
        let words: Vec<&str> = text.split(line).filter(|word| !word.is_empty()).collect();
        let cut: String = words.join(" ").chars().take(Self::MOST).collect();
        cut.parse().ok()
    }
}

/// The most people of one side that a conversation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParticipantLimit;

impl ParticipantLimit {
    /// Patients in one conversation.
    pub const PATIENTS: usize = 1_000;
    /// Staff in one conversation.
    pub const STAFF: usize = 200;
}

/// Why a conversation cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewConversationError {
    /// Only staff begin conversations.
    #[error("only staff can begin a conversation")]
    CallerIsNotStaff,
    /// Somebody stands on the list of the other side.
    #[error("a person in `staff` is not staff, or one in `patients` is not a patient")]
    WrongSide,
    /// More people than [`ParticipantLimit`].
    #[error("a conversation takes at most {max} patients and {staff} staff", max = ParticipantLimit::PATIENTS, staff = ParticipantLimit::STAFF)]
    TooMany,
    /// A named sender does not take part as staff.
    #[error("a person in `senders` is not one of the staff of this conversation")]
    SenderElsewhere,
}

/// Why a conversation cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Neither its owner nor a manager.
    #[error("only the owner of this conversation, or a manager who takes part in it, can change it")]
    NotYours,
}

/// Why a message cannot be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// Neither its writer nor a manager.
    #[error(
        "only whoever wrote this message, or a manager who takes part in the conversation, can delete it"
    )]
    NotYours,
    /// Somebody else's message, and no reason.
    #[error("whoever deletes another's message gives a `reason`")]
    NoReason,
}

/// Whether somebody who takes part in a conversation may delete a message of it (S18).
///
/// # Errors
/// [`DeleteError`], the first that applies.
pub fn may_delete(
    caller: &Person,
    writer: &PersonId,
    reason: Option<&DeletionReason>,
) -> Result<(), DeleteError> {
    if caller.id == *writer {
        return Ok(());
    }
    if caller.role != Role::Manager {
        return Err(DeleteError::NotYours);
    }
    reason.map(|_| ()).ok_or(DeleteError::NoReason)
}

/// Whether somebody who takes part in a conversation may change it (S16).
///
/// # Errors
/// [`ChangeError`].
pub fn may_change(caller: &Person, owner: &PersonId) -> Result<(), ChangeError> {
    if caller.role == Role::Manager || (caller.role.is_staff() && caller.id == *owner) {
        Ok(())
    } else {
        Err(ChangeError::NotYours)
    }
}

/// A conversation that may be made (S6-S9): its caller owns it.
#[derive(Clone, Debug)]
pub struct NewConversation {
    /// The staff's own name for it.
    pub name: ConversationName,
    /// What patients see.
    pub subject: Option<Subject>,
    /// Who may write.
    pub mode: Mode,
    /// Who began it, and owns it.
    pub owner: PersonId,
    /// All staff in it, the owner among them.
    pub staff: BTreeSet<PersonId>,
    /// All patients in it; none makes it staff-only.
    pub patients: BTreeSet<PersonId>,
    /// The staff in it who write, besides the owner, when it is one-way.
    pub senders: BTreeSet<PersonId>,
}

impl NewConversation {
    /// Checks who asks and whom they name.
    ///
    /// # Errors
    /// [`NewConversationError`], the first that applies.
    pub fn new(
        caller: &Person,
        name: ConversationName,
        subject: Option<Subject>,
        mode: Mode,
        staff: &[Person],
        patients: &[Person],
    ) -> Result<Self, NewConversationError> {
        if !caller.role.is_staff() {
            return Err(NewConversationError::CallerIsNotStaff);
        }
        if staff.iter().any(|p| !p.role.is_staff()) || patients.iter().any(|p| p.role.is_staff()) {
            return Err(NewConversationError::WrongSide);
        }
        let mut staff: BTreeSet<_> = staff.iter().map(|p| p.id.clone()).collect();
        staff.insert(caller.id.clone());
        let patients: BTreeSet<_> = patients.iter().map(|p| p.id.clone()).collect();
        if patients.len() > ParticipantLimit::PATIENTS || staff.len() > ParticipantLimit::STAFF {
            return Err(NewConversationError::TooMany);
        }
        Ok(Self { name, subject, mode, owner: caller.id.clone(), staff, patients, senders: BTreeSet::new() })
    }

    /// The same, with these people as named senders (S8).
    ///
    /// # Errors
    /// [`NewConversationError::SenderElsewhere`]
    pub fn with_senders(mut self, senders: &[Person]) -> Result<Self, NewConversationError> {
        self.senders = senders.iter().map(|person| person.id.clone()).collect();
        if self.senders.is_subset(&self.staff) {
            Ok(self)
        } else {
            Err(NewConversationError::SenderElsewhere)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::testing::person;

    #[test]
    fn who_may_change_one() {
        let (kim, other, manager) =
            (person(1, Role::Staff), person(2, Role::Staff), person(3, Role::Manager));
        let ann = person(4, Role::Patient);
        for (name, caller, wanted) in [
            ("its owner", &kim, Ok(())),
            ("a manager", &manager, Ok(())),
            ("others of the staff", &other, Err(ChangeError::NotYours)),
            ("a patient", &ann, Err(ChangeError::NotYours)),
        ] {
            assert_eq!(may_change(caller, &kim.id), wanted, "{name}");
        }
        assert_eq!(may_change(&ann, &ann.id), Err(ChangeError::NotYours), "a patient owns nothing");
    }

    #[test]
    fn what_a_client_gives_as_a_reason_is_not_lost() {
        let long = "why ".repeat(200);
        for (text, wanted) in [
            ("to the wrong patient", Some("to the wrong patient")),
            (" to the\nwrong\u{202e} patient\n", Some("to the wrong patient")),
            (&*long, Some(long[..499].trim_end())),
            (" \n", None),
        ] {
            let reason = DeletionReason::of_client(text);
            assert_eq!(reason.as_ref().map(DeletionReason::as_str), wanted, "{text:?}");
        }
    }

    #[test]
    fn who_may_delete_what() {
        let (kim, manager, ann) =
            (person(1, Role::Staff), person(3, Role::Manager), person(4, Role::Patient));
        let why: DeletionReason = "to the wrong patient".parse().expect("a reason");
        for (name, caller, writer, reason, wanted) in [
            ("one's own", &ann, &ann, None, Ok(())),
            ("one's own, with a reason", &kim, &kim, Some(&why), Ok(())),
            ("another's", &kim, &ann, Some(&why), Err(DeleteError::NotYours)),
            ("staff's, by a patient", &ann, &kim, Some(&why), Err(DeleteError::NotYours)),
            ("another's, by a manager", &manager, &ann, Some(&why), Ok(())),
            (
                "another's, by a manager who does not say why",
                &manager,
                &kim,
                None,
                Err(DeleteError::NoReason),
            ),
            ("a manager's own", &manager, &manager, None, Ok(())),
        ] {
            assert_eq!(may_delete(caller, &writer.id, reason), wanted, "{name}");
        }
    }

    #[test]
    fn who_may_begin_with_whom() {
        let (kim, manager) = (person(1, Role::Staff), person(2, Role::Manager));
        let (ann, ben) = (person(3, Role::Patient), person(4, Role::Patient));
        for (name, caller, staff, patients, wanted) in [
            ("a group of both", &kim, vec![manager.clone()], vec![ann.clone(), ben.clone()], Ok((2, 2))),
            ("staff only", &kim, vec![manager.clone()], vec![], Ok((2, 0))),
            ("patients only: the owner comes with it", &kim, vec![], vec![ann.clone()], Ok((1, 1))),
            ("named twice counts once", &kim, vec![kim.clone()], vec![ann.clone(), ann.clone()], Ok((1, 1))),
            ("a patient begins", &ann, vec![], vec![], Err(NewConversationError::CallerIsNotStaff)),
            ("a patient among staff", &kim, vec![ann.clone()], vec![], Err(NewConversationError::WrongSide)),
            (
                "staff among patients",
                &kim,
                vec![],
                vec![manager.clone()],
                Err(NewConversationError::WrongSide),
            ),
        ] {
            let made = NewConversation::new(
                caller,
                "Flu clinic".parse().expect("a name"),
                None,
                Mode::TwoWay,
                &staff,
                &patients,
            );
            assert_eq!(made.map(|c| (c.staff.len(), c.patients.len())), wanted, "{name}");
        }
        let elsewhere = Err(NewConversationError::SenderElsewhere);
        for (name, senders, wanted) in [
            ("nobody", vec![], Ok(0)),
            ("a colleague", vec![manager.clone()], Ok(1)),
            ("the owner, who writes anyway", vec![kim.clone()], Ok(1)),
            ("staff who are not in it", vec![person(5, Role::Staff)], elsewhere),
            ("a patient", vec![ann.clone()], elsewhere),
        ] {
            let name_of = "Flu clinic".parse().expect("a name");
            let made = NewConversation::new(
                &kim,
                name_of,
                None,
                Mode::OneWay,
                std::slice::from_ref(&manager),
                std::slice::from_ref(&ann),
            );
            let made = made.and_then(|made| made.with_senders(&senders));
            assert_eq!(made.map(|c| c.senders.len()), wanted, "{name}");
        }
    }
}
