//! Pictures that are made.

/// A JPEG of one pixel, with words that no viewer shows: in a comment, as the name of the camera, and as where it was taken (ITU T.81,
/// annex B; EXIF 3.0, §4.6).
///
/// # Panics
/// When they are longer than they may be.
pub fn jpeg(words: &str) -> Vec<u8> {
    const HEAD: &[u8] =
        &[0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, b'J', b'F', b'I', b'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0];
    const PIXEL: &[u8] = &[
        0xff, 0xdb, 0x00, 0x43, 0x00, 3, 2, 2, 2, 2, 2, 3, 2, 2, 2, 3, 3, 3, 3, 4, 6, 4, 4, 4, 4, 4, 8, 6, 6,
        5, 6, 9, 8, 10, 10, 9, 8, 9, 9, 10, 12, 15, 12, 10, 11, 14, 11, 9, 9, 13, 17, 13, 14, 15, 16, 16, 17,
        16, 10, 12, 18, 19, 18, 16, 19, 15, 16, 16, 16, 0xff, 0xc9, 0x00, 0x0b, 8, 0, 1, 0, 1, 1, 1, 0x11, 0,
        0xff, 0xcc, 0x00, 0x06, 0, 0x10, 0x10, 5, 0xff, 0xda, 0x00, 0x08, 1, 1, 0, 0, 0x3f, 0, 0xd2, 0xcf,
        0x20, 0xff, 0xd9,
    ];
    let exif = exif(words.as_bytes());
    [HEAD, &segment(0xe1, &exif), &segment(0xfe, words.as_bytes()), PIXEL].concat()
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).expect("a short segment");
    [&[0xff, marker], &length.to_be_bytes()[..], content].concat()
}

/// Two directories, each with one text; the first says where the second is.
fn exif(words: &[u8]) -> Vec<u8> {
    const GPS: u32 = 8 + 2 + 2 * 12 + 4;
    const TEXT: u32 = GPS + 2 + 12 + 4;
    let count = u32::try_from(words.len()).expect("a short text");
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let end = 0_u32.to_le_bytes();
    [
        b"Exif\0\0II\x2a\0",
        &8_u32.to_le_bytes()[..],
        &2_u16.to_le_bytes(),
        // Who made the camera, and where the directory of the place is.
        &entry(0x010f, 2, count, TEXT),
        &entry(0x8825, 4, 1, GPS),
        &end,
        &1_u16.to_le_bytes(),
        // By which survey the place is told: a text.
        &entry(0x0012, 2, count, TEXT),
        &end,
        words,
    ]
    .concat()
}
