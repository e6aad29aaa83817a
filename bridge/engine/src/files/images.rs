//! Images without what they tell beside the picture: where it was taken, when, by whom and with which phone.
//!
//! Each format is walked once, from its first byte to its end, and only what a decoder needs is copied: a list of what
//! may stay, not of what must go, for the next phone has a new kind of metadata. Pixels are copied as they are. Time and
//! memory grow with the file's length and with nothing that the file says of itself.

mod gif;
mod jpeg;
mod png;
mod webp;

use self::{gif::gif, jpeg::jpeg, png::png, webp::webp};
use super::Kind;

/// Why an image's structure cannot be followed to its end. Such an image must not be handed on, for nobody knows what
/// is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// A length points outside of the file, or the file has no end.
    #[error("the image ends too early")]
    Truncated,
    /// Something stands where it must not.
    #[error("the image has a part that is out of place")]
    OutOfPlace,
    /// All is in order, but there is no picture.
    #[error("the image has no picture in it")]
    NoPicture,
}

/// The same image without EXIF, XMP, IPTC, comments, texts, times, thumbnails, and without whatever hangs behind its
/// end, such as the video of a motion photo. `None` if nothing of this is in it, and for every [`Kind`] that is not an
/// image.
///
/// What stays: the picture, its colours (ICC profile, gamma), its size on paper, its animation, and which side is up.
/// The last one is written anew as an EXIF block that holds nothing else.
///
/// # Errors
///
/// [`Damaged`], when the structure cannot be followed to the image's end. Sources: ITU T.81 annex B and T.871 (JPEG),
/// PNG third edition, GIF89a, RFC 9649 (WebP), CIPA DC-008 (EXIF).
pub fn without_metadata(kind: Kind, bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
    let Some(image) = walk(kind, bytes) else { return Ok(None) };
    let clean = image?.clean;
    Ok((clean != bytes).then_some(clean))
}

/// Width and height in pixels as the image is shown: turned as its EXIF says, and large enough for every frame. `None`
/// for what is no image, is [`Damaged`], or does not say its size; a caller that guards against bombs refuses these.
#[must_use]
pub fn dimensions(kind: Kind, bytes: &[u8]) -> Option<(u32, u32)> {
    let Image { width, height, orientation, .. } = walk(kind, bytes)?.ok()?;
    // Orientations 5 to 8 lay the image on its side.
    let shown = if orientation.is_some_and(|side| side >= 5) { (height, width) } else { (width, height) };
    (width > 0 && height > 0).then_some(shown)
}

/// What a walk through an image finds.
struct Image {
    clean: Vec<u8>,
    width: u32,
    height: u32,
    orientation: Option<u8>,
}

fn walk(kind: Kind, bytes: &[u8]) -> Option<Result<Image, Damaged>> {
    match kind {
        Kind::Jpeg => Some(jpeg(bytes)),
        Kind::Png => Some(png(bytes)),
        Kind::Gif => Some(gif(bytes)),
        Kind::Webp => Some(webp(bytes)),
        _ => None,
    }
}

/// What is left to read. It only ever gets shorter, so that every loop over it ends.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Damaged::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Reads what must stand here.
    fn exactly(&mut self, wanted: &[u8]) -> Result<(), Damaged> {
        if self.take(wanted.len())? == wanted { Ok(()) } else { Err(Damaged::OutOfPlace) }
    }

    fn length(size: u32) -> Result<usize, Damaged> {
        usize::try_from(size).map_err(|_| Damaged::Truncated)
    }
}

/// Two bytes, the low one first.
fn le16(low: u8, high: u8) -> u32 {
    u32::from(u16::from_le_bytes([low, high]))
}

/// Which side is up, 2 to 8, from an EXIF block; `None` when it lies as it is shown. A broken block says nothing, as in
/// browsers; it is not kept anyway.
fn orientation(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match tiff.first_chunk()? {
        b"II\x2A\0" => true,
        b"MM\0\x2A" => false,
        _ => return None,
    };
    let short = |pair: [u8; 2]| if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) };
    let long = |four: [u8; 4]| if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) };
    let directory = tiff.get(usize::try_from(long(*tiff.get(4..)?.first_chunk()?)).ok()?..)?;
    let (count, entries) = directory.split_first_chunk()?;
    let mut entries = entries.as_chunks::<12>().0.iter().take(usize::from(short(*count)));
    entries
        .find_map(|&[tag, tag2, kind, kind2, c, c2, c3, c4, value, value2, ..]| {
            // Tag 0x0112, one SHORT.
            let found =
                short([tag, tag2]) == 0x0112 && short([kind, kind2]) == 3 && long([c, c2, c3, c4]) == 1;
            found.then(|| short([value, value2]))
        })
        .and_then(|side| u8::try_from(side).ok().filter(|side| (2..=8).contains(side)))
}

/// An EXIF block that says which side is up and nothing else.
fn only_orientation(side: u8) -> [u8; 26] {
    let mut tiff = *b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0";
    if let Some(value) = tiff.get_mut(19) {
        *value = side;
    }
    tiff
}
