//! The people of a practice.

use std::{fmt, str::FromStr};

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::PersonId,
    text::{InvalidText, one_line},
};

/// What a person is to the practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Receives care; reaches the practice through spokes.
    Patient,
    /// Works there: reception, nurse, doctor.
    Staff,
    /// Staff who also answers for the data.
    Manager,
}

impl Role {
    /// Whether this person belongs to the practice's side: hubs are theirs.
    #[must_use]
    pub fn is_staff(self) -> bool {
        matches!(self, Self::Staff | Self::Manager)
    }

    /// As it is stored and shown in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Staff => "staff",
            Self::Manager => "manager",
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(value: &str) -> Result<Self, UnknownRole> {
        match value {
            "patient" => Ok(Self::Patient),
            "staff" => Ok(Self::Staff),
            "manager" => Ok(Self::Manager),
            _ => Err(UnknownRole),
        }
    }
}

/// A role is `patient`, `staff` or `manager`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is patient, staff or manager")]
pub struct UnknownRole;

macro_rules! private_line {
    ($(#[$doc:meta] $name:ident, $limit:literal)+) => {$(
        #[$doc]
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// So many characters at most.
            pub const MOST: usize = $limit;

            /// As it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidText;
            fn from_str(value: &str) -> Result<Self, InvalidText> {
                one_line(value, Self::MOST).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )+};
}
pub(crate) use private_line;

private_line! {
    /// A person's name, one line of at most 100 characters. Personal: never printed by `Debug`.
    PersonName, 100
    /// The practice's own number for a person's file, at most 64 characters. Personal: never printed by `Debug`.
    RecordNumber, 64
}

/// A person of the practice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Opaque and random.
    pub id: PersonId,
    /// Their own Matrix account.
    pub user_id: OwnedUserId,
    /// What they are to the practice.
    pub role: Role,
    /// Their name.
    pub name: PersonName,
    /// The practice's number for their file, when there is one.
    pub record_number: Option<RecordNumber>,
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Somebody of a role, always the same for a number.
    pub(crate) fn person(n: u8, role: Role) -> Person {
        Person {
            id: PersonId::from_bytes([n; 16]),
            user_id: ruma::UserId::parse(format!("@p{n}:example.org")).expect("a user id"),
            role,
            name: "Somebody".parse().expect("a name"),
            record_number: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_print_itself() {
        let name: PersonName = "Ann Byrne".parse().expect("a name");
        assert_eq!(format!("{name:?}"), "PersonName(…)");
    }
}
