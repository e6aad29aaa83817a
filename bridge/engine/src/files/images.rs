//! Images without what they tell beside the picture: where it was taken, when, by whom and with which phone.
//!
//! Each format is walked once, from its first byte to its end, and only what a decoder needs is copied: a list of what
//! may stay, not of what must go, for the next phone has a new kind of metadata. Pixels are copied as they are. Time and
//! memory grow with the file's length and with nothing that the file says of itself.

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

// ---- JPEG ----

fn jpeg_segment(out: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) -> Result<(), Damaged> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
    out.extend([0xFF, marker]);
    out.extend(u16::try_from(length).map_err(|_| Damaged::OutOfPlace)?.to_be_bytes());
    parts.iter().for_each(|part| out.extend(*part));
    Ok(())
}

/// One match says what stays; in pieces, it could not be read as the list that it is.
fn jpeg(bytes: &[u8]) -> Result<Image, Damaged> {
    let mut rest = Rest(bytes);
    rest.exactly(&[0xFF, 0xD8])?;
    let (mut jfif, mut adobe, mut exif, mut size, mut scanned) = (None, false, None, None, false);
    let mut body = Vec::new();
    loop {
        rest.exactly(&[0xFF])?;
        // Any number of 0xFF may stand before a marker.
        let mut marker = rest.byte()?;
        while marker == 0xFF {
            marker = rest.byte()?;
        }
        match marker {
            0xD9 => break,
            0xC0..=0xCF | 0xDA..=0xFE => {}
            _ => return Err(Damaged::OutOfPlace),
        }
        let length = usize::from(u16::from_be_bytes(rest.array()?));
        let content = rest.take(length.checked_sub(2).ok_or(Damaged::OutOfPlace)?)?;
        match (marker, content) {
            // JFIF: version and size on paper, not the thumbnail behind it.
            (0xE0, [b'J', b'F', b'I', b'F', 0, ..]) if jfif.is_none() => jfif = content.first_chunk::<12>(),
            // Decoders look for EXIF before the picture only.
            (0xE1, [b'E', b'x', b'i', b'f', 0, 0, ..]) if exif.is_none() && !scanned => exif = Some(content),
            (0xE2, _) if content.starts_with(b"ICC_PROFILE\0") => {
                jpeg_segment(&mut body, marker, &[content])?
            }
            // Adobe: how the colours are mixed.
            (0xEE, [b'A', b'd', b'o', b'b', b'e', ..]) if content.len() >= 12 && !adobe => {
                adobe = true;
                jpeg_segment(&mut body, marker, &[content.get(..12).unwrap_or_default()])?;
            }
            // A scan: its header, and the picture up to the next marker that is not a restart.
            (0xDA, _) => {
                if size.is_none() {
                    return Err(Damaged::OutOfPlace);
                }
                scanned = true;
                jpeg_segment(&mut body, marker, &[content])?;
                let is_end = |pair: &[u8; 2]| matches!(pair, [0xFF, 0x01..=0xCF | 0xD8..=0xFE]);
                let end = rest.0.array_windows().position(is_end).ok_or(Damaged::Truncated)?;
                body.extend(rest.take(end)?);
            }
            // Tables, restarts, number of lines.
            (0xC4 | 0xCC | 0xDB..=0xDF, _) => jpeg_segment(&mut body, marker, &[content])?,
            // A frame: precision, height, width. A second one would be another picture.
            (0xC0..=0xCF, [_, height, height2, width, width2, ..]) if marker != 0xC8 && size.is_none() => {
                size = Some((le16(*width2, *width), le16(*height2, *height)));
                jpeg_segment(&mut body, marker, &[content])?;
            }
            (0xC0..=0xCF, _) => return Err(Damaged::OutOfPlace),
            _ => {}
        }
    }
    let (width, height) = size.filter(|_| scanned).ok_or(Damaged::NoPicture)?;
    let orientation = exif.and_then(orientation);
    let mut clean = Vec::with_capacity(body.len() + 64);
    clean.extend([0xFF, 0xD8]);
    if let Some(start) = jfif {
        jpeg_segment(&mut clean, 0xE0, &[start, &[0, 0]])?;
    }
    if let Some(side) = orientation {
        jpeg_segment(&mut clean, 0xE1, &[b"Exif\0\0", &only_orientation(side)])?;
    }
    clean.append(&mut body);
    clean.extend([0xFF, 0xD9]);
    Ok(Image { clean, width, height, orientation })
}

// ---- PNG ----

/// The chunks that stay, with the most bytes that they can need: what is longer hides something.
const PNG_CHUNKS: [(&[u8; 4], usize); 15] = [
    (b"IHDR", 13),
    (b"PLTE", 768),
    (b"IDAT", usize::MAX),
    (b"IEND", 0),
    (b"tRNS", 256),
    (b"gAMA", 4),
    (b"cHRM", 32),
    (b"sRGB", 1),
    (b"iCCP", usize::MAX),
    (b"sBIT", 4),
    (b"bKGD", 6),
    (b"pHYs", 9),
    (b"acTL", 8),
    (b"fcTL", 26),
    (b"fdAT", usize::MAX),
];

/// The check sum behind each chunk, over its name and content (PNG third edition, annex D).
fn png_check(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

fn png(bytes: &[u8]) -> Result<Image, Damaged> {
    let mut rest = Rest(bytes);
    let head = rest.take(16)?;
    if head != b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR" {
        return Err(Damaged::OutOfPlace);
    }
    let (width, height) = (u32::from_be_bytes(rest.array()?), u32::from_be_bytes(rest.array()?));
    let header = bytes.get(..33).ok_or(Damaged::Truncated)?;
    rest.take(9)?;
    let mut clean = header.to_vec();
    let (mut exif, mut animated, mut picture) = (None, false, None);
    loop {
        let chunk = rest.0;
        let length = Rest::length(u32::from_be_bytes(rest.array()?))?;
        let name = rest.array::<4>()?;
        let content = rest.take(length)?;
        rest.take(4)?;
        let chunk = chunk.get(..chunk.len() - rest.0.len()).unwrap_or_default();
        let stays = PNG_CHUNKS.iter().any(|(known, most)| **known == name && length <= *most);
        match &name {
            b"IHDR" => return Err(Damaged::OutOfPlace),
            b"eXIf" if exif.is_none() => exif = Some(content),
            // Without the chunk that announces them, frames are not shown.
            b"fcTL" | b"fdAT" if !animated => {}
            // A name in upper case: no decoder can do without it.
            [b'A'..=b'Z', ..] if !stays => return Err(Damaged::OutOfPlace),
            _ if stays => {
                animated |= name == *b"acTL" && picture.is_none();
                if name == *b"IDAT" && picture.is_none() {
                    picture = Some(clean.len());
                }
                clean.extend(chunk);
            }
            _ => {}
        }
        if name == *b"IEND" {
            break;
        }
    }
    let picture = picture.ok_or(Damaged::NoPicture)?;
    let orientation = exif.and_then(orientation);
    if let Some(side) = orientation {
        let named = [&b"eXIf"[..], &only_orientation(side)].concat();
        let check = png_check(named.iter().copied()).to_be_bytes();
        clean.splice(picture..picture, [&[0, 0, 0, 26][..], &named, &check].concat());
    }
    Ok(Image { clean, width, height, orientation })
}

// ---- GIF ----

impl<'a> Rest<'a> {
    /// Blocks of up to 255 bytes, each with its length before it, up to and with the empty one.
    fn gif_blocks(&mut self) -> Result<&'a [u8], Damaged> {
        let start = self.0;
        while self.0.first().is_some_and(|length| *length > 0) {
            let length = self.byte()?;
            self.take(usize::from(length))?;
        }
        self.byte()?;
        Ok(start.get(..start.len() - self.0.len()).unwrap_or_default())
    }

    /// The colours that a byte of flags announces.
    fn gif_colours(&mut self, flags: u8) -> Result<&'a [u8], Damaged> {
        self.take(if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) })
    }
}

fn gif(bytes: &[u8]) -> Result<Image, Damaged> {
    let mut rest = Rest(bytes);
    let head = rest.take(6)?;
    if head != b"GIF87a" && head != b"GIF89a" {
        return Err(Damaged::OutOfPlace);
    }
    let screen @ [w, w2, h, h2, flags, _, _] = rest.array()?;
    let (mut width, mut height) = (le16(w, w2), le16(h, h2));
    let mut clean = [head, &screen, rest.gif_colours(flags)?].concat();
    // How the next picture is shown (its time, its clear colour). It belongs to a plain text if that comes first.
    let mut control: Option<[u8; 8]> = None;
    let mut picture = false;
    loop {
        match rest.byte()? {
            0x3B => break,
            0x2C => {
                let place @ [x, x2, y, y2, w, w2, h, h2, flags] = rest.array()?;
                width = width.max(le16(x, x2) + le16(w, w2));
                height = height.max(le16(y, y2) + le16(h, h2));
                clean.extend(control.take().iter().flatten());
                clean.push(0x2C);
                clean.extend(place);
                clean.extend(rest.gif_colours(flags)?);
                clean.push(rest.byte()?);
                clean.extend(rest.gif_blocks()?);
                picture = true;
            }
            0x21 => match (rest.byte()?, rest.gif_blocks()?) {
                (0xF9, &[4, a, b, c, d, 0]) => control = Some([0x21, 0xF9, 4, a, b, c, d, 0]),
                (0xF9, _) => return Err(Damaged::OutOfPlace),
                (0x01, _) => control = None,
                // How often an animation runs.
                (0xFF, [11, rest @ ..]) => {
                    let (name, times) = rest.split_at_checked(11).ok_or(Damaged::Truncated)?;
                    if let (b"NETSCAPE2.0" | b"ANIMEXTS1.0", [3, 1, low, high, ..]) = (name, times) {
                        clean.extend([0x21, 0xFF, 11]);
                        clean.extend(name);
                        clean.extend([3, 1, *low, *high, 0]);
                    }
                }
                _ => {}
            },
            _ => return Err(Damaged::OutOfPlace),
        }
    }
    clean.push(0x3B);
    if picture { Ok(Image { clean, width, height, orientation: None }) } else { Err(Damaged::NoPicture) }
}

// ---- WebP ----

impl<'a> Rest<'a> {
    /// A chunk's name and content. What fills it up to an even length may be missing at the end of a file.
    fn webp_chunk(&mut self) -> Result<([u8; 4], &'a [u8]), Damaged> {
        let name = self.array()?;
        let content = Self::length(u32::from_le_bytes(self.array()?)).and_then(|length| self.take(length))?;
        self.take((content.len() & 1).min(self.0.len()))?;
        Ok((name, content))
    }
}

fn webp_chunk(out: &mut Vec<u8>, name: [u8; 4], content: &[u8]) -> Result<(), Damaged> {
    out.extend(name);
    out.extend(u32::try_from(content.len()).map_err(|_| Damaged::OutOfPlace)?.to_le_bytes());
    out.extend(content);
    out.resize(out.len() + (content.len() & 1), 0);
    Ok(())
}

/// Width and height of a picture by its own header (RFC 6386 §9.1, RFC 9649 §3.4). `None` for other chunks.
fn webp_picture(name: [u8; 4], content: &[u8]) -> Option<(u32, u32)> {
    match (&name, content) {
        (b"VP8 ", &[_, _, _, 0x9D, 0x01, 0x2A, w, w2, h, h2, ..]) => {
            Some((le16(w, w2 & 0x3F), le16(h, h2 & 0x3F)))
        }
        (b"VP8L", &[0x2F, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([a, b, c, d]);
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        _ => None,
    }
}

/// One picture of a WebP file: the colours, and for the lossy kind how clear they are.
#[derive(Default)]
struct WebpFrame<'a> {
    alpha: Option<&'a [u8]>,
    picture: Option<([u8; 4], &'a [u8])>,
}

impl<'a> WebpFrame<'a> {
    fn see(&mut self, name: [u8; 4], content: &'a [u8]) {
        if self.picture.is_none() && name == *b"ALPH" {
            self.alpha.get_or_insert(content);
        } else if self.picture.is_none() && webp_picture(name, content).is_some() {
            self.picture = Some((name, content));
        }
    }

    /// Writes it, and gives its width and height.
    fn write(self, out: &mut Vec<u8>) -> Result<(u32, u32), Damaged> {
        let (name, content) = self.picture.ok_or(Damaged::NoPicture)?;
        if let Some(alpha) = self.alpha.filter(|_| name == *b"VP8 ") {
            webp_chunk(out, *b"ALPH", alpha)?;
        }
        webp_chunk(out, name, content)?;
        webp_picture(name, content).ok_or(Damaged::NoPicture)
    }
}

fn webp(bytes: &[u8]) -> Result<Image, Damaged> {
    let mut file = Rest(bytes);
    file.exactly(b"RIFF")?;
    let size = Rest::length(u32::from_le_bytes(file.array()?))?;
    let mut rest = Rest(file.take(size)?);
    rest.exactly(b"WEBP")?;
    let mut clean = b"RIFF\0\0\0\0WEBP".to_vec();
    let (name, content) = rest.webp_chunk()?;
    let (width, height, orientation) = if name == *b"VP8X" {
        webp_extended(content, rest, &mut clean)?
    } else {
        // The simple form is over after its picture.
        let mut frame = WebpFrame::default();
        frame.see(name, content);
        let (width, height) = frame.write(&mut clean)?;
        (width, height, None)
    };
    let size = u32::try_from(clean.len() - 8).map_err(|_| Damaged::OutOfPlace)?;
    if let Some(field) = clean.get_mut(4..8) {
        field.copy_from_slice(&size.to_le_bytes());
    }
    Ok(Image { clean, width, height, orientation })
}

/// The form with a head that says what else is in the file. Gives width, height and which side is up.
fn webp_extended(
    head: &[u8],
    mut rest: Rest<'_>,
    out: &mut Vec<u8>,
) -> Result<(u32, u32, Option<u8>), Damaged> {
    const PROFILE: u8 = 0x20;
    const ALPHA: u8 = 0x10;
    const EXIF: u8 = 0x08;
    const ANIMATED: u8 = 0x02;
    let &[flags, _, _, _, w, w2, w3, h, h2, h3, ..] = head else { return Err(Damaged::Truncated) };
    let (mut width, mut height) =
        (u32::from_le_bytes([w, w2, w3, 0]) + 1, u32::from_le_bytes([h, h2, h3, 0]) + 1);
    let (mut profile, mut moves, mut exif) = (None, None, None);
    let (mut still, mut frames) = (WebpFrame::default(), Vec::new());
    while !rest.0.is_empty() {
        let (name, content) = rest.webp_chunk()?;
        match &name {
            b"ICCP" if profile.is_none() => profile = Some(content),
            b"EXIF" if exif.is_none() => exif = Some(content),
            b"ANIM" if moves.is_none() => moves = content.first_chunk::<6>(),
            b"ANMF" if flags & ANIMATED != 0 => {
                let mut parts = Rest(content);
                let mut clean = parts.take(16)?.to_vec();
                let mut frame = WebpFrame::default();
                while !parts.0.is_empty() {
                    let (name, content) = parts.webp_chunk()?;
                    frame.see(name, content);
                }
                let (frame_width, frame_height) = frame.write(&mut clean)?;
                (width, height) = (width.max(frame_width), height.max(frame_height));
                webp_chunk(&mut frames, name, &clean)?;
            }
            _ if flags & ANIMATED == 0 => still.see(name, content),
            _ => {}
        }
    }
    let side = exif.and_then(orientation);
    let kept = flags & (ALPHA | ANIMATED)
        | if profile.is_some() { PROFILE } else { 0 }
        | if side.is_some() { EXIF } else { 0 };
    webp_chunk(out, *b"VP8X", &[kept, 0, 0, 0, w, w2, w3, h, h2, h3])?;
    if let Some(profile) = profile {
        webp_chunk(out, *b"ICCP", profile)?;
    }
    if flags & ANIMATED == 0 {
        let (still_width, still_height) = still.write(out)?;
        (width, height) = (width.max(still_width), height.max(still_height));
    } else {
        webp_chunk(out, *b"ANIM", moves.ok_or(Damaged::NoPicture)?)?;
        if frames.is_empty() {
            return Err(Damaged::NoPicture);
        }
        out.append(&mut frames);
    }
    if let Some(side) = side {
        webp_chunk(out, *b"EXIF", &only_orientation(side))?;
    }
    Ok((width, height, side))
}
