//! Keys that ghosts give to people's devices: new ones, removed ones, and those that cannot be had.

use std::{path::Path, time::Duration};

use parlour::{
    demo::client::{Client, Message, Reading},
    run::Extras,
};
use parlour_integration_tests::{
    LIMIT, Stage,
    proxy::{Fate, Proxy},
    read, say,
    trial::Trial,
};
use reqwest::Method;
use ruma::{UserId, events::AnySyncTimelineEvent, serde::Raw};
use serde_json::json;
use sqlx::Connection as _;

use super::{end, figures, heard, raw, told};

const REFUSED: Fate = Fate::Answer(500, r#"{"errcode":"M_UNKNOWN","error":"out of order"}"#);

/// Waits until a request whose path holds this goes through the proxy.
async fn seen(proxy: &Proxy, what: &str) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !proxy.seen().iter().any(|request| request.contains(what)) {
        assert!(tokio::time::Instant::now() < deadline, "{what} is asked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn device_id(client: &Client) -> String {
    client.matrix().device_id().expect("a device").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_device_of_a_patient() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "new device", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let second = stage.device("ann", "second", false).await;
    // What it says is believed, so its signature is known.
    say(&second, &spoke, "from the new phone").await;
    read(&murphy, &hub, "from the new phone").await;
    let after = say(&murphy, &hub, "after").await;
    for client in [&ann, &second] {
        let message = read(client, &spoke, "after").await;
        assert!(message.is_readable(), "{message:?}");
    }
    assert_eq!(heard(&ann, &spoke).await, ["before", "after"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    let asked = read(&second, &spoke, "after").await;
    second.reply(&spoke, &asked.event_id, "an answer").await.expect("sent");
    assert_eq!(read(&murphy, &hub, "an answer").await.in_reply_to, Some(after));
    end([murphy, ann, second], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn device_removed() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let second = stage.device("ann", "second", false).await;
    let talk = stage.begin(&murphy, "removed", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "for both").await;
    let before = read(&ann, &spoke, "for both").await;
    read(&second, &spoke, "for both").await;
    // From here on the bot asks for her devices whenever they change.
    say(&ann, &spoke, "from Ann").await;
    read(&murphy, &hub, "from Ann").await;
    second.pause().await;
    proxies.to_homeserver.seen();
    let path = "/_matrix/client/v3/logout";
    let (status, answer) = second.http().call(Method::POST, path, Some(json!({}))).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    seen(&proxies.to_homeserver, "/keys/query").await;
    say(&murphy, &hub, "for one").await;
    let after = read(&ann, &spoke, "for one").await;
    let events = [raw(&ann, &spoke, &before.event_id).await, raw(&ann, &spoke, &after.event_id).await];
    let [one, two] = events.each_ref().map(|event| &event["content"]["session_id"]);
    assert_ne!(one, two, "the session was changed");
    // Whoever has the old device, and gets at the ciphertext, reads no more than before.
    let room = second.matrix().get_room(&spoke).expect("the room");
    let mut opened = Vec::new();
    for event in &events {
        let event: Raw<AnySyncTimelineEvent> = Raw::new(event).expect("an event").cast_unchecked();
        let decrypted = room.decrypt_event(event.cast_ref_unchecked(), None).await.expect("an answer");
        opened.push(decrypted.kind.is_utd());
    }
    assert_eq!(opened, [false, true]);
    assert_eq!(heard(&ann, &spoke).await, ["for both", "for one"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, ann, second], stage).await;
}

/// Takes one-time keys of a device, as somebody who wants to write to it, until there is only the fallback key.
async fn exhaust(by: &Client, user: &UserId, device: &str) {
    let claim = json!({ "one_time_keys": { user.as_str(): { device: "signed_curve25519" } } });
    for _ in 0..200 {
        let path = "/_matrix/client/v3/keys/claim";
        let (status, keys) =
            by.http().call(Method::POST, path, Some(claim.clone())).await.expect("an answer");
        assert_eq!(status, 200, "{keys}");
        let given = keys["one_time_keys"][user.as_str()][device].as_object().expect("a key");
        if given.values().all(|key| key["fallback"] == true) {
            return;
        }
    }
    panic!("there is no end of one-time keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_time_keys_exhausted() {
    let stage = Stage::open().await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    // Her phone is off, and all its one-time keys are taken: both ghosts have the fallback key only, and the same.
    ann.pause().await;
    exhaust(&murphy, ann.user_id(), &device_id(&ann)).await;
    let talk = stage.begin(&murphy, "exhausted", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    for (client, words) in [(&murphy, "from Murphy"), (&kim, "from Kim"), (&murphy, "from Murphy again")] {
        say(client, &hub, words).await;
    }
    figures(&stage, "all is sent", |f| (f.inbox, f.waiting, f.held) == (0, 0, 0)).await;
    ann.resume().await;
    for words in ["from Murphy", "from Kim", "from Murphy again"] {
        read(&ann, &spoke, words).await;
    }
    let mut all = heard(&ann, &spoke).await;
    all.sort();
    assert_eq!(all, ["from Kim", "from Murphy", "from Murphy again"]);
    // The same for the bot, whose keys staff and patients need.
    let store = stage.world.parlour.engine().store();
    let bot = store.our_user(&stage.bot()).await.expect("the store").expect("the bot");
    exhaust(&murphy, &bot.user_id, bot.device_id.as_str()).await;
    say(&ann, &spoke, "from Ann").await;
    read(&murphy, &hub, "from Ann").await;
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, kim, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_to_be_had() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let first = stage.begin(&murphy, "known", "two-way", &[], &["ann"]).await;
    say(&murphy, &first.hub(), "before").await;
    read(&ann, &first.spoke(stage.person("ann")), "before").await;
    // Ben's device has no key left, not even the fallback.
    proxies.to_homeserver.judge(|_, path| match path.contains("/keys/claim") {
        true => Fate::Answer(200, r#"{"one_time_keys":{},"failures":{}}"#),
        false => Fate::Pass,
    });
    let talk = stage.begin(&murphy, "no key", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    for words in ["one", "two"] {
        say(&murphy, &hub, words).await;
        read(&ann, &anns, words).await;
    }
    figures(&stage, "it does not count as sent", |f| (f.waiting, f.held) == (1, 1)).await;
    assert_eq!(heard(&ben, &bens).await, [""; 0], "nothing stands in the room that nobody could read");
    proxies.to_homeserver.pass_all();
    // It looks by itself, once a minute.
    let two = ben.wait_for(&bens, LIMIT * 3, |message| message.body == "two").await.expect("it goes out");
    assert!(two.is_readable());
    assert_eq!(heard(&ben, &bens).await, ["one", "two"]);
    assert_eq!(heard(&ann, &anns).await, ["one", "two"]);
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann, ben], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_time_key_clash() {
    let trial = Trial::open(env!("CARGO_BIN_EXE_parlour-under-test"), None, 0, None).await;
    // As Synapse says it, whenever the bot makes up what was taken of its keys.
    trial.to_homeserver.judge(|_, path| match path.contains("/keys/upload?") && path.contains("_parlour_bot") {
        true => Fate::Answer(
            400,
            r#"{"errcode":"M_UNKNOWN","error":"One time key signed_curve25519:AAAAAAAAADM already exists. Old key: x; new key: y"}"#,
        ),
        false => Fate::Pass,
    });
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "clash", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "one").await;
    read(&ann, &spoke, "one").await;
    trial.to_homeserver.kept().await;
    // Both ways go on, also to devices that take the last of its keys.
    let bot = UserId::parse("@_parlour_bot:demo.parlour.local").expect("a user id");
    let query = json!({ "device_keys": { bot.as_str(): [] } });
    let (_, keys) =
        murphy.http().call(Method::POST, "/_matrix/client/v3/keys/query", Some(query)).await.expect("keys");
    let devices = keys["device_keys"][bot.as_str()].as_object().expect("devices");
    exhaust(&murphy, &bot, devices.keys().next().expect("a device")).await;
    let second = trial.sign_in("ann", "second").await;
    say(&second, &spoke, "from a new phone").await;
    read(&murphy, &hub, "from a new phone").await;
    say(&murphy, &hub, "two").await;
    read(&second, &spoke, "two").await;
    trial.quiet().await;
    assert_eq!(heard(&ann, &spoke).await, ["one", "two"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    // The operator reads one sentence, once, without a key in it.
    let log = trial.log();
    assert_eq!(log.matches("the homeserver has other one-time keys of this device").count(), 1, "{log}");
    assert!(!log.contains("AAAAAAAAADM"), "{log}");
    for client in [murphy, ann, second] {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_or_query_fails() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let first = stage.begin(&murphy, "known", "two-way", &[], &["ann"]).await;
    say(&murphy, &first.hub(), "before").await;
    read(&ann, &first.spoke(stage.person("ann")), "before").await;
    let talk = stage.begin(&murphy, "claims", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    // For Ann no key must be claimed, for Ben one must: Ben's leg waits, Ann's goes.
    proxies.to_homeserver.judge(|_, path| if path.contains("/keys/claim") { REFUSED } else { Fate::Pass });
    for words in ["one", "two"] {
        say(&murphy, &hub, words).await;
        read(&ann, &anns, words).await;
    }
    proxies.to_homeserver.kept().await;
    figures(&stage, "Ben's legs wait", |figures| (figures.waiting, figures.held) == (2, 0)).await;
    proxies.to_homeserver.pass_all();
    read(&ben, &bens, "two").await;

    // Dr Murphy's ghost encrypts for nobody by a list of devices that may be old; Ann's ghost goes on.
    say(&ben, &bens, "from Ben").await;
    say(&ann, &anns, "from Ann").await;
    read(&murphy, &hub, "from Ann").await;
    read(&murphy, &hub, "from Ben").await;
    let second = stage.device("ben", "second", false).await;
    say(&second, &bens, "from Ben's new phone").await;
    read(&murphy, &hub, "from Ben's new phone").await;
    proxies.to_homeserver.judge(|_, path| if path.contains("/keys/query") { REFUSED } else { Fate::Pass });
    say(&murphy, &hub, "three").await;
    proxies.to_homeserver.kept().await;
    say(&ann, &anns, "from Ann again").await;
    read(&murphy, &hub, "from Ann again").await;
    figures(&stage, "two legs wait", |figures| (figures.waiting, figures.held) == (2, 0)).await;
    proxies.to_homeserver.pass_all();
    for (client, spoke) in [(&ann, &anns), (&ben, &bens), (&second, &bens)] {
        read(client, spoke, "three").await;
    }
    for (client, spoke) in [(&ann, &anns), (&ben, &bens)] {
        assert_eq!(heard(client, spoke).await, ["one", "two", "three"]);
    }
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann, ben, second], stage).await;
}

/// A client's store as it was before: a copy, in which all Olm sessions are two hours old. A client begins a broken
/// session anew only when it is older than an hour.
pub(crate) async fn copy_of_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    // The client has stopped, and SQLite puts away what it keeps beside its files: then it is copied again.
    let copied = || {
        let mut files = std::fs::read_dir(from).expect("the store").flatten();
        files.try_for_each(|file| std::fs::copy(file.path(), to.join(file.file_name())).map(drop))
    };
    while let Err(error) = copied() {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "copied");
        std::fs::remove_dir_all(to).and_then(|()| std::fs::create_dir_all(to)).expect("begun anew");
    }
    let url = format!("sqlite://{}", to.join("matrix-sdk-crypto.sqlite3").display());
    let mut database = sqlx::AnyConnection::connect(&url).await.expect("the store");
    let sessions: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as("SELECT session_id, data FROM session")
        .fetch_all(&mut database)
        .await
        .expect("sessions");
    assert!(!sessions.is_empty());
    for (id, mut data) in sessions {
        // MessagePack: the name, then 0xce and four bytes.
        let name = b"creation_time";
        let at = data.windows(name.len()).position(|window| window == name).expect("a time") + name.len();
        assert_eq!(data[at], 0xce);
        let seconds = u32::from_be_bytes(data[at + 1..at + 5].try_into().expect("four bytes"));
        data[at + 1..at + 5].copy_from_slice(&(seconds - 2 * 60 * 60).to_be_bytes());
        sqlx::query("UPDATE session SET data = $1 WHERE session_id = $2")
            .bind(data)
            .bind(id)
            .execute(&mut database)
            .await
            .expect("older");
    }
    database.close().await.expect("closed");
}

/// Waits until a ghost's inbox is empty: it has read what was in it.
async fn has_read_its_inbox(stage: &Stage, ghost: &UserId) {
    let store = stage.world.parlour.engine().store();
    let device = store.our_user(ghost).await.expect("the store").expect("a ghost").device_id;
    let deadline = tokio::time::Instant::now() + LIMIT;
    for number in 0.. {
        // Synapse remembers its answer to the same question for two minutes.
        let path = format!("/_matrix/client/v3/sync?device_id={device}&timeout={number}");
        let (_, inbox) = stage.as_ours(ghost, Method::GET, &path, None).await;
        if inbox["to_device"]["events"].as_array().is_none_or(Vec::is_empty) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the inbox stays full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wedged_olm() {
    let extras = Extras { care: Some(Duration::from_millis(300)), ..Extras::default() };
    let stage = Stage::open_with(extras).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let first = stage.begin(&murphy, "first", "two-way", &[], &["ann"]).await;
    let spoke = first.spoke(stage.person("ann"));
    say(&murphy, &first.hub(), "hello").await;
    let ghost = read(&ann, &spoke, "hello").await.sender;
    ann.stop().await;
    copy_of_store(&stage.store("ann", "first"), &stage.store("ann", "restored")).await;

    // The Olm session between ghost and phone goes on: the phone answers in it, and the ghost has read that.
    let ann = stage.device("ann", "first", false).await;
    say(&ann, &spoke, "good morning").await;
    read(&murphy, &first.hub(), "good morning").await;
    has_read_its_inbox(&stage, &ghost).await;
    ann.stop().await;

    // The phone is put back to what it was: what the ghost sends from here on it cannot read.
    let ann = stage.device("ann", "restored", false).await;
    let talk = stage.begin(&murphy, "second", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let asked = say(&murphy, &hub, "can you read this?").await;
    let written =
        murphy.wait_for(&hub, LIMIT, |message| message.event_id == asked).await.expect("said").sent_at;
    let unreadable = |seen: &[Message]| {
        seen.iter().find(|m| matches!(m.reading, Reading::Undecryptable { .. })).map(|m| m.event_id.clone())
    };
    let lost = ann.wait_until(&spoke, LIMIT, unreadable).await.expect("it cannot be read");
    // Her phone begins Olm anew, which the ghost hears with the key of what she writes next.
    say(&ann, &spoke, "I cannot read it").await;
    read(&murphy, &hub, "I cannot read it").await;
    let again = read(&ann, &spoke, "can you read this?").await;
    assert_eq!(
        (again.sender.as_str(), again.sent_at),
        (ghost.as_str(), written),
        "the same words, the same time"
    );
    // What could not be read is void, and the words stand there once.
    assert_ne!(again.event_id, lost);
    let void = |seen: &[Message]| {
        seen.iter().any(|m| m.event_id == lost && m.reading == Reading::Redacted).then_some(())
    };
    ann.wait_until(&spoke, LIMIT, void).await.expect("it is redacted");
    assert_eq!(heard(&ann, &spoke).await, ["(redacted)", "can you read this?"]);
    // It is the same message: an answer to it is one to Dr Murphy's own words.
    ann.reply(&spoke, &again.event_id, "yes").await.expect("sent");
    assert_eq!(read(&murphy, &hub, "yes").await.in_reply_to, Some(asked));
    say(&murphy, &hub, "good").await;
    read(&ann, &spoke, "good").await;
    assert_eq!(heard(&ann, &spoke).await, ["(redacted)", "can you read this?", "good"]);
    assert_eq!(heard(&murphy, &hub).await, ["I cannot read it", "yes"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, ann], stage).await;
}
