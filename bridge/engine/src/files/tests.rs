//! Real small images, with everything hung on that phones and programs hang on.

use std::io::Cursor;

use image::{
    AnimationDecoder as _, ImageDecoder as _, ImageEncoder as _, ImageFormat, RgbaImage,
    codecs::{gif, jpeg::JpegEncoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{images::Damaged, kinds::accepted, made::*, *};

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
