//! Opaque ids: 32 hexadecimal digits, made of chance alone, so that an id tells nothing about a person.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What stands there is not one of our ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 lower-case hexadecimal digits")]
pub struct InvalidId;

fn parse(value: &str) -> Result<(), InvalidId> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (value.len() == 32 && value.bytes().all(digit)).then_some(()).ok_or(InvalidId)
}

fn write(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! opaque_id {
    ($(#[$doc:meta] $name:ident)+) => {$(
        #[$doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id that these random bytes spell.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(write(bytes))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                parse(value).map(|()| Self(value.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                parse(&value).map(|()| Self(value))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

opaque_id! {
    /// Names a person of the practice: staff, manager or patient.
    PersonId
    /// Names a conversation: a hub and its spokes.
    ConversationId
    /// Names a portal: one Matrix room bound to a conversation.
    PortalId
    /// Names a team: staff who take part in conversations together.
    TeamId
    /// Names a message in the record.
    MessageId
    /// Names a leg: one message's way into one target portal. Stands in the clear in the event it became.
    LegId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_its_bytes_spell_and_nothing_else_parses() {
        let id = PersonId::from_bytes([0xab; 16]);
        assert_eq!(id.as_str(), "ab".repeat(16));
        assert_eq!(id.as_str().parse::<PersonId>(), Ok(id));
        for bad in ["", "ab", &"AB".repeat(16), &"zz".repeat(16), &"ab".repeat(17)] {
            assert_eq!(bad.parse::<PersonId>(), Err(InvalidId), "{bad}");
        }
    }
}
