//! What may be sent: kinds and sizes.

use crate::{MAX_TEXT_BYTES, Refusal, without_reply_fallback};

/// A message that may travel: plain words.
#[derive(Clone, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an event says something to people. Two devices that verify each other say nothing to anybody
/// (Matrix v1.19 client-server §Key verification framework), and that is nobody else's matter.
#[must_use]
pub fn is_message(event_type: &str, msgtype: Option<&str>) -> bool {
    const VERIFICATION: &str = "m.key.verification.";
    !event_type.starts_with(VERIFICATION) && !msgtype.is_some_and(|kind| kind.starts_with(VERIFICATION))
}

/// How a message stands to another one (`m.relates_to`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Not at all.
    None,
    /// It answers it, or stands in its thread.
    Answer,
    /// Another way: an edit, or one that nobody knows.
    Other,
}

/// What of a decrypted event may be passed on: the words of an `m.room.message` of `msgtype` `m.text` that
/// replaces nothing.
///
/// # Errors
/// [`Refusal::Kind`], [`Refusal::TooLong`].
pub fn may_relay(
    event_type: &str,
    msgtype: Option<&str>,
    relation: Relation,
    body: Option<&str>,
) -> Result<Words, Refusal> {
    // KIND-1: what is not known is not passed on, and its sender hears of it.
    let known = event_type == "m.room.message" && msgtype == Some("m.text") && relation != Relation::Other;
    let Some(body) = body.filter(|_| known) else { return Err(Refusal::Kind) };
    let words = if relation == Relation::Answer { without_reply_fallback(body) } else { body };
    if words.trim().is_empty() {
        return Err(Refusal::Kind);
    }
    // SIZE-1: a leg must fit into one event, encrypted.
    if words.len() + words.chars().filter(|c| c.is_control() || matches!(c, '"' | '\\')).count() * 5
        > MAX_TEXT_BYTES
    {
        return Err(Refusal::TooLong);
    }
    Ok(Words(words.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_verify_each_other_say_nothing() {
        for (event_type, msgtype, wanted) in [
            ("m.room.message", Some("m.text"), true),
            ("m.room.message", Some("m.key.verification.request"), false),
            ("m.key.verification.start", None, false),
            ("m.reaction", None, true),
        ] {
            assert_eq!(is_message(event_type, msgtype), wanted, "{event_type} {msgtype:?}");
        }
    }

    #[test]
    fn what_may_travel() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        for (name, event_type, msgtype, relation, body, wanted) in [
            ("text", "m.room.message", Some("m.text"), Relation::None, Some("Hello"), Ok("Hello")),
            (
                "an answer",
                "m.room.message",
                Some("m.text"),
                Relation::Answer,
                Some("> <@a:x> b\n\nc"),
                Ok("c"),
            ),
            (
                "no answer",
                "m.room.message",
                Some("m.text"),
                Relation::None,
                Some("> <@a:x> b"),
                Ok("> <@a:x> b"),
            ),
            (
                "an edit",
                "m.room.message",
                Some("m.text"),
                Relation::Other,
                Some("* Hello"),
                Err(Refusal::Kind),
            ),
            (
                "an image",
                "m.room.message",
                Some("m.image"),
                Relation::None,
                Some("x.png"),
                Err(Refusal::Kind),
            ),
            ("a sticker", "m.sticker", None, Relation::None, Some("smile"), Err(Refusal::Kind)),
            ("no words", "m.room.message", Some("m.text"), Relation::None, None, Err(Refusal::Kind)),
            (
                "white space",
                "m.room.message",
                Some("m.text"),
                Relation::None,
                Some(" \n"),
                Err(Refusal::Kind),
            ),
            (
                "too long",
                "m.room.message",
                Some("m.text"),
                Relation::None,
                Some(&*long),
                Err(Refusal::TooLong),
            ),
        ] {
            let found = may_relay(event_type, msgtype, relation, body);
            assert_eq!(found.as_ref().map(Words::as_str).map_err(|r| *r), wanted, "{name}");
        }
    }

    impl std::fmt::Debug for Words {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Words(…)")
        }
    }
}
