//! Attachments (S11): a file that a message brings along, as far as it may travel. Its bytes stay with the homeserver, encrypted;
//! where they lie and what opens them is all that a message holds, and the record keeps.

use ruma::OwnedMxcUri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Words;

/// What a file is shown as (Matrix v1.19 client-server §m.room.message msgtypes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// `m.image`
    Image,
    /// `m.file`
    File,
    /// `m.audio`
    Audio,
    /// `m.video`
    Video,
}

impl Shown {
    /// The `msgtype`.
    #[must_use]
    pub fn msgtype(self) -> &'static str {
        match self {
            Self::Image => "m.image",
            Self::File => "m.file",
            Self::Audio => "m.audio",
            Self::Video => "m.video",
        }
    }

    /// What a `msgtype` shows, if it is one of a file.
    #[must_use]
    pub fn of(msgtype: &str) -> Option<Self> {
        [Self::Image, Self::File, Self::Audio, Self::Video]
            .into_iter()
            .find(|shown| shown.msgtype() == msgtype)
    }
}

/// Where a file lies, and what opens it (Matrix v1.19 client-server §Sending encrypted attachments). It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    url: OwnedMxcUri,
    key: String,
    iv: String,
    sha256: String,
}

/// The longest that any of its values may be: keys and hashes are shorter.
const MOST_VALUE_BYTES: usize = 255;

impl SealedFile {
    /// From the `file` of a message; none when it makes no sense.
    #[must_use]
    pub fn of(file: &Value) -> Option<Self> {
        let fits = |value: &Value| {
            let text = value.as_str().filter(|text| (1..=MOST_VALUE_BYTES).contains(&text.len()))?;
            let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
            plain.then(|| text.to_owned())
        };
        let url: OwnedMxcUri = fits(&file["url"])?.into();
        url.parts().ok()?;
        let is_known = file["v"] == "v2" && file["key"]["alg"] == "A256CTR" && file["key"]["kty"] == "oct";
        let (key, iv, sha256) =
            (fits(&file["key"]["k"])?, fits(&file["iv"])?, fits(&file["hashes"]["sha256"])?);
        is_known.then_some(Self { url, key, iv, sha256 })
    }

    /// Where it lies.
    #[must_use]
    pub fn url(&self) -> &OwnedMxcUri {
        &self.url
    }

    /// As it stands in a message.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "v": "v2",
            "url": self.url,
            "key": { "kty": "oct", "alg": "A256CTR", "ext": true, "key_ops": ["encrypt", "decrypt"], "k": self.key },
            "iv": self.iv,
            "hashes": { "sha256": self.sha256 },
        })
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// How many bytes it has.
    pub bytes: u64,
    /// Width and height of what it shows, in pixels, where it shows something.
    pub pixels: Option<(u32, u32)>,
    /// How long it lasts, in milliseconds, as its sender's client says.
    pub millis: Option<u64>,
}

/// A file that a message brings along.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// What it is shown as.
    pub shown: Shown,
    /// Its name.
    pub name: String,
    /// What is said of it.
    pub caption: Option<Words>,
    /// Where it lies.
    pub file: SealedFile,
    /// Where it lay as its sender sent it: elsewhere, if it was encrypted anew.
    pub sent_as: OwnedMxcUri,
    /// What it is, by its bytes; empty until they were looked at.
    pub mimetype: String,
    /// How large it is.
    pub measures: Measures,
}

/// The longest name of a file, in characters.
const MOST_NAME: usize = 120;
/// The longest that a recording may last by what its sender's client says: a week.
const MOST_MILLIS: u64 = 7 * 24 * 60 * 60 * 1000;

/// A name that shows nothing else than it is: no line breaks, no characters that turn the writing around, no folders.
#[must_use]
pub fn file_name(name: &str) -> String {
    // Those that show nothing, that break lines, and that turn the writing around; not those that join letters.
    let hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'
            | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let seen: String =
        last.chars().filter(|c| !hidden(*c) && (c.is_whitespace() || !c.is_control())).collect();
    let shown: String =
        seen.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST_NAME).collect();
    let shown = shown.trim_end();
    if shown.is_empty() { "file".to_owned() } else { shown.to_owned() }
}

/// A name with one of these endings, the first if it has none: by its ending it is decided what a file is opened with.
#[must_use]
pub fn with_ending(name: &str, endings: &[&str]) -> String {
    let has = |ending: &&str| {
        name.rsplit_once('.')
            .is_some_and(|(stem, last)| !stem.is_empty() && last.eq_ignore_ascii_case(ending))
    };
    match endings.first() {
        Some(first) if !endings.iter().any(has) => format!("{name}.{first}"),
        _ => name.to_owned(),
    }
}

impl Measures {
    /// From the `info` of a message, as its sender's client says.
    #[must_use]
    pub fn of(info: &Value) -> Self {
        Self {
            bytes: info["size"].as_u64().unwrap_or_default(),
            pixels: None,
            millis: info["duration"].as_u64().filter(|millis| *millis <= MOST_MILLIS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(url: &str) -> Value {
        json!({
            "v": "v2", "url": url, "iv": "AAAA", "hashes": { "sha256": "BBBB" },
            "key": { "kty": "oct", "alg": "A256CTR", "ext": true, "key_ops": ["encrypt", "decrypt"], "k": "CCCC" },
        })
    }

    #[test]
    fn a_file_is_where_it_says_and_opened_as_it_says() {
        let good = file("mxc://x/y");
        assert_eq!(SealedFile::of(&good).expect("a file").to_json(), good);
        let with = |path: &str, value: Value| {
            let mut file = file("mxc://x/y");
            *file.pointer_mut(path).expect("a value") = value;
            file
        };
        for (name, file) in [
            ("nothing", Value::Null),
            ("elsewhere", file("https://x/y")),
            ("nowhere", file("mxc://x")),
            ("another version", with("/v", json!("v1"))),
            ("another cipher", with("/key/alg", json!("none"))),
            ("no key", with("/key/k", Value::Null)),
            ("a very long key", with("/key/k", json!("x".repeat(256)))),
            ("a line break", with("/iv", json!("a\nb"))),
            ("no hash", with("/hashes", json!({}))),
        ] {
            assert!(SealedFile::of(&file).is_none(), "{name}");
        }
    }

    #[test]
    fn a_name_is_one_line_that_hides_nothing() {
        for (name, wanted) in [
            ("result.png", "result.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\scans\\a.pdf", "a.pdf"),
            ("a\u{202e}gnp.exe", "agnp.exe"),
            ("two\nlines.pdf", "two lines.pdf"),
            ("a\u{200b}\u{2029}\u{3164}b.pdf", "ab.pdf"),
            ("می\u{200c}خواهم.pdf", "می\u{200c}خواهم.pdf"),
            ("result.pdf          .js", "result.pdf .js"),
            (" ", "file"),
            ("", "file"),
            ("folder/", "file"),
        ] {
            assert_eq!(file_name(name), wanted, "{name:?}");
        }
        assert_eq!(file_name(&"x".repeat(500)).len(), MOST_NAME);
    }

    #[test]
    fn a_name_ends_as_what_it_is() {
        for (name, wanted) in [
            ("result.txt", "result.txt"),
            ("LIST.CSV", "LIST.CSV"),
            ("result.js", "result.js.txt"),
            ("result.txt.", "result.txt..txt"),
            ("result", "result.txt"),
            (".txt", ".txt.txt"),
            ("txt", "txt.txt"),
        ] {
            assert_eq!(with_ending(name, &["txt", "csv"]), wanted, "{name:?}");
        }
    }
}
