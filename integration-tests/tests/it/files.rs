//! Files (S11): they pass with words about them, are looked at by their bytes, and lose what their pixels do not show.

use parlour::{
    config::Attachments,
    demo::client::Client,
    run::{Extras, Parlour},
};
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Stage,
    clamd::{Clamd, HARMFUL},
    pictures::jpeg,
    proxy::Fate,
    put, read, refusal,
    requests::{counted, point_of},
    say, send,
};
use ruma::RoomId;
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::saying;

/// A photograph, with where it was taken.
pub(crate) fn photo() -> Vec<u8> {
    jpeg(PLACE)
}

const PLACE: &str = "GPS:53.3N";

/// What somebody can open of a room's files, each with its name, in order.
async fn files(client: &Client, room: &RoomId) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for message in client.messages(room).await.expect("messages") {
        if message.content["file"].is_object() && message.sender != *client.user_id() {
            let name = message.content["filename"].as_str().unwrap_or_default().to_owned();
            files.push((name, client.open_file(&message.content).await.expect("it opens")));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_waits_for_words_and_both_go_out_in_order() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let ben = stage.sign_in("ben").await;
    let talk = stage.begin(&murphy, "S11", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    say(&ann, &anns, "hello").await;
    let hello = read(&murphy, &hub, "hello").await;
    let pdf = b"%PDF-1.4 a result";
    // With a caption it passes at once, with its name, and what it says of itself is what its bytes are.
    ann.send_file(&anns, "m.file", "result.pdf", pdf, Some("the result")).await.expect("sent");
    let came = read(&murphy, &hub, "the result").await;
    assert_eq!(came.content["filename"], "result.pdf");
    assert_eq!(
        (&came.content["info"]["mimetype"], came.content["info"]["size"].as_u64()),
        (&json!("application/pdf"), Some(pdf.len() as u64))
    );
    assert_eq!(murphy.open_file(&came.content).await.expect("it opens"), pdf);

    let sent = ann.messages(&anns).await.expect("messages");
    let own = sent.iter().find(|m| m.content["filename"] == "result.pdf").expect("it is there");
    assert_eq!(
        came.content["file"]["url"], own.content["file"]["url"],
        "what is passed on as it is stays where it is"
    );
    // So do sounds and films.
    let film = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm";
    let sound = b"RIFF\x04\0\0\0WAVE";
    for (msgtype, name, bytes) in [("m.audio", "cough.wav", &sound[..]), ("m.video", "rash.webm", film)] {
        let words = format!("about {name}");
        ann.send_file(&anns, msgtype, name, bytes, Some(&words)).await.expect("sent");
        let came = read(&murphy, &hub, &words).await;
        assert_eq!((&*came.msgtype, &came.content["filename"]), (msgtype, &json!(name)));
        assert_eq!(murphy.open_file(&came.content).await.expect("it opens"), bytes);
    }

    // Without one it waits; two wait for the same words; nobody else waits for them.
    let first = ann.send_file(&anns, "m.image", "one.jpg", &photo(), None).await.expect("sent");
    assert!(refusal(&ann, &anns, &first).await.starts_with("Please write a few words"));
    ann.send_file(&anns, "m.file", "two.pdf", pdf, None).await.expect("sent");
    say(&ben, &bens, "Ben goes on").await;
    read(&murphy, &hub, "Ben goes on").await;
    assert_eq!(files(&murphy, &hub).await.len(), 3);
    say(&ann, &anns, "two files").await;
    read(&murphy, &hub, "two files").await;
    let all = files(&murphy, &hub).await;
    let names: Vec<_> = all.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["result.pdf", "cough.wav", "rash.webm", "one.jpg", "two.pdf"]);
    assert!(!all[3].1.windows(4).any(|bytes| bytes == b"53.3"), "where it was taken");
    let seen = murphy.messages(&hub).await.expect("messages");
    assert_eq!(seen.last().map(|message| &*message.body), Some("two files"), "the words come last");

    // What staff send to one patient needs words for that patient.
    let relation = json!({ "m.in_reply_to": { "event_id": hello.event_id } });
    let file = murphy.upload(pdf).await.expect("uploaded");
    let content = json!({ "msgtype": "m.file", "body": "for-ann.pdf", "filename": "for-ann.pdf", "file": file,
        "m.relates_to": relation });
    let laned = send(&murphy, &hub, "m.room.message", content).await;
    assert!(refusal(&murphy, &hub, &laned).await.starts_with("Please write a few words"));
    let to_all = say(&murphy, &hub, "you are well again").await;
    assert!(refusal(&murphy, &hub, &to_all).await.contains("(LANE-5)"), "it may be about the file");
    murphy.reply(&hub, &hello.event_id, "your result").await.expect("sent");
    read(&ann, &anns, "your result").await;
    assert_eq!(files(&ann, &anns).await, [("for-ann.pdf".to_owned(), pdf.to_vec())]);
    // Whoever answers the file, or what the bot has said of it, says it to whom the file is for.
    for (name, to_the_bot) in [("by-the-file.pdf", false), ("by-the-bot.pdf", true)] {
        let file = murphy.upload(pdf).await.expect("uploaded");
        let content = json!({ "msgtype": "m.file", "body": name, "filename": name, "file": file,
            "m.relates_to": { "m.in_reply_to": { "event_id": hello.event_id } } });
        let laned = send(&murphy, &hub, "m.room.message", content).await;
        let asked = murphy.wait_for(&hub, LIMIT, |m| m.in_reply_to.as_deref() == Some(&*laned)).await;
        let answered = if to_the_bot { asked.expect("a question").event_id } else { laned };
        murphy.reply(&hub, &answered, &format!("for Ann alone, {name}")).await.expect("sent");
        read(&ann, &anns, &format!("for Ann alone, {name}")).await;
        assert_eq!(files(&ann, &anns).await.last(), Some(&(name.to_owned(), pdf.to_vec())));
    }
    say(&murphy, &hub, "the end").await;
    read(&ben, &bens, "the end").await;
    assert!(files(&ben, &bens).await.is_empty());
    let bens_words = ben.messages(&bens).await.expect("messages");
    assert!(bens_words.iter().all(|m| !m.body.contains("for Ann alone") && !m.body.contains("well again")));

    // In a group, words about one's own file may answer it, or what the bot has said of it.
    for (number, to_the_bot) in [false, true].into_iter().enumerate() {
        let name = format!("to-all-{number}.pdf");
        let file = murphy.send_file(&hub, "m.file", &name, pdf, None).await.expect("sent");
        refusal(&murphy, &hub, &file).await;
        let word =
            murphy.wait_for(&hub, LIMIT, |m| m.in_reply_to.as_deref() == Some(&*file)).await.expect("a word");
        let answered = if to_the_bot { &word.event_id } else { &file };
        let words = format!("about it, {number}");
        murphy.reply(&hub, answered, &words).await.expect("sent");
        for (client, room) in [(&ann, &anns), (&ben, &bens)] {
            read(client, room, &words).await;
            assert_eq!(files(client, room).await.last().map(|(name, _)| name.clone()), Some(name.clone()));
        }
    }

    // Taken back while it waits, it goes nowhere; deleted later, it disappears.
    let gone = ann.send_file(&anns, "m.file", "gone.pdf", pdf, None).await.expect("sent");
    refusal(&ann, &anns, &gone).await;
    put(&ann, &anns, &format!("redact/{gone}/1"), json!({})).await;
    say(&ann, &anns, "never mind").await;
    read(&murphy, &hub, "never mind").await;
    assert_eq!(files(&murphy, &hub).await.len(), 5);
    let later = ann.send_file(&anns, "m.file", "later.pdf", pdf, Some("about later")).await.expect("sent");
    let at_hub = read(&murphy, &hub, "about later").await.event_id;
    saying::delete(&ann, &anns, &later).await;
    saying::gone(&murphy, &hub, &at_hub).await;
    assert_eq!(files(&murphy, &hub).await.len(), 5);
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// Whoever has sent a file changes what they have said about it; the file itself stays as it was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_only_the_words_change() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S11 changed", "two-way", &[], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    let sent = ann.send_file(&anns, "m.image", "rash.jpg", &photo(), Some("a rash")).await.expect("sent");
    let came = read(&murphy, &hub, "a rash").await;
    let own = ann.wait_for(&anns, LIMIT, |m| *m.event_id == *sent).await.expect("her own").content;
    let changed = |new: Value, about: &str| {
        json!({ "msgtype": "m.text", "body": "* changed", "m.new_content": new,
            "m.relates_to": { "rel_type": "m.replace", "event_id": about } })
    };
    let with = |words: &str, file: &Value| {
        let mut content = own.clone();
        (content["body"], content["file"]) = (json!(words), file.clone());
        content
    };
    let text = |words: &str| json!({ "msgtype": "m.text", "body": words });

    // As clients change a caption, and as a text.
    for (words, new) in [
        ("a rash, since Monday", with("a rash, since Monday", &own["file"])),
        ("a rash, since Sunday", text("a rash, since Sunday")),
    ] {
        send(&ann, &anns, "m.room.message", changed(new, sent.as_str())).await;
        let edit = murphy.wait_for(&hub, LIMIT, |m| m.content["m.new_content"]["body"] == words).await;
        let edit = edit.unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(edit.replaces.as_ref(), Some(&came.event_id), "{words}");
        let new = &edit.content["m.new_content"];
        assert_eq!((&new["msgtype"], &new["filename"]), (&json!("m.image"), &json!("rash.jpg")), "{words}");
        assert_eq!(new["file"], came.content["file"], "{words}: the picture that was looked at");
    }

    // Another file, no words, and words that become a file.
    let other = ann.upload(&photo()).await.expect("uploaded");
    let said = say(&ann, &anns, "no file").await;
    read(&murphy, &hub, "no file").await;
    for (name, new, about) in [
        ("another file", with("another rash", &other), sent.as_str()),
        ("no words", with("rash.jpg", &own["file"]), sent.as_str()),
        ("words into a file", with("a rash", &own["file"]), said.as_str()),
    ] {
        let edit = send(&ann, &anns, "m.room.message", changed(new, about)).await;
        let told = refusal(&ann, &anns, &edit).await;
        assert!(told.contains("(EDIT-3)"), "{name}: {told}");
    }
    let edits = murphy.messages(&hub).await.expect("messages");
    assert_eq!(edits.iter().filter(|message| message.replaces.is_some()).count(), 2);
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// A file that the homeserver does not give out for a while keeps its sender waiting, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_to_be_had_keeps_nobody_else_waiting() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let ben = stage.sign_in("ben").await;
    let talk = stage.begin(&murphy, "S11 away", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    say(&ann, &anns, "hello").await;
    read(&murphy, &hub, "hello").await;
    proxies.to_homeserver.judge(|method, path| match point_of(method, path) {
        Some(CommitPoint::Download) => Fate::Answer(500, "{}"),
        _ => Fate::Pass,
    });
    ann.send_file(&anns, "m.file", "first.pdf", b"%PDF-1.4", Some("with a caption")).await.expect("sent");
    ann.send_file(&anns, "m.file", "second.pdf", b"%PDF-1.4", None).await.expect("sent");
    say(&ann, &anns, "behind them").await;
    say(&ben, &bens, "Ben goes on").await;
    read(&murphy, &hub, "Ben goes on").await;
    assert!(files(&murphy, &hub).await.is_empty());
    proxies.to_homeserver.pass_all();
    read(&murphy, &hub, "behind them").await;
    let names: Vec<_> = files(&murphy, &hub).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["first.pdf", "second.pdf"]);

    // A picture is made anew, whatever it is sent as, and put on the homeserver once, however many get it.
    for (msgtype, words) in [("m.image", "what it looks like"), ("m.file", "and once more")] {
        drop(proxies.to_homeserver.seen());
        murphy.send_file(&hub, msgtype, "rash.jpg", &photo(), Some(words)).await.expect("sent");
        let hers = read(&ann, &anns, words).await.content;
        let his = read(&ben, &bens, words).await.content;
        assert_eq!(hers["file"]["url"], his["file"]["url"], "{msgtype}");
        for (client, content) in [(&ann, &hers), (&ben, &his)] {
            let bytes = client.open_file(content).await.expect("it opens");
            let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
            assert!(bytes.starts_with(&[0xff, 0xd8]) && !has(PLACE.as_bytes()) && !has(b"Exif"), "{msgtype}");
        }
        let seen = proxies.to_homeserver.seen();
        let uploads = counted(seen.iter().map(String::as_str)).get("hs.upload").copied();
        assert_eq!(uploads, Some(1), "{msgtype}: {seen:#?}");
    }
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_pass_is_refused_by_what_it_is() {
    let patience = Some(Duration::from_secs(3));
    let stage = Stage::open_with(Extras { patience, ..Extras::default() }).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S11 refused", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    let large = vec![b'x'; (20 << 20) + 1];
    let kinds: [(&str, &str, &[u8], &str); 6] = [
        ("m.file", "harmless.txt", b"  <SVG onload=alert(1)>", "ATT-2"),
        ("m.file", "report.pdf", b"MZ\x90\x00 a program", "ATT-2"),
        ("m.image", "photo.jpg", b"%PDF-1.4 no photo", "ATT-2"),
        ("m.file", "run.txt", b"#!/bin/sh\nrm -rf /", "ATT-2"),
        ("m.image", "half.jpg", &photo()[..60], "ATT-4"),
        ("m.file", "large.txt", &large, "ATT-3"),
    ];
    for (msgtype, name, bytes, code) in kinds {
        let sent = ann.send_file(&spoke, msgtype, name, bytes, Some("look")).await.expect("sent");
        let told = refusal(&ann, &spoke, &sent).await;
        assert!(told.contains(&format!("({code})")), "{name}: {told}");
    }
    // Other bytes than the message says, a file that is nowhere, and one that the homeserver can read.
    let file = ann.upload(b"%PDF-1.4").await.expect("uploaded");
    for (name, change, code) in [
        (
            "another hash",
            json!({ "hashes": { "sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU" } }),
            "ATT-4",
        ),
        ("nowhere", json!({ "url": "mxc://demo.parlour.local/nothing" }), "ATT-4"),
        ("elsewhere", json!({ "url": "mxc://other.example/nothing" }), "ATT-4"),
    ] {
        let mut file = file.clone();
        for (key, value) in change.as_object().expect("an object") {
            file[key] = value.clone();
        }
        let content = json!({ "msgtype": "m.file", "body": "look", "filename": "x.pdf", "file": file });
        let sent = send(&ann, &spoke, "m.room.message", content).await;
        let told = refusal(&ann, &spoke, &sent).await;
        assert!(told.contains(&format!("({code})")), "{name}: {told}");
    }
    let clear = json!({ "msgtype": "m.image", "body": "look", "filename": "x.png", "url": "mxc://demo.parlour.local/x" });
    let sent = send(&ann, &spoke, "m.room.message", clear).await;
    assert!(refusal(&ann, &spoke, &sent).await.contains("(ENC-1)"));
    // A text that is called a program is called a text.
    ann.send_file(&spoke, "m.file", "result.js", b"WScript.Echo(1)", Some("my list")).await.expect("sent");
    assert_eq!(read(&murphy, &hub, "my list").await.content["filename"], "result.js.txt");
    // Nobody says anything about it.
    let silent = ann.send_file(&spoke, "m.file", "silent.pdf", b"%PDF-1.4", None).await.expect("sent");
    let told = ann.wait_for(&spoke, LIMIT, |m| {
        m.in_reply_to.as_deref() == Some(&*silent) && m.body.contains("(ATT-1)")
    });
    told.await.expect("it is refused in the end");
    say(&ann, &spoke, "too late").await;
    read(&murphy, &hub, "too late").await;
    assert_eq!(files(&murphy, &hub).await.len(), 1);

    // Among staff alone it has reached everybody.
    let alone = stage.begin(&murphy, "alone", "two-way", &["kim"], &[]).await;
    murphy.send_file(&alone.hub(), "m.file", "rota.svg", b"<svg/>", None).await.expect("sent");
    let clear =
        put(&murphy, &alone.hub(), "send/m.room.message/1", json!({ "msgtype": "m.text", "body": "x" }))
            .await;
    assert!(refusal(&murphy, &alone.hub(), &clear).await.contains("(ENC-1)"));
    let seen = murphy.messages(&alone.hub()).await.expect("messages");
    assert_eq!(seen.iter().filter(|message| message.msgtype == "m.notice").count(), 1);
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// Parlour is started again with other words about files.
async fn with_files(mut stage: Stage, attachments: Attachments, patience: Option<Duration>) -> Stage {
    stage.world.parlour.stop().await;
    stage.world.config.attachments = attachments;
    let extras = Extras { patience, ..Extras::default() };
    stage.world.parlour = Parlour::start(&stage.world.config, extras).await.expect("started again");
    stage.world.parlour.receiving().await;
    stage
}

/// What a practice says of files holds: how large, of which kinds, and that a scanner looks at them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_practice_and_its_scanner_say_of_files_holds() {
    let Some(mut clamd) = Clamd::prepare() else { return };
    let stage = Stage::open().await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S11 scanned", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    let attachments = Attachments {
        largest_mib: 1,
        kinds: Some(vec!["application/pdf".to_owned()]),
        scanner: Some(clamd.address()),
    };
    let stage = with_files(stage, attachments.clone(), None).await;

    // A scanner that is away keeps the sender waiting, and nobody else.
    let pdf = b"%PDF-1.4 a result";
    ann.send_file(&anns, "m.file", "early.pdf", pdf, Some("nobody looks at it")).await.expect("sent");
    say(&ann, &anns, "behind it").await;
    say(&ben, &bens, "Ben goes on").await;
    read(&murphy, &hub, "Ben goes on").await;
    assert!(files(&murphy, &hub).await.is_empty());
    clamd.start().await;
    read(&murphy, &hub, "behind it").await;
    assert_eq!(files(&murphy, &hub).await, [("early.pdf".to_owned(), pdf.to_vec())]);

    let large = [&pdf[..], &vec![b'x'; 1 << 20]].concat();
    let refused: [(&str, &str, &[u8], &str); 3] = [
        ("m.file", "harm.pdf", HARMFUL, "ATT-5"),
        ("m.image", "one.jpg", &photo(), "ATT-2"),
        ("m.file", "large.pdf", &large, "ATT-3"),
    ];
    for (msgtype, name, bytes, code) in refused {
        let sent = ann.send_file(&anns, msgtype, name, bytes, Some("look")).await.expect("sent");
        let told = refusal(&ann, &anns, &sent).await;
        assert!(told.contains(&format!("({code})")), "{name}: {told}");
    }
    // What it says of its size is not what it is.
    let file = ann.upload(&large).await.expect("uploaded");
    let content = json!({ "msgtype": "m.file", "body": "look", "filename": "sly.pdf", "file": file,
        "info": { "mimetype": "application/pdf", "size": 10 } });
    let sent = send(&ann, &anns, "m.room.message", content).await;
    let told = refusal(&ann, &anns, &sent).await;
    assert!(told.contains("(ATT-3)"), "{told}");
    clamd.stop();
    let stage = with_files(stage, attachments, Some(Duration::from_secs(1))).await;
    let sent = ann.send_file(&anns, "m.file", "late.pdf", pdf, Some("look")).await.expect("sent");
    let told = refusal(&ann, &anns, &sent).await;
    assert!(told.contains("(ATT-6)"), "{told}");
    assert_eq!(files(&murphy, &hub).await.len(), 1);
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}
