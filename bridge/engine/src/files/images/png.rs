//! PNG (third edition).

use super::{Damaged, Image, Rest, only_orientation, orientation};

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

pub(super) fn png(bytes: &[u8]) -> Result<Image, Damaged> {
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
