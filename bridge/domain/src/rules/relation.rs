//! How a message stands to another one: what its `m.relates_to` says, and whether it may say so.

use serde_json::Value;

use crate::{Attachment, PersonId, Refusal, Said, Words};

/// What a relation points at. One that is there and makes no sense points at something that nobody knows; it is never as if
/// it were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointed<'a>(Option<&'a str>);

impl<'a> Pointed<'a> {
    /// The event id, as it was written.
    #[must_use]
    pub fn event_id(self) -> Option<&'a str> {
        self.0
    }
}

/// How a message stands to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation<'a> {
    /// Not at all.
    None,
    /// It answers one, stands in a thread, or both (Matrix v1.19 client-server §Rich replies, §Threading).
    Answer {
        /// What it answers; the reply that clients add in a thread for older clients (`is_falling_back`) is none.
        answers: Option<Pointed<'a>>,
        /// The root of its thread.
        thread: Option<Pointed<'a>>,
    },
    /// It says something else in its place (§Event replacements).
    Edit(Pointed<'a>),
    /// It is a reaction to it (§Annotations).
    Reaction(Pointed<'a>),
    /// Another way.
    Other,
}

impl<'a> Relation<'a> {
    /// What the content of an event says.
    #[must_use]
    pub fn of(content: &'a Value) -> Self {
        let relation = &content["m.relates_to"];
        let pointed = |value: &'a Value| Pointed(value.as_str());
        let reply = &relation["m.in_reply_to"];
        let answers = (!reply.is_null()).then(|| pointed(&reply["event_id"]));
        match (relation, &relation["rel_type"]) {
            (Value::Null, _) => Self::None,
            (Value::Object(entries), _) if entries.is_empty() => Self::None,
            (Value::Object(_), Value::Null) if answers.is_some() => Self::Answer { answers, thread: None },
            (Value::Object(_), Value::String(kind)) => match kind.as_str() {
                "m.thread" => Self::Answer {
                    answers: answers.filter(|_| relation["is_falling_back"] != true),
                    thread: Some(pointed(&relation["event_id"])),
                },
                "m.replace" => Self::Edit(pointed(&relation["event_id"])),
                "m.annotation" => Self::Reaction(pointed(&relation["event_id"])),
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// An earlier message that something is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Who wrote it.
    pub writer: &'a PersonId,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// Whether somebody may say something else in the place of a message; none is one that is not known.
///
/// # Errors
/// [`Refusal::NotYoursToEdit`], [`Refusal::EditDeleted`].
pub fn may_edit(editor: &PersonId, edited: Option<About<'_>>) -> Result<(), Refusal> {
    match edited {
        // EDIT-1: one edits one's own messages, which were passed on.
        Some(edited) if edited.writer != editor => Err(Refusal::NotYoursToEdit),
        None => Err(Refusal::NotYoursToEdit),
        // EDIT-2: what is deleted stays deleted (S18).
        Some(edited) if edited.deleted => Err(Refusal::EditDeleted),
        Some(_) => Ok(()),
    }
}

/// What an edit says in the place of a message. Of a file, that is other words about it: the file stays as it was.
///
/// # Errors
/// [`Refusal::FileChanged`]
pub fn in_its_place(said: Said, file: Option<&Attachment>) -> Result<Said, Refusal> {
    let words = match (said, file) {
        (said @ Said::Edit(_), None) => return Ok(said),
        (Said::Edit(words), Some(_)) => Some(words),
        // EDIT-3: nobody has looked at another file.
        (Said::Caption(other), Some(file)) if other.sent_as == file.sent_as => other.caption,
        (Said::Caption(_), _) => None,
        (said, _) => return Ok(said),
    };
    // EDIT-3: a file does not pass without a word about it (S11).
    let words = words.filter(Words::say_something).ok_or(Refusal::FileChanged)?;
    let file = file.ok_or(Refusal::FileChanged)?;
    Ok(Said::Caption(Box::new(Attachment { caption: Some(words), ..file.clone() })))
}

/// Whether somebody may react to a message; none is one that is not known.
///
/// # Errors
/// [`Refusal::ReactionToNothing`].
pub fn may_react(to: Option<About<'_>>) -> Result<(), Refusal> {
    // REACT-1: a reaction goes where its message went, which is nowhere when that is not known or gone.
    if to.is_some_and(|to| !to.deleted) { Ok(()) } else { Err(Refusal::ReactionToNothing) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Form, Measures, SealedFile, Shown};

    #[test]
    fn how_a_message_stands_to_another() {
        let at = |id| Some(Pointed(Some(id)));
        for (name, relation, wanted) in [
            ("nothing", json!(null), Relation::None),
            ("an empty one", json!({}), Relation::None),
            (
                "a reply",
                json!({ "m.in_reply_to": { "event_id": "$a" } }),
                Relation::Answer { answers: at("$a"), thread: None },
            ),
            (
                "a reply to nothing",
                json!({ "m.in_reply_to": 7 }),
                Relation::Answer { answers: Some(Pointed(None)), thread: None },
            ),
            (
                "in a thread",
                json!({ "rel_type": "m.thread", "event_id": "$r", "is_falling_back": true,
                    "m.in_reply_to": { "event_id": "$a" } }),
                Relation::Answer { answers: None, thread: at("$r") },
            ),
            (
                "a reply in a thread",
                json!({ "rel_type": "m.thread", "event_id": "$r", "m.in_reply_to": { "event_id": "$a" } }),
                Relation::Answer { answers: at("$a"), thread: at("$r") },
            ),
            (
                "in a thread of nothing",
                json!({ "rel_type": "m.thread" }),
                Relation::Answer { answers: None, thread: Some(Pointed(None)) },
            ),
            (
                "an edit",
                json!({ "rel_type": "m.replace", "event_id": "$a" }),
                Relation::Edit(Pointed(Some("$a"))),
            ),
            (
                "an edit that says that it answers",
                json!({ "rel_type": "m.replace", "event_id": "$a", "m.in_reply_to": { "event_id": "$b" } }),
                Relation::Edit(Pointed(Some("$a"))),
            ),
            (
                "a reaction",
                json!({ "rel_type": "m.annotation", "event_id": "$a", "key": "👍" }),
                Relation::Reaction(Pointed(Some("$a"))),
            ),
            (
                "one that nobody knows",
                json!({ "rel_type": "m.reference", "event_id": "$a" }),
                Relation::Other,
            ),
            ("no text", json!({ "rel_type": 1 }), Relation::Other),
            ("no relation", json!("$a"), Relation::Other),
        ] {
            let content = json!({ "m.relates_to": relation });
            assert_eq!(Relation::of(&content), wanted, "{name}");
        }
    }

    #[test]
    fn of_a_file_only_the_words_change() {
        let words = |body: &str| Words::new(Form::Text, body, None).expect("words");
        let file = |lies: &str, sent_as: &str, caption: Option<&str>| {
            let sealed = json!({
                "v": "v2", "url": lies, "iv": "AAAA", "hashes": { "sha256": "BBBB" },
                "key": { "kty": "oct", "alg": "A256CTR", "k": "CCCC" },
            });
            Attachment {
                shown: Shown::Image,
                name: "rash.jpg".to_owned(),
                caption: caption.map(words),
                file: SealedFile::of(&sealed).expect("a file"),
                sent_as: sent_as.into(),
                mimetype: "image/jpeg".to_owned(),
                measures: Measures::default(),
            }
        };
        // As the record has it: encrypted anew.
        let kept = file("mxc://x/anew", "mxc://x/sent", Some("a rash"));
        let caption = |file| Said::Caption(Box::new(file));
        let sent = |caption: Option<&str>| file("mxc://x/sent", "mxc://x/sent", caption);
        let other = file("mxc://x/other", "mxc://x/other", Some("two rashes"));
        let itches = || caption(Attachment { caption: Some(words("it itches")), ..kept.clone() });
        for (name, said, of, wanted) in [
            ("words for words", Said::Edit(words("b")), None, Some(Said::Edit(words("b")))),
            ("other words about a file", caption(sent(Some("it itches"))), Some(&kept), Some(itches())),
            ("the same, as text", Said::Edit(words("it itches")), Some(&kept), Some(itches())),
            ("no words", caption(sent(None)), Some(&kept), None),
            ("a dot", Said::Edit(words(".")), Some(&kept), None),
            ("another file", caption(other), Some(&kept), None),
            ("a file for words", caption(sent(Some("it itches"))), None, None),
        ] {
            assert!(in_its_place(said, of) == wanted.ok_or(Refusal::FileChanged), "{name}");
        }
    }

    #[test]
    fn who_may_edit_and_react() {
        let (kim, ann) = (PersonId::from_bytes([1; 16]), PersonId::from_bytes([2; 16]));
        let about = |writer, deleted| Some(About { writer, deleted });
        for (name, edited, wanted) in [
            ("one's own", about(&kim, false), Ok(())),
            ("another's", about(&ann, false), Err(Refusal::NotYoursToEdit)),
            ("another's, which is deleted", about(&ann, true), Err(Refusal::NotYoursToEdit)),
            ("one's own, which is deleted", about(&kim, true), Err(Refusal::EditDeleted)),
            ("unknown", None, Err(Refusal::NotYoursToEdit)),
        ] {
            assert_eq!(may_edit(&kim, edited), wanted, "{name}");
        }
        assert_eq!(may_react(about(&ann, false)), Ok(()));
        assert_eq!(may_react(about(&ann, true)), Err(Refusal::ReactionToNothing));
        assert_eq!(may_react(None), Err(Refusal::ReactionToNothing));
    }
}
