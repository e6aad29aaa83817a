//! What the bot says in portals, and the ids that legs have.

use hmac::{Hmac, Mac};
use parlour_domain::{LegId, MessageId, Mode, PortalId, PortalKind, Timestamp};
use ruma::{EventId, OwnedEventId, OwnedUserId};
use sha2::Sha256;

use crate::{
    secret::Secret,
    store::{NewLeg, Says, SentLeg},
};

/// Makes the ids of legs: the same way of the same event always has the same id, and nobody without the key can
/// tell from an id what it names.
pub(crate) struct LegIds {
    key: Secret,
}

impl LegIds {
    pub(crate) fn new(key: Secret) -> Self {
        Self { key }
    }

    fn digest(&self, kind: &str, source: &str, portal: &PortalId) -> [u8; 16] {
        let mut bytes = [0; 16];
        // HMAC takes a key of any length.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.reveal().as_bytes()) {
            for part in [kind, source, portal.as_str()] {
                mac.update(&(part.len() as u64).to_be_bytes());
                mac.update(part.as_bytes());
            }
            bytes.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        }
        bytes
    }

    /// The message that an event was, on its way into a portal.
    pub(crate) fn message(&self, source: &EventId, portal: &PortalId, sent_at: Timestamp) -> NewLeg {
        let id = LegId::from_bytes(self.digest("message", source.as_str(), portal));
        NewLeg { id, portal: portal.clone(), says: Says::TheMessage, sent_at }
    }

    /// The bot's words about an event, in the portal where that event is.
    pub(crate) fn notice(
        &self,
        about: &EventId,
        portal: &PortalId,
        kind: &str,
        words: String,
        at: Timestamp,
    ) -> NewLeg {
        NewLeg {
            id: LegId::from_bytes(self.digest(kind, about.as_str(), portal)),
            portal: portal.clone(),
            says: Says::Notice(words, Some(OwnedEventId::from(about))),
            sent_at: at,
        }
    }

    /// The bot's words in a portal where the event that causes them is not.
    pub(crate) fn word(&self, cause: &EventId, portal: &PortalId, words: String, at: Timestamp) -> NewLeg {
        NewLeg {
            id: self.id("word", cause, portal),
            portal: portal.clone(),
            says: Says::Notice(words, None),
            sent_at: at,
        }
    }

    /// The bot's words about a portal itself, which it says there once.
    pub(crate) fn once(&self, kind: &str, portal: &PortalId, words: String, at: Timestamp) -> NewLeg {
        NewLeg {
            id: LegId::from_bytes(self.digest(kind, "", portal)),
            portal: portal.clone(),
            says: Says::Notice(words, None),
            sent_at: at,
        }
    }

    /// The id of something of this kind that an event causes in a portal.
    pub(crate) fn id(&self, kind: &str, cause: &EventId, portal: &PortalId) -> LegId {
        LegId::from_bytes(self.digest(kind, cause.as_str(), portal))
    }

    /// What an event in a portal said that somebody cannot read, once more; and the redaction of that event.
    pub(crate) fn again(&self, of: &SentLeg, portal: &PortalId, at: Timestamp) -> (NewLeg, NewLeg) {
        let leg = |kind, says, sent_at| NewLeg {
            id: LegId::from_bytes(self.digest(kind, of.event.as_str(), portal)),
            portal: portal.clone(),
            says,
            sent_at,
        };
        (
            leg("again", of.says.clone(), of.sent_at),
            leg("redaction", Says::Redaction(of.event.clone(), of.by.clone()), at),
        )
    }

    /// That what an event said is deleted, in a portal: by this user of ours, or by the ghost of whoever said it.
    pub(crate) fn deletion(
        &self,
        of: &EventId,
        portal: &PortalId,
        by: Option<OwnedUserId>,
        at: Timestamp,
    ) -> NewLeg {
        let id = LegId::from_bytes(self.digest("deletion", of.as_str(), portal));
        NewLeg { id, portal: portal.clone(), says: Says::Deletion(by), sent_at: at }
    }

    /// That an event goes from a portal, said by this user of ours.
    pub(crate) fn void(&self, of: &EventId, portal: &PortalId, by: OwnedUserId, at: Timestamp) -> NewLeg {
        let id = LegId::from_bytes(self.digest("void", of.as_str(), portal));
        NewLeg { id, portal: portal.clone(), says: Says::Redaction(of.to_owned(), by), sent_at: at }
    }

    /// The id of the message that an event was.
    pub(crate) fn message_id(&self, source: &EventId, home: &PortalId) -> MessageId {
        MessageId::from_bytes(self.digest("record", source.as_str(), home))
    }
}

/// What the bot says, once a conversation, when the first reply goes to one patient only.
pub(crate) const LANES: &str = "This reply goes to the patient it answers and to no other. What you write without \
                                replying goes to every patient here.";

/// What the bot says to whoever sends a file without a word.
pub(crate) const WORDS: &str =
    "Please write a few words about this file within ten minutes: it is delivered together with them.";

/// What the bot says to staff who send a file to one of several patients without a word.
pub(crate) const WORDS_FOR_ONE: &str = "Please write a few words about this file within ten minutes, as an answer to it or to this: \
                                        both then go to the same patient, and to nobody else.";

/// What the bot says to staff when something of a patient's is kept (TRUST-1).
pub(crate) fn unsigned(name: &str) -> String {
    format!(
        "{name} has written from a device that is not verified. It is kept, and delivered here once the device is verified; \
         until then please reach {name} in another way."
    )
}

/// What the bot says in a portal that is one-way from the beginning.
pub(crate) fn one_way(kind: PortalKind) -> &'static str {
    match kind {
        PortalKind::Hub => {
            "Responses are switched off: only this conversation's owner, and whom they have named, write here; everybody else \
             reads."
        }
        PortalKind::Spoke => "Only the practice writes in this conversation. You can read it.",
    }
}

/// What the bot says in a portal when another mode holds there from now on.
pub(crate) fn switched(kind: PortalKind, mode: Mode) -> &'static str {
    match (kind, mode) {
        (PortalKind::Hub, Mode::OneWay) => {
            "Responses are switched off: from now on only this conversation's owner, and whom they have named, write here; \
             everybody else reads."
        }
        (PortalKind::Hub, Mode::TwoWay) => {
            "Responses are switched on: from now on everybody who takes part in this conversation can write."
        }
        (PortalKind::Spoke, Mode::OneWay) => {
            "From now on only the practice writes in this conversation. You can go on reading it."
        }
        (PortalKind::Spoke, Mode::TwoWay) => "From now on you can answer in this conversation.",
    }
}

/// What the bot says to staff when somebody has left by their own client.
pub(crate) fn left(name: &str) -> String {
    format!("{name} has left this conversation by their own app: what is written here does not reach them.")
}

/// What the bot says to staff when the last of them has left by their own client.
pub(crate) fn is_last(name: &str) -> String {
    format!(
        "{name} has left this conversation by their own app, and was the last of the staff here. Patients would write to \
         nobody, so {name} is brought back: include somebody else first, then leave."
    )
}

/// What the bot says to staff when a patient takes part from now on.
pub(crate) fn includes(name: &str) -> String {
    format!(
        "{name} takes part in this conversation from now on: what is written to every patient here reaches them too."
    )
}

/// What the bot says to staff when a patient does not take part any more.
pub(crate) fn excludes(name: &str) -> String {
    format!(
        "{name} does not take part in this conversation any more: what is written here does not reach them."
    )
}

/// What the bot says to staff when somebody else owns the conversation.
pub(crate) fn owns(name: &str) -> String {
    format!("{name} owns this conversation from now on.")
}

/// What the bot says to a patient who takes part again.
pub(crate) const AGAIN: &str =
    "You take part in this conversation again. What was written meanwhile is not shown here.";

/// What the bot says to a patient who does not take part any more.
pub(crate) const CLOSED: &str =
    "You do not take part in this conversation any more. You can go on reading what was written before.";

#[cfg(test)]
mod tests {
    use ruma::event_id;

    use super::*;

    #[test]
    fn a_leg_has_one_id_and_no_two_share_it() {
        let ids = LegIds::new(Secret::new("key".to_owned()));
        let other = LegIds::new(Secret::new("other".to_owned()));
        let (here, there) = (PortalId::from_bytes([1; 16]), PortalId::from_bytes([2; 16]));
        let (a, b) = (event_id!("$a"), event_id!("$b"));
        let at = Timestamp::from_millis(1);
        let all = [
            ids.message(a, &here, at).id,
            ids.message(a, &there, at).id,
            ids.message(b, &here, at).id,
            ids.notice(a, &here, "POST-1", String::new(), at).id,
            other.message(a, &here, at).id,
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(ids.message(a, &here, Timestamp::from_millis(2)).id, all[0]);
    }
}
