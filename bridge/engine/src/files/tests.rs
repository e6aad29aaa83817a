//! Real small images, with everything hung on that phones and programs hang on.

use std::io::Cursor;

use image::{
    AnimationDecoder as _, ImageDecoder as _, ImageEncoder as _, ImageFormat, RgbImage, RgbaImage,
    codecs::{gif, jpeg::JpegEncoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{images::Damaged, *};

/// Stands in all that must go, and in nothing that stays.
const CANARY: &[u8] = b"Canary Wharf 51.5049N";

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A picture of 24 by 16 on which every side is another one.
fn picture() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 10, y as u8 * 15, (x + y) as u8 * 6]))
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn jpeg() -> Vec<u8> {
    encoded(ImageFormat::Jpeg)
}

fn png() -> Vec<u8> {
    encoded(ImageFormat::Png)
}

fn moving_gif() -> Vec<u8> {
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
fn exif(side: u16, little: bool) -> Vec<u8> {
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

fn segment(marker: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[0xFF, marker], &(content.len() as u16 + 2).to_be_bytes()[..], &content].concat()
}

/// Puts something into a file.
fn at(bytes: &[u8], place: usize, new: &[u8]) -> Vec<u8> {
    [&bytes[..place], new, &bytes[place..]].concat()
}

/// A JPEG with segments behind the JFIF one.
fn jpeg_with(segments: &[Vec<u8>]) -> Vec<u8> {
    at(&jpeg(), 20, &segments.concat())
}

fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let named = [name, content].concat();
    let sum = named.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 * (sum & 1)))
    });
    [&(content.len() as u32).to_be_bytes()[..], &named, &(!sum).to_be_bytes()].concat()
}

fn png_with(chunks: &[Vec<u8>]) -> Vec<u8> {
    at(&png(), 33, &chunks.concat())
}

fn riff_chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut chunk = [name, &(content.len() as u32).to_le_bytes(), content].concat();
    chunk.resize(chunk.len() + content.len() % 2, 0);
    chunk
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    riff_chunk(b"RIFF", &[b"WEBP".to_vec(), chunks.concat()].concat())
}

/// Takes the chunks of a WebP file apart.
fn webp_chunks(file: &[u8]) -> Vec<Vec<u8>> {
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
fn webp_with(flags: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let head = riff_chunk(b"VP8X", &[flags, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
    riff(&[vec![head], webp_chunks(&encoded(ImageFormat::WebP)), chunks.to_vec()].concat())
}

fn extension(label: u8, blocks: &[&[u8]]) -> Vec<u8> {
    let blocks: Vec<_> = blocks.iter().flat_map(|block| [&[block.len() as u8][..], block].concat()).collect();
    [&[0x21, label], &blocks[..], &[0]].concat()
}

/// Where a GIF's first block stands.
fn gif_head(file: &[u8]) -> usize {
    13 + if file[10] & 0x80 == 0 { 0 } else { 3 << ((file[10] & 7) + 1) }
}

/// All frames with their pixels and times, or the one there is.
fn frames(kind: Kind, bytes: &[u8]) -> Vec<(RgbaImage, String)> {
    let file = || Cursor::new(bytes);
    let moving = match kind {
        Kind::Gif => Some(gif_frames(bytes)),
        Kind::Png if PngDecoder::new(file()).unwrap().is_apng().unwrap() => {
            Some(PngDecoder::new(file()).unwrap().apng().unwrap().into_frames())
        }
        Kind::Webp if WebPDecoder::new(file()).unwrap().has_animation() => {
            Some(WebPDecoder::new(file()).unwrap().into_frames())
        }
        _ => None,
    };
    match moving {
        Some(frames) => frames
            .map(|frame| frame.map(|frame| (frame.buffer().clone(), format!("{:?}", frame.delay()))).unwrap())
            .collect(),
        None => vec![(image::load_from_memory(bytes).unwrap().to_rgba8(), String::new())],
    }
}

fn gif_frames(bytes: &[u8]) -> image::Frames<'_> {
    gif::GifDecoder::new(Cursor::new(bytes)).unwrap().into_frames()
}

/// Which side another decoder takes for the upper one, and the whole EXIF that it sees.
fn seen(bytes: &[u8]) -> (Orientation, Option<Vec<u8>>) {
    let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap();
    let mut decoder = reader.into_decoder().unwrap();
    (decoder.orientation().unwrap(), decoder.exif_metadata().unwrap())
}

struct Dirty {
    name: &'static str,
    kind: Kind,
    bytes: Vec<u8>,
    /// Which side is up, where that is said.
    side: Option<u8>,
}

/// Files with something in them that must go, each of which is still an image.
fn dirty() -> Vec<Dirty> {
    let mut files = Vec::new();
    let mut add = |name, kind, bytes, side| files.push(Dirty { name, kind, bytes, side });
    let canary = [CANARY, b"<script>"].concat();
    let app1 = |side, little| segment(0xE1, &[b"Exif\0\0", &exif(side, little)]);

    let jpegs: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("exif, upright", jpeg_with(&[app1(1, true)]), None),
        ("exif, no such side", jpeg_with(&[app1(9, true)]), None),
        ("exif, side 6, little endian", jpeg_with(&[app1(6, true)]), Some(6)),
        ("exif, side 8, big endian", jpeg_with(&[app1(8, false)]), Some(8)),
        ("exif, side 2", jpeg_with(&[app1(2, false)]), Some(2)),
        ("exif before jfif", at(&jpeg(), 2, &app1(5, true)), Some(5)),
        ("no jfif", [&[0xFF, 0xD8], &app1(6, true)[..], &jpeg()[20..]].concat(), Some(6)),
        ("exif cut short", jpeg_with(&[segment(0xE1, &[b"Exif\0\0II\x2A\0\xFF\xFF", CANARY])]), None),
        ("xmp", jpeg_with(&[segment(0xE1, &[b"http://ns.adobe.com/xap/1.0/\0", &canary])]), None),
        ("iptc", jpeg_with(&[segment(0xED, &[b"Photoshop 3.0\x008BIM\x04\x04", &canary])]), None),
        ("comment", jpeg_with(&[segment(0xFE, &[&canary])]), None),
        (
            "every other application",
            jpeg_with(&(0xE3..=0xEF).map(|m| segment(m, &[&canary])).collect::<Vec<_>>()),
            None,
        ),
        (
            "reserved segments",
            jpeg_with(&(0xF0..=0xFD).map(|m| segment(m, &[&canary])).collect::<Vec<_>>()),
            None,
        ),
        (
            "another jfif, with a thumbnail",
            jpeg_with(&[segment(0xE0, &[b"JFIF\0\x01\x02\0\0\x01\0\x01\x01\x09", CANARY])]),
            None,
        ),
        ("jfif extension", jpeg_with(&[segment(0xE0, &[b"JFXX\0\x10", &canary])]), None),
        ("list of pictures", jpeg_with(&[segment(0xE2, &[b"MPF\0", &canary])]), None),
        ("adobe with a tail", jpeg_with(&[segment(0xEE, &[b"Adobe\0\x64\0\0\0\0\x01", &canary])]), None),
        ("comment behind the picture", at(&jpeg(), jpeg().len() - 2, &segment(0xFE, &[&canary])), None),
        ("exif behind the picture", at(&jpeg(), jpeg().len() - 2, &app1(6, true)), None),
        ("motion photo", [&jpeg()[..], b"\0\0\0\x18ftypmp42", CANARY].concat(), None),
        ("a second photo behind it", [jpeg(), jpeg_with(&[app1(6, true)])].concat(), None),
        ("filled before a marker", at(&jpeg_with(&[segment(0xFE, &[&canary])]), 20, &[0xFF; 9]), None),
        ("progressive", at(&unhex(PROGRESSIVE_JPEG), 20, &app1(7, false)), Some(7)),
        (
            "everything",
            {
                let parts = [
                    app1(6, true),
                    segment(0xE2, &[b"ICC_PROFILE\0\x01\x01profile"]),
                    segment(0xFE, &[&canary]),
                ];
                [jpeg_with(&parts), canary.clone()].concat()
            },
            Some(6),
        ),
    ];
    jpegs.into_iter().for_each(|(name, bytes, side)| add(name, Kind::Jpeg, bytes, side));

    let before_end = png().len() - 12;
    let pngs: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("png: text", png_with(&[png_chunk(b"tEXt", &canary)]), None),
        ("png: packed text", png_with(&[png_chunk(b"zTXt", &canary)]), None),
        (
            "png: xmp",
            png_with(&[png_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", CANARY].concat())]),
            None,
        ),
        ("png: time", png_with(&[png_chunk(b"tIME", &[7, 234, 1, 2, 3, 4, 5])]), None),
        ("png: unknown", png_with(&[png_chunk(b"teSt", &canary)]), None),
        ("png: too long for what it is", png_with(&[png_chunk(b"pHYs", &canary)]), None),
        ("png: exif, upright", png_with(&[png_chunk(b"eXIf", &exif(1, false))]), None),
        ("png: exif, side 6", png_with(&[png_chunk(b"eXIf", &exif(6, true))]), Some(6)),
        ("png: text before the end", at(&png(), before_end, &png_chunk(b"tEXt", &canary)), None),
        ("png: tail", [&png()[..], CANARY].concat(), None),
        ("png: moving", at(&unhex(MOVING_PNG), 33, &png_chunk(b"tEXt", &canary)), None),
    ];
    pngs.into_iter().for_each(|(name, bytes, side)| add(name, Kind::Png, bytes, side));

    let still = encoded(ImageFormat::Gif);
    let moving = moving_gif();
    let loops = extension(0xFF, &[b"NETSCAPE2.0", &[1, 0, 0], CANARY]);
    let gifs: Vec<(&str, Vec<u8>)> = vec![
        ("gif: comment", at(&still, gif_head(&still), &extension(0xFE, &[CANARY, &canary]))),
        ("gif: plain text", at(&still, gif_head(&still), &extension(0x01, &[&[0; 12], &canary]))),
        ("gif: plain text with its control", {
            let text =
                [extension(0xF9, &[&[9, 0xFF, 0xFF, 0]]), extension(0x01, &[&[0; 12], &canary])].concat();
            at(&moving, gif_head(&moving), &text)
        }),
        ("gif: xmp", at(&still, gif_head(&still), &extension(0xFF, &[b"XMP DataXMP", CANARY]))),
        ("gif: more than the number of loops", at(&still, gif_head(&still), &loops)),
        ("gif: comment before the end", at(&moving, moving.len() - 1, &extension(0xFE, &[CANARY]))),
        ("gif: tail", [&moving[..], CANARY].concat()),
    ];
    gifs.into_iter().for_each(|(name, bytes)| add(name, Kind::Gif, bytes, None));

    let exif_chunk = |side| riff_chunk(b"EXIF", &exif(side, true));
    let xmp = riff_chunk(b"XMP ", &canary);
    let (simple, clear, moving) = (unhex(LOSSY_WEBP), unhex(CLEAR_WEBP), unhex(MOVING_WEBP));
    let more = |file: &[u8], chunks: &[Vec<u8>]| riff(&[&webp_chunks(file)[..], chunks].concat());
    let webps: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("webp: exif, upright", webp_with(0x08, &[exif_chunk(1)]), None),
        ("webp: exif, side 6", webp_with(0x08, &[exif_chunk(6)]), Some(6)),
        ("webp: xmp", webp_with(0x04, std::slice::from_ref(&xmp)), None),
        ("webp: exif and xmp", webp_with(0x0C, &[exif_chunk(8), xmp.clone()]), Some(8)),
        ("webp: unknown", webp_with(0, &[riff_chunk(b"abcd", &canary)]), None),
        ("webp: tail", [&simple[..], CANARY].concat(), None),
        ("webp: simple with more", more(&simple, &[exif_chunk(1), xmp.clone()]), None),
        ("webp: clear with more", more(&clear, std::slice::from_ref(&xmp)), None),
        ("webp: moving with more", more(&moving, &[exif_chunk(6), xmp]), Some(6)),
        (
            "webp: moving with more in a frame",
            {
                let mut chunks = webp_chunks(&moving);
                let frame = chunks.iter_mut().find(|chunk| chunk.starts_with(b"ANMF")).unwrap();
                *frame = riff_chunk(b"ANMF", &[&frame[8..], &riff_chunk(b"abcd", &canary)].concat());
                riff(&chunks)
            },
            None,
        ),
    ];
    webps.into_iter().for_each(|(name, bytes, side)| add(name, Kind::Webp, bytes, side));
    files
}

/// Files in which nothing must go.
fn clean() -> Vec<(&'static str, Kind, Vec<u8>)> {
    vec![
        ("jpeg", Kind::Jpeg, jpeg()),
        ("jpeg with colours", Kind::Jpeg, {
            let mut file = Vec::new();
            let mut encoder = JpegEncoder::new(&mut file);
            encoder.set_icc_profile(b"profile".to_vec()).unwrap();
            encoder.encode_image(&picture()).unwrap();
            file
        }),
        ("progressive jpeg", Kind::Jpeg, unhex(PROGRESSIVE_JPEG)),
        ("png", Kind::Png, png()),
        ("png with colours and size", Kind::Png, {
            let sizes = [(b"gAMA", 4), (b"cHRM", 32), (b"sBIT", 3), (b"pHYs", 9), (b"iCCP", 90)];
            png_with(&sizes.map(|(name, size)| png_chunk(name, &vec![1; size])))
        }),
        ("moving png", Kind::Png, unhex(MOVING_PNG)),
        ("gif", Kind::Gif, encoded(ImageFormat::Gif)),
        ("moving gif", Kind::Gif, moving_gif()),
        ("lossless webp", Kind::Webp, encoded(ImageFormat::WebP)),
        ("lossy webp", Kind::Webp, unhex(LOSSY_WEBP)),
        ("clear webp", Kind::Webp, unhex(CLEAR_WEBP)),
        ("moving webp", Kind::Webp, unhex(MOVING_WEBP)),
    ]
}

#[test]
fn nothing_but_the_picture_stays() {
    for Dirty { name, kind, bytes, side } in dirty() {
        assert_eq!(kind_of(&bytes), Some(kind), "{name}");
        let (upright, _) = seen(&bytes);
        let cleaned = without_metadata(kind, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let cleaned = cleaned.unwrap_or_else(|| panic!("{name}: nothing was removed"));

        assert!(!has(&cleaned, CANARY), "{name}: the canary sings");
        for tag in [b"\x88\x25\0\x04", b"\x25\x88\x04\0"] {
            assert!(!has(&cleaned, tag), "{name}: GPS");
        }
        assert_eq!(frames(kind, &bytes), frames(kind, &cleaned), "{name}: pixels");
        let (still_upright, exif) = seen(&cleaned);
        assert_eq!(upright, still_upright, "{name}: side");
        assert_eq!(Orientation::from_exif(side.unwrap_or(1)), Some(still_upright), "{name}: side");
        let fresh = side.map(|side| {
            [b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", &[side][..], &[0; 6]].concat()
        });
        assert_eq!(exif, fresh, "{name}: EXIF");
        assert_eq!(without_metadata(kind, &cleaned), Ok(None), "{name}: again");
        assert_eq!(kind_of(&cleaned), Some(kind), "{name}: still its kind");
        assert_eq!(dimensions(kind, &bytes), dimensions(kind, &cleaned), "{name}: size");
    }
}

#[test]
fn a_clean_file_stays_as_it_is() {
    for (name, kind, bytes) in clean() {
        assert_eq!(kind_of(&bytes), Some(kind), "{name}");
        assert_eq!(without_metadata(kind, &bytes), Ok(None), "{name}");
        assert_eq!(dimensions(kind, &bytes), Some((24, 16)), "{name}");
    }
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_image()) {
        assert_eq!(without_metadata(kind, CANARY), Ok(None), "{kind:?}");
        assert_eq!(dimensions(kind, CANARY), None, "{kind:?}");
    }
}

#[test]
fn what_decoders_need_stays() {
    let adobe = segment(0xEE, &[b"Adobe\0\x64\0\0\0\0\x01"]);
    let colours = segment(0xE2, &[b"ICC_PROFILE\0\x01\x01profile"]);
    let comment = segment(0xFE, &[CANARY]);
    let dirty = jpeg_with(&[comment.clone(), adobe.clone(), comment, colours.clone()]);
    assert_eq!(without_metadata(Kind::Jpeg, &dirty), Ok(Some(jpeg_with(&[adobe, colours]))));

    // Decoders do not agree on which of two EXIF blocks counts; as in Chromium, it is the first.
    let side = |side| segment(0xE1, &[b"Exif\0\0", &exif(side, false)]);
    let dirty = jpeg_with(&[side(3), side(6)]);
    let cleaned = without_metadata(Kind::Jpeg, &dirty).unwrap().unwrap();
    assert_eq!(seen(&cleaned).0, Orientation::Rotate180);

    // Some programs write EXIF into WebP with the prefix that belongs into JPEG only, and not all decoders mind.
    let prefixed = riff_chunk(b"EXIF", &[b"Exif\0\0", &exif(3, false)[..]].concat());
    let cleaned = without_metadata(Kind::Webp, &webp_with(0x08, &[prefixed])).unwrap().unwrap();
    assert_eq!(seen(&cleaned).0, Orientation::Rotate180);

    let profile = riff_chunk(b"ICCP", b"profile");
    let picture = webp_chunks(&encoded(ImageFormat::WebP)).concat();
    let head = |flags| riff_chunk(b"VP8X", &[flags, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
    let exif = riff_chunk(b"EXIF", CANARY);
    let dirty = riff(&[head(0x28), profile.clone(), picture.clone(), exif]);
    assert_eq!(without_metadata(Kind::Webp, &dirty), Ok(Some(riff(&[head(0x20), profile, picture]))));

    // A flag without its chunk is one that strict decoders stumble over.
    assert_eq!(without_metadata(Kind::Webp, &webp_with(0x2C, &[])), Ok(Some(webp_with(0, &[]))));

    // No decoder looks at the frames of an animation that was not announced, and some refuse them.
    let dirty = png_with(&[png_chunk(b"fcTL", &[0; 26]), png_chunk(b"fdAT", CANARY)]);
    assert_eq!(without_metadata(Kind::Png, &dirty), Ok(Some(png())));

    let gif = moving_gif();
    let unknown = at(&gif, gif_head(&gif), &extension(0x77, &[CANARY]));
    let dirty = [&unknown[..], CANARY].concat();
    assert_eq!(without_metadata(Kind::Gif, &dirty), Ok(Some(gif)), "loops and times");
}

#[test]
fn a_damaged_file_is_refused() {
    let gif = encoded(ImageFormat::Gif);
    let png_without = |name: &[u8]| {
        let start = png().windows(4).position(|window| window == name).unwrap() - 4;
        [&png()[..start], &png()[png().len() - 12..]].concat()
    };
    let table: Vec<(&str, Kind, Vec<u8>, Damaged)> = vec![
        ("jpeg: nothing", Kind::Jpeg, vec![], Damaged::Truncated),
        ("jpeg: is a png", Kind::Jpeg, png(), Damaged::OutOfPlace),
        ("jpeg: no picture", Kind::Jpeg, b"\xFF\xD8\xFF\xD9".to_vec(), Damaged::NoPicture),
        ("jpeg: no end", Kind::Jpeg, jpeg()[..jpeg().len() - 2].to_vec(), Damaged::Truncated),
        ("jpeg: length 1", Kind::Jpeg, jpeg_with(&[vec![0xFF, 0xFE, 0, 1]]), Damaged::OutOfPlace),
        ("jpeg: length 65535", Kind::Jpeg, jpeg_with(&[vec![0xFF, 0xFE, 255, 255]]), Damaged::Truncated),
        ("jpeg: bytes between segments", Kind::Jpeg, jpeg_with(&[CANARY.to_vec()]), Damaged::OutOfPlace),
        ("jpeg: a second start", Kind::Jpeg, jpeg_with(&[vec![0xFF, 0xD8]]), Damaged::OutOfPlace),
        (
            "jpeg: a scan without a frame",
            Kind::Jpeg,
            jpeg_with(&[segment(0xDA, &[&[0; 6]])]),
            Damaged::OutOfPlace,
        ),
        ("jpeg: two frames", Kind::Jpeg, jpeg_with(&[segment(0xC0, &[&[8; 17]])]), Damaged::OutOfPlace),
        ("png: no end", Kind::Png, png()[..png().len() - 12].to_vec(), Damaged::Truncated),
        ("png: no picture", Kind::Png, png_without(b"IDAT"), Damaged::NoPicture),
        ("png: two heads", Kind::Png, png_with(&[png()[8..33].to_vec()]), Damaged::OutOfPlace),
        ("png: unknown and needed", Kind::Png, png_with(&[png_chunk(b"CgBI", CANARY)]), Damaged::OutOfPlace),
        ("png: colours too long", Kind::Png, png_with(&[png_chunk(b"PLTE", &[0; 999])]), Damaged::OutOfPlace),
        (
            "png: a chunk of 4 GiB",
            Kind::Png,
            png_with(&[b"\xFF\xFF\xFF\xFFtEXt".to_vec()]),
            Damaged::Truncated,
        ),
        ("gif: no end", Kind::Gif, gif[..gif.len() - 1].to_vec(), Damaged::Truncated),
        ("gif: no picture", Kind::Gif, b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), Damaged::NoPicture),
        ("gif: script", Kind::Gif, b"GIF89a/*\x01\0\0\0\0*/=1;alert(1)//;".to_vec(), Damaged::OutOfPlace),
        (
            "gif: odd control",
            Kind::Gif,
            at(&gif, gif_head(&gif), &extension(0xF9, &[CANARY])),
            Damaged::OutOfPlace,
        ),
        ("webp: longer than the file", Kind::Webp, b"RIFF\xFF\xFF\0\0WEBPVP8 ".to_vec(), Damaged::Truncated),
        ("webp: is sound", Kind::Webp, b"RIFF\x04\0\0\0WAVE".to_vec(), Damaged::OutOfPlace),
        ("webp: no picture", Kind::Webp, riff(&[riff_chunk(b"abcd", CANARY)]), Damaged::NoPicture),
        ("webp: a head alone", Kind::Webp, riff(&[riff_chunk(b"VP8X", &[0; 10])]), Damaged::NoPicture),
        ("webp: an animation without frames", Kind::Webp, webp_with(0x02, &[]), Damaged::NoPicture),
        ("webp: a short head", Kind::Webp, riff(&[riff_chunk(b"VP8X", &[0; 9])]), Damaged::Truncated),
    ];
    for (name, kind, bytes, expected) in table {
        assert_eq!(without_metadata(kind, &bytes), Err(expected), "{name}");
        assert_eq!(dimensions(kind, &bytes), None, "{name}");
    }
}

/// Runs all there is over any bytes: whatever it says, it must say something, and the same when it is asked again.
fn survives(name: &str, bytes: &[u8]) {
    let _ = kind_of(bytes);
    for kind in Kind::ALL {
        let _ = dimensions(kind, bytes);
        if let Ok(Some(cleaned)) = without_metadata(kind, bytes) {
            assert!(cleaned.len() <= bytes.len() + 64, "{name}: grew");
            assert_eq!(without_metadata(kind, &cleaned), Ok(None), "{name}: again");
        }
    }
}

#[test]
fn no_cut_and_no_flipped_bit_does_harm() {
    let clean = clean();
    for (name, kind, bytes) in &clean {
        for length in 0..bytes.len() {
            assert!(without_metadata(*kind, &bytes[..length]).is_err(), "{name} cut to {length}");
        }
    }
    let dirty = dirty().into_iter().map(|Dirty { name, bytes, .. }| (name, bytes));
    let others = accepted().into_iter().map(|(name, bytes, _)| (name, bytes));
    let files = clean.into_iter().map(|(name, _, bytes)| (name, bytes)).chain(dirty).chain(others);
    for (name, mut bytes) in files {
        for place in 0..bytes.len() {
            survives(name, &bytes[..place]);
            survives(name, &bytes[place..]);
            for flip in [0x01, 0x80, 0xFF] {
                bytes[place] ^= flip;
                survives(name, &bytes);
                bytes[place] ^= flip;
            }
        }
    }
}

#[test]
fn a_bomb_shows_by_its_size() {
    let exif_block = exif(8, true);
    let exif = |side| segment(0xE1, &[b"Exif\0\0", &exif(side, true)]);
    let mut wide_png = png();
    wide_png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 2, 0, 0]);
    let mut high_jpeg = jpeg();
    let frame = high_jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    high_jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xFF, 0, 1]);
    let mut unsaid = high_jpeg.clone();
    unsaid[frame + 5..frame + 7].copy_from_slice(&[0, 0]);
    let mut small_screen = encoded(ImageFormat::Gif);
    small_screen[6..10].copy_from_slice(&[1, 0, 1, 0]);
    let small_canvas = {
        let head = riff_chunk(b"VP8X", &[0; 10]);
        riff(&[vec![head], webp_chunks(&encoded(ImageFormat::WebP))].concat())
    };
    let table = [
        ("upside down", Kind::Jpeg, jpeg_with(&[exif(3)]), Some((24, 16))),
        ("on its side", Kind::Jpeg, jpeg_with(&[exif(6)]), Some((16, 24))),
        ("png on its side", Kind::Png, png_with(&[png_chunk(b"eXIf", &exif_block)]), Some((16, 24))),
        ("wide png", Kind::Png, wide_png, Some((65_536, 131_072))),
        ("high jpeg", Kind::Jpeg, high_jpeg, Some((1, 65_535))),
        ("height unsaid", Kind::Jpeg, unsaid, None),
        ("gif with a frame larger than itself", Kind::Gif, small_screen, Some((24, 16))),
        ("webp with a frame larger than itself", Kind::Webp, small_canvas, Some((24, 16))),
    ];
    for (name, kind, bytes, expected) in table {
        assert_eq!(dimensions(kind, &bytes), expected, "{name}");
    }
}

fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], name, content].concat()
}

fn mp4(brand: &[u8; 4], tracks: &[&[u8; 4]]) -> Vec<u8> {
    let track = |handler: &&[u8; 4]| {
        let handler = mp4_box(b"hdlr", &[&[0; 8], &handler[..], &[0; 13]].concat());
        mp4_box(b"trak", &mp4_box(b"mdia", &handler))
    };
    let tracks: Vec<u8> = tracks.iter().flat_map(track).collect();
    [mp4_box(b"ftyp", &[brand, &b"\0\0\0\0mp42"[..]].concat()), mp4_box(b"moov", &tracks)].concat()
}

/// 128 kbit/s at 44.1 kHz.
fn mp3_frame() -> Vec<u8> {
    [&[0xFF, 0xFB, 0x90, 0x00][..], &[0; 413]].concat()
}

fn ogg(codec: &[u8]) -> Vec<u8> {
    [b"OggS\0\x02", &[0; 20][..], &[1, 19], codec, &[0; 11]].concat()
}

fn accepted() -> Vec<(&'static str, Vec<u8>, Kind)> {
    let mp3 = [mp3_frame(), mp3_frame()].concat();
    let webm = b"\x1A\x45\xDF\xA3\x9F\x42\x86\x81\x01\x42\xF7\x81\x01\x42\xF2\x81\x04\x42\xF3\x81\x08\x42\x82\x84webm";
    vec![
        ("pdf", b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n".to_vec(), Kind::Pdf),
        ("text", b"Dr. M\xC3\xBCller:\r\n\ttake 2 < 3 a day\n\x0C".to_vec(), Kind::Text),
        ("text with a byte order mark", b"\xEF\xBB\xBFHello".to_vec(), Kind::Text),
        ("a heart", b"<3 thank you".to_vec(), Kind::Text),
        ("an address", b"Write to Ann <scripts@example.org>".to_vec(), Kind::Text),
        ("a program's name", b"MZ is no program yet".to_vec(), Kind::Text),
        ("mp3", mp3.clone(), Kind::Mp3),
        ("mp3 with a tag", [&b"ID3\x04\0\0\0\0\0\x05title\0\0"[..], &mp3].concat(), Kind::Mp3),
        ("m4a", mp4(b"M4A ", &[b"soun"]), Kind::Mp4Audio),
        ("a recorder's m4a", mp4(b"isom", &[b"soun"]), Kind::Mp4Audio),
        ("mp4", mp4(b"isom", &[b"soun", b"vide"]), Kind::Mp4),
        ("an m4a with pictures", mp4(b"M4A ", &[b"vide", b"soun"]), Kind::Mp4),
        ("mp4 without tracks", mp4(b"mp42", &[]), Kind::Mp4),
        ("opus", ogg(b"OpusHead"), Kind::Ogg),
        ("vorbis", ogg(b"\x01vorbis"), Kind::Ogg),
        ("wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0".to_vec(), Kind::Wav),
        ("webm", webm.to_vec(), Kind::Webm),
    ]
}

#[test]
fn each_kind_is_known_by_its_bytes() {
    for (name, bytes, kind) in accepted() {
        assert_eq!(kind_of(&bytes), Some(kind), "{name}");
    }
}

#[test]
fn all_else_is_no_kind() {
    let matroska = b"\x1A\x45\xDF\xA3\x93\x42\x86\x81\x01\x42\x82\x88matroska";
    let one_frame = [&mp3_frame()[..], b"and no other"].concat();
    let late_pdf = [b"hello\n", &b"%PDF-1.7\n"[..]].concat();
    let flac_with_tag = b"ID3\x04\0\0\0\0\0\x02xxfLaC\0\0\0\x22";
    let old_mac = [&b"\xFF\xFE<\0s\0c\0r\0i\0p\0t\0>\0"[..]].concat();
    let table: Vec<(&str, &[u8])> = vec![
        ("nothing", b""),
        ("elf", b"\x7FELF\x02\x01\x01\0"),
        ("windows program", b"MZ\x90\0\x03\0\0\0"),
        ("mach-o", b"\xCF\xFA\xED\xFE\x07\0\0\x01"),
        ("mach-o or java class", b"\xCA\xFE\xBA\xBE\0\0\0\x34"),
        ("wasm", b"\0asm\x01\0\0\0"),
        ("shell script", b"#!/bin/sh\nrm -r ~"),
        ("shell script after a line", b"\n\n #!/bin/sh\n"),
        ("batch", b"@ECHO off\r\n"),
        ("registry", b"Windows Registry Editor Version 5.00\r\n"),
        ("windows link", b"[InternetShortcut]\r\nURL=file://x"),
        ("desktop entry", b"[Desktop Entry]\nExec=sh"),
        ("php", b"<?php system('x');"),
        ("php in the middle", b"hello <?PHP system('x');"),
        ("javascript link", b"  JavaScript:alert(1)"),
        ("vbscript link", b"vbscript:x"),
        ("data link", b"data:text/html,<b>x"),
        ("html", b"<!DOCTYPE html><p>x"),
        ("html in capitals", b"<HTML>"),
        ("html after white space and a mark", b"\xEF\xBB\xBF \n\t<html>"),
        ("html, two marks", b"\xEF\xBB\xBF\xEF\xBB\xBF<p>"),
        ("html comment", b"<!-- x --><b>"),
        ("html without a head", b"<b onclick=x>"),
        ("script in the middle", b"hello <ScRiPt>alert(1)</script>"),
        ("script with a slash", b"hello <script/src=x>"),
        ("picture with a handler", b"hello <img src=x onerror=alert(1)>"),
        ("frame", b"hello <iframe src=x>"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'>"),
        ("svg after xml", b"<?xml version='1.0'?><svg>"),
        ("xml", b"\n<?XML version='1.0'?>"),
        ("server page", b"<%= x %>"),
        ("postscript", b"%!PS-Adobe-3.0\n"),
        ("web archive", b"MIME-Version: 1.0\nContent-Type: text/html"),
        ("rtf", b"{\\rtf1\\ansi x}"),
        ("pdf after white space", b"\n%PDF-1.7\n"),
        ("pdf after text", &late_pdf),
        ("zip, docx, odt, jar", b"PK\x03\x04\x14\0\x06\0"),
        ("old office document", b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"),
        ("gzip", b"\x1F\x8B\x08\0\0\0\0\0"),
        ("7z", b"7z\xBC\xAF\x27\x1C\0\x04"),
        ("rar", b"Rar!\x1A\x07\x01\0"),
        ("xz", b"\xFD7zXZ\0\0\x04"),
        ("bzip2", b"BZh91AY&SY\x80\xFF"),
        ("zstd", b"\x28\xB5\x2F\xFD\x04\0"),
        ("tar", b"a.txt\0\0\0\0ustar\x0000"),
        ("text with a nul", b"hello\0"),
        ("text with an escape", b"hello \x1B[2J"),
        ("text with a delete", b"hello\x7F"),
        ("text with a control of Latin-1", b"hello\xC2\x9Bx"),
        ("latin-1", b"M\xFCller"),
        ("utf-16", &old_mac),
        ("tiff", b"II\x2A\0\x08\0\0\0"),
        ("bmp", b"BM\x3A\0\0\0\0\0"),
        ("ico", b"\0\0\x01\0\x01\0"),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"),
        ("quicktime", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "),
        ("mp4, first box too long", b"\0\0\x10\x18ftypisom\0\0\0\0isommp42"),
        ("matroska", matroska),
        ("avi", b"RIFF\x24\0\0\0AVI LIST"),
        ("webp without a picture", b"RIFF\x04\0\0\0WEBP"),
        ("flash", b"CWS\x0A\0\0\0\0"),
        ("flac", b"fLaC\0\0\0\x22"),
        ("flac behind an mp3's tag", flac_with_tag),
        ("aac", b"\xFF\xF1\x50\x80\x02\x1F\xFC"),
        ("one mp3 frame", &one_frame),
        ("an mp3's tag alone", b"ID3\x04\0\0\0\0\0\x05title"),
        ("ogg with moving pictures", b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x2A\x80theora"),
        ("jpeg's beginning alone", b"\xFF\xD8\xFF"),
        ("jpeg's beginning and text", b"\xFF\xD8\xFF<script>"),
        ("png's beginning and text", b"\x89PNG\r\n\x1A\n<script>"),
        ("gif of no version", b"GIF88a\x01\0\x01\0"),
        ("a picture behind something", b"\0\xFF\xD8\xFF\xE0\0\x10JFIF\0"),
        ("eicar behind a program", b"MZX5O!P%@AP\x00"),
    ];
    for (name, bytes) in table {
        assert_eq!(kind_of(bytes), None, "{name}");
    }
}

#[test]
fn mimetypes_are_read_and_written() {
    for kind in Kind::ALL {
        assert_eq!(kind.mimetype().parse(), Ok(kind));
        assert_eq!(kind.mimetype().to_uppercase().parse(), Ok(kind));
        assert_eq!(kind.is_image(), kind.mimetype().starts_with("image/"), "{kind:?}");
    }
    for wrong in ["", "image", "image/svg+xml", "text/html", "image/jpeg; q=1", "*/*"] {
        let sentence = wrong.parse::<Kind>().unwrap_err().to_string();
        assert!(sentence.contains("image/jpeg, image/png"), "{sentence}");
    }
}

/// Ten scans with restarts, 24 by 16.
const PROGRESSIVE_JPEG: &str = "\
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
const LOSSY_WEBP: &str = "\
    524946465a00000057454250565038204e000000d003009d012a180010003f117ab4502c282522b008018022096c00ac2f0001d5\
    769b5598dab80000feec3da9e8bf37347867350dee6c54343298ff4fc5fb2861bea4c3572e68a79d2ca178000000";
/// The extended form with ALPH, 24 by 16.
const CLEAR_WEBP: &str = "\
    524946468e00000057454250565038580a000000100000001700000f0000414c504817000000010f402040992acc1611b1e3f7ff\
    11fd8ffffeffffff7f0056503820500000007003009d012a180010003f1182b4522c29a522b008018022096c00ac2f0001d5769b\
    a3d000feec3da9e8bf37347867350dee6c54343298fffe500d003788b50f9980c35511aa25cb446c660d58000000";
/// Two frames, 24 by 16.
const MOVING_WEBP: &str = "\
    524946460001000057454250565038580a000000020000001700000f0000414e494d06000000000000000000414e4d4668000000\
    0000000000001700000f0000500000025650382050000000d002009d012a180010002ed188c462242c2c2c0c00d04b6005617800\
    2ffb0000fee21ff1dffec513fe362fffc5077532ee4384d3c83898ec5386f697b1bf7b39ae20f78d161aeb7cb097b68eaf5c0000\
    414e4d46640000000000000000001700000f000050000000565038204c0000007402009d012a180010002ed188c46200000d04b6\
    0056178002ffb00000fb3fef7ffe8107fc1d5fff873e97077fd4f41f59afa3973dcb8e8d4ebe4492874ebeeb7108dff4385e1607\
    94a80000";
/// Two frames, 24 by 16.
const MOVING_PNG: &str = "\
    89504e470d0a1a0a0000000d4948445200000018000000100802000000834628c2000000086163544c0000000200000000f38d93\
    700000001a6663544c00000000000000180000001000000000000000000002001900003327b5590000002249444154789c636460\
    60e06260a31cb130f0b3313050018d1a346ad0a84123d52000eee00affe4d6afde0000001a6663544c0000000100000018000000\
    100000000000000000000200190000a8545f8d000000276664415400000002789c637cf6f0c937865f942316868fbf1818a88046\
    0d1a3568d4a0916a100041a29d3782aeb13c0000000049454e44ae426082";
