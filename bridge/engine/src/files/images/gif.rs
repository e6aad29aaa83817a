//! GIF (GIF89a).

use super::{Damaged, Image, Rest, le16};

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

pub(super) fn gif(bytes: &[u8]) -> Result<Image, Damaged> {
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
