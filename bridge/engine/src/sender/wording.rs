//! What is sent of what somebody said: built anew from what may travel.

use parlour_domain::{Form, Said, Words};
use ruma::EventId;
use serde_json::{Value, json};

use crate::{attachments, store::LegContent};

/// Whether Matrix never encrypts it (Matrix v1.19 client-server §Annotations: homeservers count them).
pub(super) fn is_clear(content: &LegContent) -> bool {
    matches!(content, LegContent::Message { said: Said::Reaction(_), .. })
}

/// What is sent: built anew from what may travel, so that nothing else can.
pub(super) fn plaintext(content: &LegContent) -> Value {
    match content {
        LegContent::Message { said: Said::Message(words), about, .. } => {
            answering(worded(words), about.as_deref())
        }
        LegContent::Message { said: Said::Attachment(attachment), about, .. } => {
            answering(attachments::content(attachment), about.as_deref())
        }
        LegContent::Message { said: Said::Edit(words), about, .. } => {
            replacing(words.form(), words.body(), worded(words), about.as_deref())
        }
        LegContent::Message { said: Said::Caption(attachment), about, .. } => {
            let words = attachment.caption.as_ref().map_or(&*attachment.name, Words::body);
            replacing(Form::Text, words, attachments::content(attachment), about.as_deref())
        }
        LegContent::Message { said: Said::Reaction(emoji), about, .. } => {
            json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": about, "key": emoji.as_str() } })
        }
        LegContent::Notice { body, about } => {
            answering(json!({ "msgtype": "m.notice", "body": body, "m.mentions": {} }), about.as_deref())
        }
        // They are not encrypted, and never come here.
        LegContent::Redaction { .. } | LegContent::Deletion { .. } => Value::Null,
    }
}

fn worded(words: &Words) -> Value {
    // An empty `m.mentions`: nobody is mentioned, whatever words stand there (Matrix v1.19 §User and room mentions).
    let mut plaintext = json!({ "msgtype": words.form().msgtype(), "body": words.body(), "m.mentions": {} });
    if let Some(html) = words.html() {
        plaintext["format"] = json!("org.matrix.custom.html");
        plaintext["formatted_body"] = json!(html);
    }
    plaintext
}

/// In the place of an event; `words` are for clients that know of no edits (Matrix v1.19 client-server §Event replacements).
fn replacing(form: Form, words: &str, new_content: Value, replaced: Option<&EventId>) -> Value {
    json!({
        "msgtype": form.msgtype(), "body": format!("* {}", beginning(words)), "m.mentions": {},
        "m.new_content": new_content,
        "m.relates_to": { "rel_type": "m.replace", "event_id": replaced },
    })
}

fn answering(mut plaintext: Value, answered: Option<&EventId>) -> Value {
    if let Some(event_id) = answered {
        plaintext["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": event_id } });
    }
    plaintext
}

/// The first words of a text: the whole stands beside it, and both must fit into one event.
fn beginning(text: &str) -> String {
    const MOST_CHARACTERS: usize = 500;
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
