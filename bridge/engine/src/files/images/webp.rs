//! WebP (RFC 9649).

use super::{Damaged, Image, Rest, le16, only_orientation, orientation};

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

pub(super) fn webp(bytes: &[u8]) -> Result<Image, Damaged> {
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
