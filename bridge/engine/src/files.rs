//! What a file is by its own bytes, and what an image must not carry on. No I/O; nothing here decodes a pixel.
//!
//! What a name or a sender says of a file is never asked, for both may lie.

mod images;
#[cfg(test)]
mod kinds;
#[cfg(all(test, feature = "pictures"))]
mod made;
#[cfg(all(test, feature = "pictures"))]
mod tests;

use std::{fmt, str::FromStr};

pub use images::{dimensions, without_metadata};

/// A kind of file that may be handed on. All others have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A photo.
    Jpeg,
    /// A picture, also an animated one.
    Png,
    /// A picture, also an animated one.
    Gif,
    /// A picture, also an animated one.
    Webp,
    /// A document.
    Pdf,
    /// Plain text in UTF-8.
    Text,
    /// Sound.
    Mp3,
    /// Sound in an MP4 container.
    Mp4Audio,
    /// Sound in an Ogg container: Opus, Vorbis, Speex or FLAC.
    Ogg,
    /// Sound.
    Wav,
    /// Moving pictures.
    Mp4,
    /// Moving pictures, or sound alone: the container is the same.
    Webm,
}

/// The mimetype is none of [`Kind::ALL`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of file that can be allowed; take some of {all}", all = Mimetypes)]
pub struct UnknownKind(String);

impl Kind {
    /// Each kind once.
    pub const ALL: [Self; 12] = [
        Self::Jpeg,
        Self::Png,
        Self::Gif,
        Self::Webp,
        Self::Pdf,
        Self::Text,
        Self::Mp3,
        Self::Mp4Audio,
        Self::Ogg,
        Self::Wav,
        Self::Mp4,
        Self::Webm,
    ];

    /// Its mimetype, in lower case and without parameters.
    #[must_use]
    pub const fn mimetype(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Pdf => "application/pdf",
            Self::Text => "text/plain",
            Self::Mp3 => "audio/mpeg",
            Self::Mp4Audio => "audio/mp4",
            Self::Ogg => "audio/ogg",
            Self::Wav => "audio/wav",
            Self::Mp4 => "video/mp4",
            Self::Webm => "video/webm",
        }
    }

    /// What names of such files end in, the usual ending first.
    #[must_use]
    pub const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Jpeg => &["jpg", "jpeg", "jpe", "jfif"],
            Self::Png => &["png"],
            Self::Gif => &["gif"],
            Self::Webp => &["webp"],
            Self::Pdf => &["pdf"],
            Self::Text => &["txt", "md", "log"],
            Self::Mp3 => &["mp3"],
            Self::Mp4Audio => &["m4a", "mp4"],
            Self::Ogg => &["ogg", "oga", "opus"],
            Self::Wav => &["wav"],
            Self::Mp4 => &["mp4", "m4v", "mov"],
            Self::Webm => &["webm", "weba"],
        }
    }

    /// Whether [`without_metadata`] and [`dimensions`] have something to say about it.
    #[must_use]
    pub const fn is_image(self) -> bool {
        matches!(self, Self::Jpeg | Self::Png | Self::Gif | Self::Webp)
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Reads a mimetype as [`Kind::mimetype`] writes it, in any case.
    fn from_str(mimetype: &str) -> Result<Self, UnknownKind> {
        let wanted = mimetype.trim();
        let found = Self::ALL.into_iter().find(|kind| kind.mimetype().eq_ignore_ascii_case(wanted));
        found.ok_or_else(|| UnknownKind(mimetype.to_owned()))
    }
}

/// Writes all mimetypes, for whoever misspelt one.
struct Mimetypes;

impl fmt::Display for Mimetypes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&Kind::ALL.map(Kind::mimetype).join(", "))
    }
}

/// How a text begins that some program would run or draw instead of showing it, in lower case.
const ACTIVE_STARTS: [&str; 12] = [
    "#!",
    "%!",
    "{\\rtf",
    "javascript:",
    "vbscript:",
    "data:text/",
    "@echo",
    "mime-version:",
    "[internetshortcut]",
    "[desktop entry]",
    "windows registry editor",
    "regedit4",
];

/// What makes a page or a program out of a text wherever it stands, in lower case. A letter or digit after it makes
/// another word of it, which is harmless.
const ACTIVE_TAGS: [&str; 11] = [
    "<script",
    "<html",
    "<svg",
    "<iframe",
    "<object",
    "<embed",
    "<img",
    "<style",
    "<!doctype",
    "<?php",
    "<?xml",
];

/// The brands of MP4 containers that browsers play. Not `qt  `, `heic`, `avif`, `3gp4` and the like.
const MP4_BRANDS: [&[u8; 4]; 19] = [
    b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9", b"mp41", b"mp42",
    b"avc1", b"dash", b"MSNV", b"M4V ", b"M4VH", b"M4VP", b"M4A ", b"M4B ",
];

/// What the file is, by its bytes alone, all of which are needed. `None` is everything that is not in [`Kind`]:
/// programs, archives, office documents, pages, drawings, and what cannot be told.
///
/// An image is known by its beginning; only [`without_metadata`] goes through it and cuts off what hangs behind it.
#[must_use]
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    match bytes {
        // A marker with a length must come next; 0xC0 to 0xFE are those that JPEG defines.
        [0xFF, 0xD8, 0xFF, 0xC0..=0xFE, ..] => Some(Kind::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', 0, 0, 0, 13, b'I', b'H', b'D', b'R', ..] => {
            Some(Kind::Png)
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Kind::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, rest @ ..] if is_webp(rest) => Some(Kind::Webp),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Kind::Wav),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some(Kind::Pdf),
        // The first page of an Ogg stream, in version 0. What is in it stands right behind its header.
        [b'O', b'g', b'g', b'S', 0, 2, ..] => {
            let codec = bytes.get(28..)?;
            let sound = [&b"OpusHead"[..], b"\x01vorbis", b"Speex   ", b"\x7FFLAC"];
            sound.iter().any(|name| codec.starts_with(name)).then_some(Kind::Ogg)
        }
        // EBML, and the document type must be WebM: Matroska can carry anything.
        [0x1A, 0x45, 0xDF, 0xA3, rest @ ..] => {
            let mut head = rest.windows(7).take(64);
            head.any(|window| window == b"\x42\x82\x84webm").then_some(Kind::Webm)
        }
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4(bytes),
        _ if is_mp3(bytes) => Some(Kind::Mp3),
        _ => is_text(bytes).then_some(Kind::Text),
    }
}

/// Whether a RIFF file is a picture in one of its three forms.
fn is_webp(rest: &[u8]) -> bool {
    matches!(rest, [b'W', b'E', b'B', b'P', b'V', b'P', b'8', b' ' | b'L' | b'X', ..])
}

/// The boxes that stand one after the other in an MP4 file or in one of its boxes: type and content. It ends at the
/// first one that does not fit.
fn boxes(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (size, name) = (rest.first_chunk::<4>()?, rest.get(4..8)?);
        let (head, size) = match u32::from_be_bytes(*size) {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(u64::from_be_bytes(*rest.get(8..)?.first_chunk()?)).ok()?),
            size => (8, usize::try_from(size).ok()?),
        };
        let content = rest.get(head..size)?;
        rest = rest.get(size..)?;
        Some((name, content))
    })
}

/// Tells sound from moving pictures by the tracks, for recorders of voice messages write the same brands as cameras.
fn mp4(bytes: &[u8]) -> Option<Kind> {
    fn inner<'a>(content: &'a [u8], wanted: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        boxes(content).filter_map(move |(name, content)| (name == wanted).then_some(content))
    }
    let (_, first) = boxes(bytes).next()?;
    let brand = first.first_chunk::<4>()?;
    if !MP4_BRANDS.contains(&brand) {
        return None;
    }
    let tracks = inner(bytes, b"moov").flat_map(|content| inner(content, b"trak"));
    let handlers =
        tracks.flat_map(|content| inner(content, b"mdia")).flat_map(|content| inner(content, b"hdlr"));
    let (mut sound, mut pictures) = (false, false);
    for handler in handlers {
        sound |= handler.get(8..12) == Some(b"soun");
        pictures |= handler.get(8..12) == Some(b"vide");
    }
    let named_sound = brand == b"M4A " || brand == b"M4B ";
    Some(if !pictures && (sound || named_sound) { Kind::Mp4Audio } else { Kind::Mp4 })
}

/// The length in bytes of the MP3 frame that begins here (ISO 11172-3 and 13818-3, layer III, and MPEG 2.5).
fn mp3_frame(bytes: &[u8]) -> Option<usize> {
    const KBITS_1: [usize; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const KBITS_2: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let &[0xFF, second, third, _, ..] = bytes else { return None };
    if second & 0xE0 != 0xE0 || second >> 1 & 3 != 1 {
        return None;
    }
    let rate: usize = *[44_100, 48_000, 32_000].get(usize::from(third >> 2 & 3))?;
    // Bitrate 0 is a free one, whose length is not told; 15 is forbidden.
    let bitrate = usize::from(third >> 4).checked_sub(1)?;
    let bits = match second >> 3 & 3 {
        3 => 144_000 * KBITS_1.get(bitrate)? / rate,
        2 => 72_000 * KBITS_2.get(bitrate)? / (rate / 2),
        0 => 72_000 * KBITS_2.get(bitrate)? / (rate / 4),
        _ => return None,
    };
    Some(bits + usize::from(third >> 1 & 1))
}

/// Two frames in a row, for the mark of one is short enough to stand in any file. An ID3v2 tag may stand before.
fn is_mp3(bytes: &[u8]) -> bool {
    let sound = match bytes {
        [b'I', b'D', b'3', 2..=4, _, _, a @ 0..0x80, b @ 0..0x80, c @ 0..0x80, d @ 0..0x80, rest @ ..] => {
            let size =
                [a, b, c, d].into_iter().fold(0, |size, seven_bits| size << 7 | usize::from(*seven_bits));
            let rest = rest.get(size..).unwrap_or_default();
            // Some writers do not count the padding as part of the tag.
            rest.iter().position(|byte| *byte != 0).and_then(|start| rest.get(start..)).unwrap_or_default()
        }
        _ => bytes,
    };
    let next = mp3_frame(sound).and_then(|length| sound.get(length..));
    next.is_some_and(|next| mp3_frame(next).is_some())
}

/// Text that nothing would take for a page or a program, not even a program that ignores the mimetype.
fn is_text(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    if text.is_empty() || text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0C')) {
        return false;
    }
    let begins = |text: &[u8], word: &str| {
        text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
    };
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{FEFF}').as_bytes();
    let markup = matches!(start, [b'<', b'!' | b'?' | b'/' | b'%' | b'a'..=b'z' | b'A'..=b'Z', ..]);
    let active = |at: &[u8]| {
        let tag = |tag: &&str| begins(at, tag) && !at.get(tag.len()).is_some_and(u8::is_ascii_alphanumeric);
        ACTIVE_TAGS.iter().any(tag)
    };
    let tags =
        start.iter().enumerate().filter(|(_, byte)| **byte == b'<').filter_map(|(at, _)| start.get(at..));
    // Readers of PDF look for its mark in the first 1024 bytes.
    let document = bytes.windows(5).take(1024).any(|window| window == b"%PDF-");
    !markup
        && !document
        && !ACTIVE_STARTS.iter().any(|word| begins(start, word))
        && !tags.into_iter().any(active)
}
