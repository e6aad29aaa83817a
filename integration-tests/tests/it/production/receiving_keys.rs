//! Keys that come to the bot: late, never, from the wrong device, twice.

use std::time::Duration;

use parlour::{demo::client::Client, run::Extras};
use parlour_integration_tests::{
    LIMIT, Stage,
    books::Books,
    crowd::Caller,
    proxy::{Fate, Kept, Proxy},
    put, read, refusal, room_path, say, token,
};
use reqwest::Method;
use ruma::{EventId, OwnedEventId, RoomId, event_id};
use serde_json::{Value, json};

use super::{end, hand_over, heard, raw, told};

/// Says words in a new session, whose key the proxy keeps to itself.
async fn say_without_its_key(
    client: &Client,
    proxy: &Proxy,
    room: &RoomId,
    words: &str,
) -> (OwnedEventId, Vec<Kept>) {
    client.matrix().get_room(room).expect("a room").discard_room_key().await.expect("a new session");
    proxy.judge(|_, path| if path.contains("/sendToDevice/") { Fate::Answer(200, "{}") } else { Fate::Pass });
    let event = say(client, room, words).await;
    let kept = proxy.kept().await;
    proxy.pass_all();
    (event, kept)
}

/// Sends the keys that the proxy has kept to itself.
async fn hand_over_keys(client: &Client, keys: Vec<Kept>) {
    for key in keys {
        let body: Value = serde_json::from_str(&key.body).expect("JSON");
        let (status, answer) =
            client.http().call(Method::PUT, &key.path, Some(body)).await.expect("an answer");
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_device_sent_while_we_were_down() {
    let mut stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "down", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let words = ["down one", "down two", "down three"];
    stage = stage
        .without_parlour(async {
            // Each in a session of its own, whose key is sent while nobody is there.
            for words in words {
                let room = murphy.matrix().get_room(&hub).expect("the hub");
                room.discard_room_key().await.expect("a new session");
                say(&murphy, &hub, words).await;
            }
        })
        .await;
    read(&ann, &spoke, "down three").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "down one", "down two", "down three"]);
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_before_its_key() {
    let stage = Stage::open().await;
    let proxy = Proxy::start(stage.world.place.homeserver).await.expect("a proxy");
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let murphy = stage.device_through(&url, "murphy", "first", false).await;
    let (kim, ann) = (stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "early", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let (_, keys) = say_without_its_key(&murphy, &proxy, &hub, "early").await;
    // Behind it is what its sender says next, and nobody else.
    say(&murphy, &hub, "next").await;
    say(&kim, &hub, "Kim goes on").await;
    read(&ann, &spoke, "Kim goes on").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "Kim goes on"]);
    hand_over_keys(&murphy, keys).await;
    read(&ann, &spoke, "next").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "Kim goes on", "early", "next"]);
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, kim, ann], stage).await;
}

/// Deleted while it waits for its key, it reaches nobody; the record has it.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_before_its_key() {
    let stage = Stage::open().await;
    let proxy = Proxy::start(stage.world.place.homeserver).await.expect("a proxy");
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let murphy = stage.device_through(&url, "murphy", "first", false).await;
    let ann = stage.sign_in("ann").await;
    let talk = stage.begin(&murphy, "taken back", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let (mistake, keys) = say_without_its_key(&murphy, &proxy, &hub, "a mistake").await;
    let books = Books::of(&stage.world.place.data, None);
    let waits = "SELECT COUNT(*) FROM inbox WHERE state = 'waiting'";
    books.comes_to(waits, 1).await.expect("it waits for its key");
    murphy.send_raw(&hub, "m.room.redaction", json!({ "redacts": mistake })).await.expect("deleted");
    books.comes_to(waits, 2).await.expect("and its deletion behind it");
    hand_over_keys(&murphy, keys).await;
    say(&murphy, &hub, "what I meant").await;
    read(&ann, &spoke, "what I meant").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "what I meant"]);
    let path = room_path(&spoke, "messages?dir=b&limit=50");
    let (_, page) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
    let events = page["chunk"].as_array().expect("events");
    let kinds = ["m.room.encrypted", "m.room.redaction"];
    let found = kinds.map(|kind| events.iter().filter(|event| event["type"] == kind).count());
    assert_eq!(found, [2, 0], "nothing of it ever stood in her room");
    let kept = "SELECT COUNT(*) FROM messages WHERE deleted_at IS NOT NULL";
    assert_eq!(books.number(kept).await, 1, "it stays in the record");
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann], stage).await;
}

/// The homeserver took it while the conversation was two-way.
#[tokio::test(flavor = "multi_thread")]
async fn event_before_its_key_and_before_a_switch() {
    let stage = Stage::open().await;
    let proxy = Proxy::start(stage.world.place.homeserver).await.expect("a proxy");
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let (murphy, ann) =
        (stage.sign_in("murphy").await, stage.device_through(&url, "ann", "first", false).await);
    let talk = stage.begin(&murphy, "early, and switched", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &spoke, "before").await;
    read(&murphy, &hub, "before").await;
    let (_, keys) = say_without_its_key(&ann, &proxy, &spoke, "just in time").await;
    let caller = Caller::new(&stage.world.public_url(), &token(&murphy));
    let (status, told) = caller.switched(talk.id(), "one-way").await.expect("an answer");
    assert_eq!((status, &told["switching"]), (200, &json!(0)), "{told}");
    assert_eq!(heard(&murphy, &hub).await.iter().filter(|words| *words == "just in time").count(), 0);
    hand_over_keys(&ann, keys).await;
    read(&murphy, &hub, "just in time").await;
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_withheld() {
    let stage = Stage::open().await;
    let proxy = Proxy::start(stage.world.place.homeserver).await.expect("a proxy");
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let murphy = stage.device_through(&url, "murphy", "first", false).await;
    let ann = stage.sign_in("ann").await;
    let talk = stage.begin(&murphy, "withheld", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let (event, _) = say_without_its_key(&murphy, &proxy, &hub, "withheld").await;
    let content = raw(&murphy, &hub, &event).await["content"].clone();
    let notice = json!({
        "algorithm": content["algorithm"], "room_id": hub, "session_id": content["session_id"],
        "sender_key": content["sender_key"], "code": "m.unverified", "reason": "not verified",
    });
    let body = json!({ "messages": { stage.bot().as_str(): { "*": notice } } });
    let path = "/_matrix/client/v3/sendToDevice/m.room_key.withheld/1";
    let (status, answer) = murphy.http().call(Method::PUT, path, Some(body)).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let words = refusal(&murphy, &hub, &event).await;
    assert!(words.contains("(KEY-2)"), "{words}");
    murphy.matrix().get_room(&hub).expect("the hub").discard_room_key().await.expect("a new session");
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "after"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (1, 0));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_sender() {
    let stage = Stage::open().await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "spoofed", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let words = say(&murphy, &hub, "Murphy's words").await;
    read(&ann, &spoke, "Murphy's words").await;
    // Kim sends Dr Murphy's ciphertext as her own; and a homeserver puts her name on it.
    let mut event = raw(&murphy, &hub, &words).await;
    let own = put(&kim, &hub, "send/m.room.encrypted/1", event["content"].clone()).await;
    event["event_id"] = json!("$spoofed");
    event["sender"] = json!(kim.user_id());
    hand_over(&stage, "spoofed", &[event]).await;
    for refused in [&*own, event_id!("$spoofed")] {
        let words = refusal(&kim, &hub, refused).await;
        assert!(words.contains("(TRUST-2)"), "{words}");
    }
    say(&kim, &hub, "Kim's words").await;
    read(&ann, &spoke, "Kim's words").await;
    assert_eq!(heard(&ann, &spoke).await, ["Murphy's words", "Kim's words"]);
    end([murphy, kim, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_megolm_index() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "replayed", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let copy = async |client: &Client, room: &RoomId, event: &EventId, id: &str| {
        let content = raw(client, room, event).await["content"].clone();
        let again = put(client, room, &format!("send/m.room.encrypted/{id}"), content).await;
        refusal(client, room, &again).await
    };
    let once = say(&ann, &spoke, "once").await;
    read(&murphy, &hub, "once").await;
    for id in ["1", "2"] {
        let words = copy(&ann, &spoke, &once, id).await;
        assert!(words.contains("(KEY-3)"), "{words}");
    }
    // Also when the original was not passed on.
    let content = json!({ "msgtype": "m.location", "body": "here", "geo_uri": "geo:53.3,-6.2" });
    let waves = parlour_integration_tests::send(&ann, &spoke, "m.room.message", content).await;
    assert!(refusal(&ann, &spoke, &waves).await.contains("(KIND-1)"));
    assert!(copy(&ann, &spoke, &waves, "3").await.contains("(KEY-3)"));
    say(&ann, &spoke, "after").await;
    read(&murphy, &hub, "after").await;
    assert_eq!(heard(&murphy, &hub).await, ["once", "after"]);
    assert_eq!((told(&ann, &spoke).await, told(&murphy, &hub).await), (4, 0));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_never_comes() {
    let stage =
        Stage::open_with(Extras { patience: Some(Duration::from_secs(6)), ..Extras::default() }).await;
    let murphy = stage.sign_in("murphy").await;
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "keys", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    // A ciphertext as such, of a session whose key nobody has.
    say(&ann, &anns, "before").await;
    let path = room_path(&anns, "messages?dir=b&limit=20");
    let (_, page) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
    let sent =
        page["chunk"].as_array().expect("events").iter().find(|event| event["type"] == "m.room.encrypted");
    let mut content = sent.expect("an encrypted event")["content"].clone();
    content["session_id"] = json!("MBS9Ur9WZ+fTgFqGH/9ipWl4kk6BIPJkwPiVJQYlAjM");
    let lost = put(&ann, &anns, "send/m.room.encrypted/1", content).await;
    say(&ann, &anns, "behind it").await;
    say(&ben, &bens, "Ben goes on").await;
    read(&murphy, &hub, "Ben goes on").await;
    assert!(refusal(&ann, &anns, &lost).await.contains("(KEY-1)"));
    read(&murphy, &hub, "behind it").await;
    let seen = murphy.messages(&hub).await.expect("messages");
    let order: Vec<_> = seen.iter().filter(|message| message.msgtype == "m.text").map(|m| &*m.body).collect();
    assert_eq!(order, ["before", "Ben goes on", "behind it"], "it holds up Ann, and not Ben");
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// A client of somebody's that knows nothing of their identity.
async fn plain_client(stage: &Stage, name: &str) -> matrix_sdk::Client {
    let person = stage.person(name);
    let client = matrix_sdk::Client::builder()
        .homeserver_url(stage.world.homeserver_url())
        .build()
        .await
        .expect("a client");
    client.matrix_auth().login_username(&person.user_id, &person.password).send().await.expect("signed in");
    client.sync_once(matrix_sdk::config::SyncSettings::new()).await.expect("a sync");
    client
}

async fn plainly(client: &matrix_sdk::Client, room: &ruma::RoomId, words: &str) -> OwnedEventId {
    let room = client.get_room(room).expect("the room");
    let content = json!({ "msgtype": "m.text", "body": words });
    room.send_raw("m.room.message", content).await.expect("sent").response.event_id
}

/// What a device that nobody has signed writes is kept, and delivered with its time when the device is signed.
#[tokio::test(flavor = "multi_thread")]
async fn unsigned_sender_device() {
    let stage =
        Stage::open_with(Extras { patience: Some(Duration::from_secs(5)), ..Extras::default() }).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "unsigned", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    ann.wait_for_room(LIMIT, |room| room.room_id == spoke).await.expect("in the room");

    // Another device of hers, without the recovery passphrase: nothing signs it.
    let device = plain_client(&stage, "ann").await;
    let kept = plainly(&device, &spoke, "from an unsigned device").await;
    assert!(refusal(&ann, &spoke, &kept).await.contains("(TRUST-1)"));
    let more = plainly(&device, &spoke, "and one more").await;
    assert!(refusal(&ann, &spoke, &more).await.contains("(TRUST-1)"));
    let gone = plainly(&device, &spoke, "taken back").await;
    assert!(refusal(&ann, &spoke, &gone).await.contains("(TRUST-1)"));
    put(&ann, &spoke, &format!("redact/{gone}/1"), json!({})).await;
    let file = ann.upload(b"%PDF-1.4").await.expect("uploaded");
    let file = json!({ "msgtype": "m.file", "body": "x.pdf", "filename": "x.pdf", "file": file });
    let file =
        device.get_room(&spoke).expect("the room").send_raw("m.room.message", file).await.expect("sent");
    assert!(refusal(&ann, &spoke, &file.response.event_id).await.contains("(TRUST-1)"));
    say(&ann, &spoke, "from a signed device").await;
    let later = read(&murphy, &hub, "from a signed device").await;
    let seen = murphy.messages(&hub).await.expect("messages");
    assert!(seen.iter().all(|message| message.body != "from an unsigned device"));
    let told = seen.iter().filter(|message| message.body.contains("a device that is not verified")).count();
    assert_eq!(told, 1, "staff are told once");

    // She verifies it while Parlour is away, and what it has written is delivered.
    let device_id = device.device_id().expect("a device").to_owned();
    let own = ann.matrix().encryption().get_device(ann.user_id(), &device_id).await.expect("asked");
    let signed = async { own.expect("her device").verify().await.expect("signed") };
    let stage = stage.without_parlour(signed).await;
    let delivered = read(&murphy, &hub, "from an unsigned device").await;
    assert!(delivered.sent_at < later.sent_at, "with its own time");
    read(&murphy, &hub, "and one more").await;
    // She is asked for words about her file from then on, however long it was kept.
    let file = file.response.event_id;
    let asked = ann.wait_for(&spoke, LIMIT, |m| {
        m.in_reply_to.as_deref() == Some(&*file) && m.body.starts_with("Please write a few words")
    });
    asked.await.expect("a question");
    say(&ann, &spoke, "thank you").await;
    read(&murphy, &hub, "thank you").await;
    let seen = murphy.messages(&hub).await.expect("messages");
    assert!(seen.iter().any(|message| message.content["filename"] == "x.pdf"));
    assert!(seen.iter().all(|message| message.body != "taken back"));
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// Where the practice allows it, clients take part that know nothing of cross-signing; a device that its owner's identity has not
/// signed still does not.
#[tokio::test(flavor = "multi_thread")]
async fn clients_without_cross_signing_where_they_are_allowed() {
    let patience = Some(Duration::from_secs(2));
    let mut stage = Stage::open_with(Extras { patience, ..Extras::default() }).await;
    stage.world.config.allow_unsigned_clients = true;
    let stage = stage.without_parlour(async {}).await;
    stage.world.parlour.receiving().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "allowed", "two-way", &[], &["ann", "eve"]).await;
    let (hub, anns, eves) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("eve")));
    ann.wait_for_room(LIMIT, |room| room.room_id == anns).await.expect("in the room");
    let eve = plain_client(&stage, "eve").await;
    plainly(&eve, &eves, "without an identity").await;
    read(&murphy, &hub, "without an identity").await;
    say(&murphy, &hub, "for everybody").await;
    read(&ann, &anns, "for everybody").await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let reads = async || {
        eve.sync_once(matrix_sdk::config::SyncSettings::new()).await.expect("a sync");
        let room = eve.get_room(&eves).expect("the room");
        let page = room.messages(matrix_sdk::room::MessagesOptions::backward()).await.expect("messages");
        page.chunk.iter().any(|event| event.raw().json().get().contains("for everybody"))
    };
    while !reads().await {
        assert!(tokio::time::Instant::now() < deadline, "Eve reads it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let device = plain_client(&stage, "ann").await;
    let kept = plainly(&device, &anns, "from an unsigned device").await;
    assert!(refusal(&ann, &anns, &kept).await.contains("(TRUST-1)"), "Ann has an identity");
    let (own, seen) = ("for what Ann has signed", say(&murphy, &hub, "for what Ann has signed").await);
    let theirs = read(&ann, &anns, own).await.event_id;
    assert_ne!(theirs, seen);
    device.sync_once(matrix_sdk::config::SyncSettings::new()).await.expect("a sync");
    let there = device.get_room(&anns).expect("the room").event(&theirs, None).await.expect("the event");
    assert!(there.kind.is_utd(), "her device that she has not signed gets no key");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
