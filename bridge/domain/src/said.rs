//! What people say, as far as it may travel: built anew from what they sent, so that nothing else can.

use ruma_html::{Html, NodeRef, SanitizerConfig};
use serde::{Deserialize, Serialize};

use crate::{Attachment, MAX_TEXT_BYTES};

/// What an event says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// A message of its own.
    Message(Words),
    /// A message that brings a file along (S11).
    Attachment(Box<Attachment>),
    /// Other words for an earlier message (Matrix v1.19 client-server §Event replacements).
    Edit(Words),
    /// Other words about an earlier file, which is as it was: that file, with them.
    Caption(Box<Attachment>),
    /// An emoji about an earlier message (Matrix v1.19 client-server §Annotations).
    Reaction(Emoji),
}

impl Said {
    /// Whether it stands in the place of something earlier.
    #[must_use]
    pub fn is_edit(&self) -> bool {
        matches!(self, Self::Edit(_) | Self::Caption(_))
    }

    /// Whether it is nothing without what it is about.
    #[must_use]
    pub fn is_about_another(&self) -> bool {
        self.is_edit() || matches!(self, Self::Reaction(_))
    }

    /// What kind of thing it is, as the record keeps it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Message(_) | Self::Attachment(_) => "message",
            Self::Edit(_) | Self::Caption(_) => "edit",
            Self::Reaction(_) => "reaction",
        }
    }
}

/// How words are meant (Matrix v1.19 client-server §m.room.message msgtypes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `m.text`
    Text,
    /// `m.notice`
    Notice,
    /// `m.emote`
    Emote,
}

impl Form {
    /// The `msgtype`.
    #[must_use]
    pub fn msgtype(self) -> &'static str {
        match self {
            Self::Text => "m.text",
            Self::Notice => "m.notice",
            Self::Emote => "m.emote",
        }
    }

    /// The form that a `msgtype` is, if it is one of words.
    #[must_use]
    pub fn of(msgtype: &str) -> Option<Self> {
        [Self::Text, Self::Notice, Self::Emote].into_iter().find(|form| form.msgtype() == msgtype)
    }
}

/// Words, plain, and formatted as far as the specification allows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    form: Form,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<String>,
}

/// Why words may not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfitWords {
    /// There are none.
    Empty,
    /// There are too many.
    TooLong,
}

impl Words {
    /// Words of this form; of formatted ones what is left when everything is gone that formats nothing: pictures, quotations
    /// of answered messages, links to people and rooms, scripts, unknown elements.
    ///
    /// # Errors
    /// [`UnfitWords`]
    pub fn new(form: Form, body: &str, html: Option<&str>) -> Result<Self, UnfitWords> {
        if body.trim().is_empty() {
            return Err(UnfitWords::Empty);
        }
        if weight(body) + html.map_or(0, weight) > MAX_TEXT_BYTES {
            return Err(UnfitWords::TooLong);
        }
        // What is open in one paragraph is opened again in the next: few elements can become very many.
        let html = html.filter(|html| html.matches('<').count() <= MOST_TAGS);
        let html = html.map(sanitised).filter(|html| !html.trim().is_empty());
        // Sanitised, it may have grown: what was left open is closed.
        let html = html.filter(|html| weight(body) + weight(html) <= MAX_TEXT_BYTES);
        Ok(Self { form, body: body.to_owned(), html })
    }

    /// Whether they say anything: something that can be read, or an emoji, and not marks or blanks alone.
    #[must_use]
    pub fn say_something(&self) -> bool {
        self.body
            .chars()
            .any(|c| c.is_alphanumeric() || ('\u{2190}'..='\u{fe00}').contains(&c) || c >= '\u{1f000}')
    }

    /// How they are meant.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// The plain words.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The same as HTML, where they are formatted (`org.matrix.custom.html`).
    #[must_use]
    pub fn html(&self) -> Option<&str> {
        self.html.as_deref()
    }
}

/// How many tags formatted words have at most; of more, the plain words travel.
const MOST_TAGS: usize = 400;

/// How many bytes a text takes in an event: what JSON escapes counts as six.
fn weight(text: &str) -> usize {
    text.len() + text.chars().filter(|c| c.is_control() || matches!(c, '"' | '\\')).count() * 5
}

/// What may travel of formatted text (Matrix v1.19 client-server §m.room.message msgtypes).
fn sanitised(html: &str) -> String {
    let html = Html::parse(html);
    let gone = ["img", "script", "style", "title"];
    html.sanitize_with(&SanitizerConfig::strict().remove_reply_fallback().remove_elements(gone));
    html.children().for_each(|node| without_pills(&node));
    html.to_string()
}

/// A pill names an account or a room, which are nobody's business elsewhere: its text stays, as text.
fn without_pills(node: &NodeRef) {
    if let Some(element) = node.as_element() {
        element.attrs.borrow_mut().retain(|attribute| {
            let value = attribute.value.to_ascii_lowercase();
            let names = value.starts_with("matrix:") || value.contains("matrix.to");
            !(&*attribute.name.local == "href" && names)
        });
    }
    node.children().for_each(|child| without_pills(&child));
}

/// An emoji, or a few.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emoji(String);

impl Emoji {
    /// The longest, in bytes: families of several people are made of many characters.
    const MOST_BYTES: usize = 64;

    /// What is an emoji, and no words: homeservers see what people react with.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let letters = |c: char| c.is_alphabetic() && !('\u{1f100}'..='\u{1f1ff}').contains(&c);
        // Digits are emoji when they stand on a key: 1️⃣.
        let digits = key.chars().any(char::is_numeric) && !key.contains('\u{20e3}');
        let bare = key.chars().all(|c| c.is_ascii() || c.is_control() || c.is_whitespace());
        let fits = (1..=Self::MOST_BYTES).contains(&key.len());
        (fits && !bare && !digits && !key.chars().any(letters)).then(|| Self(key.to_owned()))
    }

    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(html: &str) -> Option<String> {
        Words::new(Form::Text, "words", Some(html)).ok()?.html
    }

    #[test]
    fn what_formats_stays_and_nothing_else() {
        for (name, html, wanted) in [
            ("bold", "<strong>two</strong> a day", Some("<strong>two</strong> a day")),
            ("a list", "<ul><li>one</li></ul>", Some("<ul><li>one</li></ul>")),
            ("a link", r#"<a href="https://hse.ie">here</a>"#, Some(r#"<a href="https://hse.ie">here</a>"#)),
            ("a pill", r#"<a href="https://matrix.to/#/@ann:x">Ann</a>"#, Some("<a>Ann</a>")),
            ("a pill, escaped", r#"<a href="https://MATRIX.to/#/%40ann:x">Ann</a>"#, Some("<a>Ann</a>")),
            ("a pill by scheme", r#"<a href="matrix:u/ann:x">Ann</a>"#, Some("Ann")),
            ("a script", "a<script>alert(1)</script>", Some("a")),
            ("a script in a link", r#"<a href="javascript:alert(1)">a</a>"#, Some("a")),
            ("what is done on a click", r#"<b onclick="x()">a</b>"#, Some("<b>a</b>")),
            ("a picture", r#"a<img src="mxc://x/y" alt="b">"#, Some("a")),
            ("a quotation", "<mx-reply><blockquote>Ann: hi</blockquote></mx-reply>yes", Some("yes")),
            ("nothing else than that", "<mx-reply>Ann: hi</mx-reply>", None),
            ("a style", r#"<p style="position:fixed">a</p>"#, Some("<p>a</p>")),
            ("a comment", "a<!-- Ann -->", Some("a")),
            ("left open", "<b>a", Some("<b>a</b>")),
        ] {
            assert_eq!(formatted(html).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn what_stands_deep_inside_ends_no_process() {
        // On a stack as small as those that messages are handled on.
        let deep = "<b>".repeat(MAX_TEXT_BYTES / 3 - 10);
        let handled =
            std::thread::Builder::new().stack_size(2 << 20).spawn(move || formatted(&deep).is_some());
        handled.expect("a thread").join().expect("no overflow");
    }

    #[test]
    fn few_elements_do_not_become_very_many() {
        let bomb = |tags: usize| {
            let open: String = (0..tags).map(|n| format!("<b {n}>")).collect();
            format!("<p>{open}{}", "<p>x".repeat(tags))
        };
        assert_eq!(formatted(&bomb(5_000)), None, "the plain words travel");
        let begun = std::time::Instant::now();
        assert!(formatted(&bomb(MOST_TAGS / 2 - 1)).is_none_or(|html| html.len() <= MAX_TEXT_BYTES));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn there_are_words_and_not_too_many() {
        let most = "x".repeat(MAX_TEXT_BYTES);
        let too_many = format!("{most}x");
        for (name, body, html, wanted) in [
            ("some", "yes", None, None),
            ("none", "", None, Some(UnfitWords::Empty)),
            ("white space", " \n", None, Some(UnfitWords::Empty)),
            ("as many as may be", &*most, None, None),
            ("one more", &*too_many, None, Some(UnfitWords::TooLong)),
            ("as many, and formatted", &*most, Some("<b>x</b>"), Some(UnfitWords::TooLong)),
        ] {
            assert_eq!(Words::new(Form::Text, body, html).err(), wanted, "{name}");
        }
        let quotes = "\"".repeat(MAX_TEXT_BYTES / 6 + 1);
        assert_eq!(Words::new(Form::Text, &quotes, None).err(), Some(UnfitWords::TooLong), "as JSON has it");
    }

    #[test]
    fn an_emoji_is_no_word() {
        for (key, wanted) in [
            ("👍", true),
            ("👍🏽", true),
            ("❤️", true),
            ("👨‍👩‍👧‍👦", true),
            ("🇮🇪", true),
            ("1️⃣", true),
            ("🅰️", true),
            ("✅", true),
            ("", false),
            ("yes", false),
            ("👍 see you at four", false),
            ("да", false),
            ("血", false),
            ("4", false),
            ("4.5", false),
            ("+1", false),
            ("!!", false),
            ("\n", false),
        ] {
            assert_eq!(Emoji::new(key).is_some(), wanted, "{key:?}");
        }
        assert!(Emoji::new(&"👍".repeat(17)).is_none(), "too many");
    }

    #[test]
    fn the_record_keeps_all_of_it() {
        let words = Words::new(Form::Emote, "waves", Some("<b>waves</b>")).expect("words");
        for said in [Said::Message(words.clone()), Said::Edit(words), Said::Reaction(Emoji("👍".to_owned()))]
        {
            let kept = serde_json::to_string(&said).expect("JSON");
            assert!(serde_json::from_str::<Said>(&kept).is_ok_and(|read| read == said), "{kept}");
        }
    }

    impl std::fmt::Debug for Words {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Words({:?})", self.form)
        }
    }
}
