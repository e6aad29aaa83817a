//! Files.

use serde_json::json;

use super::super::scene::{Evidence, LIMIT, Scene, read, say};

/// A PNG of one pixel, with a text chunk that says where it was taken.
fn picture() -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut chunk = u32::try_from(data.len()).unwrap_or_default().to_be_bytes().to_vec();
        chunk.extend_from_slice(kind);
        chunk.extend_from_slice(data);
        let crc = crc(&chunk[4..]);
        chunk.extend_from_slice(&crc.to_be_bytes());
        chunk
    };
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend(chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]));
    png.extend(chunk(b"tEXt", b"Comment\0taken at 53.3498 N 6.2603 W"));
    // One grey pixel: a zlib stream of one stored block.
    png.extend(chunk(
        b"IDAT",
        &[0x78, 0x01, 0x01, 0x02, 0x00, 0xfd, 0xff, 0x00, 0x80, 0x00, 0x82, 0x00, 0x81],
    ));
    png.extend(chunk(b"IEND", &[]));
    png
}

/// CRC-32 as PNG has it (ISO 3309).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

/// A stock client sends an image without a word: it waits, and its sender is told; then image and words go out in order, the image
/// without what its pixels do not show. A page with a script in it does not pass, whatever it is called.
pub(super) async fn with_words(scene: &Scene) -> Evidence {
    let (murphy, ann) = (&scene.murphy, &scene.ann);
    let wanted = json!({ "name": "S11 files", "mode": "two-way", "staff": [], "patients": [ann.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(ann)?;
    say(murphy, &talk.hub, "S11 please show me").await?;
    read(ann, &spoke, "S11 please show me").await?;
    let sent = ann.send_file(&spoke, "m.image", "rash.png", &picture(), None).await?;
    let told = ann
        .wait_for(&spoke, LIMIT, |m| m.msgtype == "m.notice" && m.in_reply_to.as_ref() == Some(&sent))
        .await?;
    let page = b"<html><script>alert(1)</script></html>";
    let page = ann.send_file(&spoke, "m.file", "harmless.txt", page, Some("S11 look at this")).await?;
    let refused = ann
        .wait_for(&spoke, LIMIT, |m| m.msgtype == "m.notice" && m.in_reply_to.as_ref() == Some(&page))
        .await?;
    if !refused.body.contains("(ATT-2)") {
        return Err(format!("a page with a script was answered {:?}", refused.body).into());
    }
    if murphy.messages(&talk.hub).await?.iter().any(|m| m.msgtype == "m.image" || m.msgtype == "m.file") {
        return Err("a file passed without a word, or with a script in it".to_owned().into());
    }
    say(ann, &spoke, "S11 this is the rash").await?;
    let words = read(murphy, &talk.hub, "S11 this is the rash").await?;
    let seen = murphy.messages(&talk.hub).await?;
    let place = |id: &ruma::EventId| seen.iter().position(|message| message.event_id == id);
    let image = seen.iter().find(|message| message.msgtype == "m.image");
    let image = image.ok_or_else(|| "the image did not come with its words".to_owned())?;
    if place(&image.event_id) > place(&words.event_id) {
        return Err("the words came before the image".to_owned().into());
    }
    let opened = murphy.open_file(&image.content).await?;
    if !opened.starts_with(b"\x89PNG") || opened.windows(7).any(|bytes| bytes == b"53.3498") {
        return Err("the image still says where it was taken".to_owned().into());
    }
    Ok(format!(
        "{:?}; then {} and {} came, the image without its place",
        told.body, image.event_id, words.event_id
    ))
}
