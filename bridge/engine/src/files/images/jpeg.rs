//! JPEG (ITU T.81 annex B, T.871).

use super::{Damaged, Image, Rest, le16, only_orientation, orientation};

fn jpeg_segment(out: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) -> Result<(), Damaged> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
    out.extend([0xFF, marker]);
    out.extend(u16::try_from(length).map_err(|_| Damaged::OutOfPlace)?.to_be_bytes());
    parts.iter().for_each(|part| out.extend(*part));
    Ok(())
}

/// One match says what stays; in pieces, it could not be read as the list that it is.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Image, Damaged> {
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
