//! What may be sent: kinds and sizes.

use serde_json::Value;

use super::Relation;
use crate::{
    Attachment, Emoji, Form, Measures, Refusal, Said, SealedFile, Shown, UnfitWords, Words, file_name,
    without_reply_fallback,
};

/// Whether an event says something to people. Two devices that verify each other say nothing to anybody
/// (Matrix v1.19 client-server §Key verification framework), and that is nobody else's matter.
#[must_use]
pub fn is_message(event_type: &str, msgtype: Option<&str>) -> bool {
    const VERIFICATION: &str = "m.key.verification.";
    !event_type.starts_with(VERIFICATION) && !msgtype.is_some_and(|kind| kind.starts_with(VERIFICATION))
}

/// What of a readable event may be passed on.
///
/// # Errors
/// [`Refusal::Kind`], [`Refusal::TooLong`], [`Refusal::NoEmoji`], [`Refusal::NotEncrypted`].
pub fn may_relay(event_type: &str, content: &Value, relation: Relation<'_>) -> Result<Said, Refusal> {
    match (event_type, relation) {
        ("m.room.message", Relation::None | Relation::Answer { .. }) => {
            let answers = matches!(relation, Relation::Answer { .. });
            if let Some(shown) = content["msgtype"].as_str().and_then(Shown::of) {
                return attachment(shown, content, answers)
                    .map(|attachment| Said::Attachment(Box::new(attachment)));
            }
            words(content, answers).map(Said::Message)
        }
        // What is edited may have been an answer, and older clients quote what that answered.
        ("m.room.message", Relation::Edit(_)) => {
            let content = &content["m.new_content"];
            match content["msgtype"].as_str().and_then(Shown::of) {
                Some(shown) => attachment(shown, content, true).map(|file| Said::Caption(Box::new(file))),
                None => words(content, true).map(Said::Edit),
            }
        }
        // REACT-2: homeservers can read what people react with.
        ("m.reaction", Relation::Reaction(_)) => {
            let key = content["m.relates_to"]["key"].as_str();
            key.and_then(Emoji::new).map(Said::Reaction).ok_or(Refusal::NoEmoji)
        }
        // KIND-1: what is not known is not passed on, and its sender hears of it.
        _ => Err(Refusal::Kind),
    }
}

/// A file, and what is said of it: a `body` that is not the file's name (Matrix v1.19 client-server §Media captions).
fn attachment(shown: Shown, content: &Value, may_quote: bool) -> Result<Attachment, Refusal> {
    // ENC-1: the homeserver could read it.
    if content["file"].is_null() && content["url"].is_string() {
        return Err(Refusal::NotEncrypted);
    }
    let file = SealedFile::of(&content["file"]).ok_or(Refusal::Kind)?;
    let body = content["body"].as_str().ok_or(Refusal::Kind)?;
    let body = if may_quote { without_reply_fallback(body) } else { body };
    let name = content["filename"].as_str();
    let says_something = name.is_some_and(|name| name != body) && !body.trim().is_empty();
    let caption = if says_something {
        let html =
            content["formatted_body"].as_str().filter(|_| content["format"] == "org.matrix.custom.html");
        Some(Words::new(Form::Text, body, html).map_err(|_| Refusal::TooLong)?)
    } else {
        None
    };
    let caption = caption.filter(Words::say_something);
    Ok(Attachment {
        shown,
        name: file_name(name.unwrap_or(body)),
        caption,
        sent_as: file.url().clone(),
        file,
        mimetype: String::new(),
        measures: Measures::of(&content["info"]),
    })
}

fn words(content: &Value, may_quote: bool) -> Result<Words, Refusal> {
    let form = content["msgtype"].as_str().and_then(Form::of).ok_or(Refusal::Kind)?;
    let body = content["body"].as_str().ok_or(Refusal::Kind)?;
    let body = if may_quote { without_reply_fallback(body) } else { body };
    let is_html = content["format"] == "org.matrix.custom.html";
    let html = content["formatted_body"].as_str().filter(|_| is_html);
    Words::new(form, body, html).map_err(|unfit| match unfit {
        UnfitWords::Empty => Refusal::Kind,
        // SIZE-1: a leg must fit into one event, encrypted.
        UnfitWords::TooLong => Refusal::TooLong,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
        let with = |mut content: Value, relation: Value| {
            content["m.relates_to"] = relation;
            content
        };
        let reply = json!({ "m.in_reply_to": { "event_id": "$a" } });
        let replace = json!({ "rel_type": "m.replace", "event_id": "$a" });
        let edit = |new: Value| {
            let mut content = with(text("* new"), replace.clone());
            content["m.new_content"] = new;
            content
        };
        let react = |key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": "$a", "key": key } });
        let file = |msgtype: &str, body: &str, filename: Option<&str>| {
            json!({
                "msgtype": msgtype, "body": body, "filename": filename,
                "file": {
                    "v": "v2", "url": "mxc://x/y", "iv": "AAAA", "hashes": { "sha256": "BBBB" },
                    "key": { "kty": "oct", "alg": "A256CTR", "k": "CCCC" },
                },
            })
        };
        let (message, reaction) = ("m.room.message", "m.reaction");
        for (name, event_type, content, wanted) in [
            ("text", message, text("Hello"), Ok(("message", "m.text", "Hello"))),
            (
                "a notice",
                message,
                json!({ "msgtype": "m.notice", "body": "a" }),
                Ok(("message", "m.notice", "a")),
            ),
            (
                "an emote",
                message,
                json!({ "msgtype": "m.emote", "body": "waves" }),
                Ok(("message", "m.emote", "waves")),
            ),
            (
                "an answer",
                message,
                with(text("> <@a:x> b\n\nc"), reply.clone()),
                Ok(("message", "m.text", "c")),
            ),
            ("no answer", message, text("> <@a:x> b"), Ok(("message", "m.text", "> <@a:x> b"))),
            ("an edit", message, edit(text("new")), Ok(("edit", "m.text", "new"))),
            (
                "an edit of an answer",
                message,
                edit(text("> <@a:x> a secret\n\nnew")),
                Ok(("edit", "m.text", "new")),
            ),
            ("an edit into no picture", message, edit(json!({ "msgtype": "m.image" })), Err(Refusal::Kind)),
            (
                "other words about a picture",
                message,
                edit(file("m.image", "the rash, on Monday", Some("x.png"))),
                Ok(("edit", "m.image", "the rash, on Monday")),
            ),
            ("an edit into nothing", message, with(text("* new"), replace.clone()), Err(Refusal::Kind)),
            ("an edit that is too long", message, edit(text(&"x".repeat(40_001))), Err(Refusal::TooLong)),
            ("a reaction", reaction, react("👍"), Ok(("reaction", "", "👍"))),
            ("a reaction of words", reaction, react("call me"), Err(Refusal::NoEmoji)),
            ("a reaction to nothing", reaction, json!({}), Err(Refusal::Kind)),
            ("a reaction that is a message", message, with(text("a"), react("👍")), Err(Refusal::Kind)),
            ("an image", message, file("m.image", "x.png", None), Ok(("message", "m.image", "x.png"))),
            (
                "an image with a caption",
                message,
                file("m.image", "the rash", Some("x.png")),
                Ok(("message", "m.image", "the rash")),
            ),
            (
                "an image with a caption, that answers",
                message,
                with(file("m.image", "> <@a:x> b\n\nthe rash", Some("x.png")), reply.clone()),
                Ok(("message", "m.image", "the rash")),
            ),
            (
                "a quotation is no caption",
                message,
                with(file("m.image", "> <@a:x> b\n\nx.png", Some("x.png")), reply.clone()),
                Ok(("message", "m.image", "x.png")),
            ),
            (
                "its own name is no caption",
                message,
                file("m.file", "x.pdf", Some("x.pdf")),
                Ok(("message", "m.file", "x.pdf")),
            ),
            (
                "a dot is none",
                message,
                file("m.file", ".", Some("x.pdf")),
                Ok(("message", "m.file", "x.pdf")),
            ),
            (
                "a blank is none",
                message,
                file("m.file", "\u{200b}", Some("x.pdf")),
                Ok(("message", "m.file", "x.pdf")),
            ),
            (
                "an emoji is one",
                message,
                file("m.file", "👍", Some("x.pdf")),
                Ok(("message", "m.file", "👍")),
            ),
            (
                "white space is none",
                message,
                file("m.audio", " ", Some("x.mp3")),
                Ok(("message", "m.audio", "x.mp3")),
            ),
            (
                "an image that the homeserver can read",
                message,
                json!({ "msgtype": "m.image", "body": "x.png", "url": "mxc://x/y" }),
                Err(Refusal::NotEncrypted),
            ),
            (
                "an image of nothing",
                message,
                json!({ "msgtype": "m.image", "body": "x.png" }),
                Err(Refusal::Kind),
            ),
            ("a place", message, json!({ "msgtype": "m.location", "body": "here" }), Err(Refusal::Kind)),
            ("a sticker", "m.sticker", json!({ "body": "smile" }), Err(Refusal::Kind)),
            ("no words", message, json!({ "msgtype": "m.text" }), Err(Refusal::Kind)),
            ("white space", message, text(" \n"), Err(Refusal::Kind)),
            ("too long", message, text(&"x".repeat(40_001)), Err(Refusal::TooLong)),
            (
                "an unknown relation",
                message,
                with(text("a"), json!({ "rel_type": "m.reference" })),
                Err(Refusal::Kind),
            ),
        ] {
            let found = may_relay(event_type, &content, Relation::of(&content));
            let found = found.as_ref().map(|said| match said {
                Said::Message(words) | Said::Edit(words) => {
                    (said.kind(), words.form().msgtype(), words.body())
                }
                Said::Attachment(file) | Said::Caption(file) => {
                    let caption = file.caption.as_ref();
                    (said.kind(), file.shown.msgtype(), caption.map_or(&*file.name, |caption| caption.body()))
                }
                Said::Reaction(emoji) => (said.kind(), "", emoji.as_str()),
            });
            assert_eq!(found.map_err(|refusal| *refusal), wanted, "{name}");
        }
    }
}
