//! Small images that are made, with everything hung on that phones and programs hang on: for the tests.

use std::io::Cursor;

use image::{ImageFormat, RgbImage, RgbaImage, codecs::gif};

/// Stands in all that must go, and in nothing that stays.
pub(super) const CANARY: &[u8] = b"Canary Wharf 51.5049N";

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(super) fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A picture of 24 by 16 on which every side is another one.
pub(super) fn picture() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 10, y as u8 * 15, (x + y) as u8 * 6]))
}

pub(super) fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture().write_to(&mut file, format).unwrap();
    file.into_inner()
}

pub(super) fn jpeg() -> Vec<u8> {
    encoded(ImageFormat::Jpeg)
}

pub(super) fn png() -> Vec<u8> {
    encoded(ImageFormat::Png)
}

pub(super) fn moving_gif() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = gif::GifEncoder::new(&mut file);
    encoder.set_repeat(gif::Repeat::Infinite).unwrap();
    for turned in [false, true] {
        let frame: RgbaImage = image::DynamicImage::from(picture()).to_rgba8();
        let frame = if turned { image::imageops::rotate180(&frame) } else { frame };
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    file
}

/// EXIF as a phone writes it: which side is up, the phone, and where it was.
pub(super) fn exif(side: u16, little: bool) -> Vec<u8> {
    let short = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let long = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let entry =
        |tag, kind, count, value: [u8; 4]| [&short(tag)[..], &short(kind), &long(count), &value].concat();
    let text = CANARY.len() as u32;
    [
        if little { b"II\x2A\0" } else { b"MM\0\x2A" },
        &long(8)[..],
        &short(3),
        // Make, orientation, GPS.
        &entry(0x010F, 2, text, long(50 + 18)),
        &entry(0x0112, 3, 1, [short(side), [0, 0]].concat().try_into().unwrap()),
        &entry(0x8825, 4, 1, long(50)),
        &long(0),
        // The GPS directory: its datum is a text, too.
        &short(1),
        &entry(0x0012, 2, text, long(50 + 18)),
        &long(0),
        CANARY,
    ]
    .concat()
}

pub(super) fn segment(marker: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[0xFF, marker], &(content.len() as u16 + 2).to_be_bytes()[..], &content].concat()
}

/// Puts something into a file.
pub(super) fn at(bytes: &[u8], place: usize, new: &[u8]) -> Vec<u8> {
    [&bytes[..place], new, &bytes[place..]].concat()
}

/// A JPEG with segments behind the JFIF one.
pub(super) fn jpeg_with(segments: &[Vec<u8>]) -> Vec<u8> {
    at(&jpeg(), 20, &segments.concat())
}

pub(super) fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let named = [name, content].concat();
    let sum = named.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 * (sum & 1)))
    });
    [&(content.len() as u32).to_be_bytes()[..], &named, &(!sum).to_be_bytes()].concat()
}

pub(super) fn png_with(chunks: &[Vec<u8>]) -> Vec<u8> {
    at(&png(), 33, &chunks.concat())
}

pub(super) fn riff_chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut chunk = [name, &(content.len() as u32).to_le_bytes(), content].concat();
    chunk.resize(chunk.len() + content.len() % 2, 0);
    chunk
}

pub(super) fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    riff_chunk(b"RIFF", &[b"WEBP".to_vec(), chunks.concat()].concat())
}

/// Takes the chunks of a WebP file apart.
pub(super) fn webp_chunks(file: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut chunks) = (&file[12..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        let (chunk, next) = rest.split_at(8 + length + length % 2);
        chunks.push(chunk.to_vec());
        rest = next;
    }
    chunks
}

/// A lossless WebP in the extended form with chunks behind the picture.
pub(super) fn webp_with(flags: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let head = riff_chunk(b"VP8X", &[flags, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
    riff(&[vec![head], webp_chunks(&encoded(ImageFormat::WebP)), chunks.to_vec()].concat())
}

pub(super) fn extension(label: u8, blocks: &[&[u8]]) -> Vec<u8> {
    let blocks: Vec<_> = blocks.iter().flat_map(|block| [&[block.len() as u8][..], block].concat()).collect();
    [&[0x21, label], &blocks[..], &[0]].concat()
}

/// Where a GIF's first block stands.
pub(super) fn gif_head(file: &[u8]) -> usize {
    13 + if file[10] & 0x80 == 0 { 0 } else { 3 << ((file[10] & 7) + 1) }
}

/// Ten scans with restarts, 24 by 16.
pub(super) const PROGRESSIVE_JPEG: &str = "\
    ffd8ffe000104a46494600010100000100010000ffdb004300281c1e231e19282321232d2b28303c64413c37373c7b585d496491\
    8099968f808c8aa0b4e6c3a0aadaad8a8cc8ffcbdaeef5ffffff9bc1fffffffaffe6fdfff8ffdb0043012b2d2d3c353c76414176\
    f8a58ca5f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8\
    f8f8ffc20011080010001803012200021101031101ffc40017000003010000000000000000000000000000020403ffc400160101\
    010100000000000000000000000000010203ffdd00040001ffda000c030100021003100000019db5727fffd04281d3ffc4001510\
    010100000000000000000000000000000011ffda00080101000105028fffd08fffd18fffd28fffd38fffd48fffc4001611010101\
    00000000000000000000000000020001ffda0008010301013f012affd0c57fffc400151101010000000000000000000000000000\
    0011ffda0008010201013f01afffd0afffc40014100100000000000000000000000000000000ffda0008010100063f027fffd07f\
    ffd17fffd27fffd37fffd47fffc4001510010100000000000000000000000000000001ffda0008010100013f218fffd08fffd18f\
    ffd28fffd38fffd48fffda000c030100020003000000107fffd0f3ffc4001511010100000000000000000000000000000021ffda\
    0008010301013f103fffd08bffc4001511010100000000000000000000000000000001ffda0008010201013f1087ffd03fffc400\
    1510010100000000000000000000000000000061ffda0008010100013f1083ffd083ffd183ffd283ffd383ffd483ffd9";
/// The simple form, 24 by 16.
pub(super) const LOSSY_WEBP: &str = "\
    524946465a00000057454250565038204e000000d003009d012a180010003f117ab4502c282522b008018022096c00ac2f0001d5\
    769b5598dab80000feec3da9e8bf37347867350dee6c54343298ff4fc5fb2861bea4c3572e68a79d2ca178000000";
/// The extended form with ALPH, 24 by 16.
pub(super) const CLEAR_WEBP: &str = "\
    524946468e00000057454250565038580a000000100000001700000f0000414c504817000000010f402040992acc1611b1e3f7ff\
    11fd8ffffeffffff7f0056503820500000007003009d012a180010003f1182b4522c29a522b008018022096c00ac2f0001d5769b\
    a3d000feec3da9e8bf37347867350dee6c54343298fffe500d003788b50f9980c35511aa25cb446c660d58000000";
/// Two frames, 24 by 16.
pub(super) const MOVING_WEBP: &str = "\
    524946460001000057454250565038580a000000020000001700000f0000414e494d06000000000000000000414e4d4668000000\
    0000000000001700000f0000500000025650382050000000d002009d012a180010002ed188c462242c2c2c0c00d04b6005617800\
    2ffb0000fee21ff1dffec513fe362fffc5077532ee4384d3c83898ec5386f697b1bf7b39ae20f78d161aeb7cb097b68eaf5c0000\
    414e4d46640000000000000000001700000f000050000000565038204c0000007402009d012a180010002ed188c46200000d04b6\
    0056178002ffb00000fb3fef7ffe8107fc1d5fff873e97077fd4f41f59afa3973dcb8e8d4ebe4492874ebeeb7108dff4385e1607\
    94a80000";
/// Two frames, 24 by 16.
pub(super) const MOVING_PNG: &str = "\
    89504e470d0a1a0a0000000d4948445200000018000000100802000000834628c2000000086163544c0000000200000000f38d93\
    700000001a6663544c00000000000000180000001000000000000000000002001900003327b5590000002249444154789c636460\
    60e06260a31cb130f0b3313050018d1a346ad0a84123d52000eee00affe4d6afde0000001a6663544c0000000100000018000000\
    100000000000000000000200190000a8545f8d000000276664415400000002789c637cf6f0c937865f942316868fbf1818a88046\
    0d1a3568d4a0916a100041a29d3782aeb13c0000000049454e44ae426082";
