//! A message as one person's client reads it, and the shield it would show beside it.

use matrix_sdk::deserialized_responses::{ShieldState, VerificationState};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId};
use serde::Deserialize;
use serde_json::Value;

/// A message-like event of a room's timeline. Reactions, redactions and verification events are left out.
#[derive(Clone, Debug)]
pub struct Message {
    /// The event's id in this room.
    pub event_id: OwnedEventId,
    /// Who sent it, as the homeserver says.
    pub sender: OwnedUserId,
    /// The `origin_server_ts`: for a message sent later in somebody's name, the original time.
    pub sent_at: MilliSecondsSinceUnixEpoch,
    /// The event's type after decryption, `m.room.message` as a rule.
    pub kind: String,
    /// The `msgtype`; empty if there is none.
    pub msgtype: String,
    /// The `body`; empty if there is none or it cannot be read.
    pub body: String,
    /// The message this one answers. A thread's fallback (`is_falling_back`) is no answer.
    pub in_reply_to: Option<OwnedEventId>,
    /// The message this one edits (`m.replace`).
    pub replaces: Option<OwnedEventId>,
    /// The whole content, decrypted if it could be.
    pub content: Value,
    /// Whether and how it can be read.
    pub reading: Reading,
}

/// Whether and how a message can be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It was encrypted and has been decrypted.
    Readable {
        /// The shield by the lax rules, which Element clients follow.
        lax: Shield,
        /// The shield by the strict rules: red until the sender has been verified.
        strict: Shield,
        /// The state in words, for instance `Unverified(UnverifiedIdentity)`.
        level: String,
        /// The state itself.
        state: VerificationState,
    },
    /// It is encrypted and cannot be read, with the SDK's reason.
    Undecryptable {
        /// For instance `MissingMegolmSession { withheld_code: None }`.
        why: String,
    },
    /// It was redacted: nothing is left to read.
    Redacted,
    /// It came unencrypted: a red flag in an encrypted room.
    Plain,
}

/// The warning a client shows beside a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shield {
    /// None at all.
    None,
    /// A grey one, with its text.
    Grey(String),
    /// A red one, with its text.
    Red(String),
}

impl Message {
    /// Whether it was encrypted and has been decrypted.
    pub fn is_readable(&self) -> bool {
        matches!(self.reading, Reading::Readable { .. })
    }

    pub(super) fn new(wire: Wire, reading: Reading) -> Self {
        let content = wire.content;
        let relation = &content["m.relates_to"];
        let falls_back = relation["is_falling_back"].as_bool().unwrap_or(false);
        let answered = event_id(&relation["m.in_reply_to"]["event_id"]);
        let replaced = event_id(&relation["event_id"]);
        Self {
            event_id: wire.event_id,
            sender: wire.sender,
            sent_at: wire.origin_server_ts,
            kind: wire.kind,
            msgtype: text(&content["msgtype"]),
            body: text(&content["body"]),
            in_reply_to: answered.filter(|_| !falls_back),
            replaces: replaced.filter(|_| relation["rel_type"] == "m.replace"),
            content,
            reading,
        }
    }
}

impl Reading {
    pub(super) fn readable(state: VerificationState) -> Self {
        Self::Readable {
            lax: state.to_shield_state_lax().into(),
            strict: state.to_shield_state_strict().into(),
            level: format!("{state:?}"),
            state,
        }
    }
}

impl From<ShieldState> for Shield {
    fn from(state: ShieldState) -> Self {
        match state {
            ShieldState::None => Self::None,
            ShieldState::Grey { message, .. } => Self::Grey(message.to_owned()),
            ShieldState::Red { message, .. } => Self::Red(message.to_owned()),
        }
    }
}

/// A timeline event as it came, read tolerantly: an unusual one must not hide the others.
#[derive(Deserialize)]
pub(super) struct Wire {
    pub(super) event_id: OwnedEventId,
    pub(super) sender: OwnedUserId,
    pub(super) origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) content: Value,
    #[serde(default)]
    pub(super) state_key: Option<String>,
    #[serde(default)]
    pub(super) unsigned: Value,
    #[serde(default)]
    redacts: Option<OwnedEventId>,
}

impl Wire {
    /// Whether a person would see this as a message.
    pub(super) fn is_message(&self) -> bool {
        let silent = ["m.reaction", "m.room.redaction"].contains(&self.kind.as_str());
        self.state_key.is_none() && !silent && !self.kind.starts_with("m.key.verification.")
    }

    /// What this event redacts, if it is a redaction (`redacts` moved into the content with room version 11).
    pub(super) fn redacted(&self) -> Option<OwnedEventId> {
        let target = || event_id(&self.content["redacts"]).or_else(|| self.redacts.clone());
        (self.kind == "m.room.redaction").then(target).flatten()
    }
}

fn event_id(value: &Value) -> Option<OwnedEventId> {
    value.as_str().and_then(|id| id.try_into().ok())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Message, Reading, Wire};

    fn wire(kind: &str, content: serde_json::Value) -> serde_json::Result<Wire> {
        let event = json!({
            "event_id": "$a", "sender": "@ann:example.org", "origin_server_ts": 1,
            "type": kind, "content": content,
        });
        serde_json::from_value(event)
    }

    #[test]
    fn relations_are_told_apart() -> serde_json::Result<()> {
        let answer = json!({ "m.in_reply_to": { "event_id": "$b" } });
        let fallback = json!({
            "rel_type": "m.thread", "event_id": "$r", "is_falling_back": true,
            "m.in_reply_to": { "event_id": "$b" },
        });
        let edit = json!({ "rel_type": "m.replace", "event_id": "$b" });
        let table = [
            ("answer", answer, Some("$b"), None),
            ("thread fallback", fallback, None, None),
            ("edit", edit, None, Some("$b")),
            ("nothing", json!(null), None, None),
        ];
        for (name, relation, answers, replaces) in table {
            let content = json!({ "msgtype": "m.text", "body": "Hello", "m.relates_to": relation });
            let message = Message::new(wire("m.room.message", content)?, Reading::Plain);
            assert_eq!(message.in_reply_to.as_ref().map(|id| id.as_str()), answers, "{name}");
            assert_eq!(message.replaces.as_ref().map(|id| id.as_str()), replaces, "{name}");
        }
        Ok(())
    }

    #[test]
    fn only_messages_count() -> serde_json::Result<()> {
        assert!(wire("m.room.message", json!({}))?.is_message());
        assert!(wire("m.room.encrypted", json!({}))?.is_message());
        assert!(!wire("m.reaction", json!({}))?.is_message());
        let redaction = wire("m.room.redaction", json!({ "redacts": "$z" }))?;
        assert!(!redaction.is_message());
        assert_eq!(redaction.redacted().as_ref().map(|id| id.as_str()), Some("$z"));
        Ok(())
    }
}
