//! Pictures that are made.

/// A JPEG of one pixel, with a comment that no viewer shows (ITU T.81, annex B).
///
/// # Panics
/// When the comment is longer than one may be.
pub fn jpeg(comment: &str) -> Vec<u8> {
    const HEAD: &[u8] = &[
        0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, b'J', b'F', b'I', b'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0xff, 0xfe,
    ];
    const PIXEL: &[u8] = &[
        0xff, 0xdb, 0x00, 0x43, 0x00, 3, 2, 2, 2, 2, 2, 3, 2, 2, 2, 3, 3, 3, 3, 4, 6, 4, 4, 4, 4, 4, 8, 6, 6,
        5, 6, 9, 8, 10, 10, 9, 8, 9, 9, 10, 12, 15, 12, 10, 11, 14, 11, 9, 9, 13, 17, 13, 14, 15, 16, 16, 17,
        16, 10, 12, 18, 19, 18, 16, 19, 15, 16, 16, 16, 0xff, 0xc9, 0x00, 0x0b, 8, 0, 1, 0, 1, 1, 1, 0x11, 0,
        0xff, 0xcc, 0x00, 0x06, 0, 0x10, 0x10, 5, 0xff, 0xda, 0x00, 0x08, 1, 1, 0, 0, 0x3f, 0, 0xd2, 0xcf,
        0x20, 0xff, 0xd9,
    ];
    let length = u16::try_from(comment.len() + 2).expect("a short comment");
    [HEAD, &length.to_be_bytes(), comment.as_bytes(), PIXEL].concat()
}
