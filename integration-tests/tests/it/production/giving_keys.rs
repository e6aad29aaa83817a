//! Keys that ghosts give to people's devices: new ones, removed ones, and those that cannot be had.

use std::time::Duration;

use parlour::{demo::client::Client, run::Extras};
use parlour_integration_tests::{
    LIMIT, Stage,
    devices::{Device, Equipment, equip},
    proxy::{Fate, Proxy},
    read, say,
    trial::Trial,
};
use reqwest::Method;
use ruma::{UserId, events::AnySyncTimelineEvent, serde::Raw};
use serde_json::json;

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
    figures(&stage, "it does not count as sent", |f| (f.waiting, f.held) == (0, 2)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_keeps_nobody_waiting() {
    let stage = Stage::open().await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    // Cara has no device. Dan has one that nobody has signed, and Eve's has no key left.
    let (http, homeserver) = (reqwest::Client::new(), stage.world.homeserver_url());
    let (dan, eve) = (stage.person("dan"), stage.person("eve").clone());
    let mut unsigned = Device::unsigned(&http, &homeserver, dan, 5).await;
    let spent = Equipment { devices: 1, one_time_keys: 0 };
    let mut spent = equip(&http, &homeserver, &[eve], spent).await.remove(0).remove(0);
    let names = ["ann", "ben", "cara", "dan", "eve"];
    let talk = stage.begin(&murphy, "all sorts", "two-way", &[], &names).await;
    let (hub, [anns, bens, caras, dans, eves]) =
        (talk.hub(), names.map(|name| talk.spoke(stage.person(name))));
    for words in ["one", "two"] {
        say(&murphy, &hub, words).await;
        read(&ann, &anns, words).await;
        read(&ben, &bens, words).await;
    }
    // Of each of the three the first is held, and the second behind it.
    figures(&stage, "three wait", |f| (f.inbox, f.waiting, f.held) == (0, 0, 6)).await;
    assert_eq!((unsigned.reads(&dans).await, spent.reads(&eves).await), (vec![], vec![]), "nothing is there");

    // Each can be reached now: by a first device, by one that is signed, and by new keys.
    let (cara, dan) = (stage.sign_in("cara").await, stage.sign_in("dan").await);
    spent.publish_one_time_keys(5).await;
    for (client, spoke) in [(&cara, &caras), (&dan, &dans)] {
        read(client, spoke, "two").await;
    }
    let deadline = tokio::time::Instant::now() + LIMIT * 3;
    // It looks by itself, once a minute.
    while spent.reads(&eves).await.len() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "Eve can be reached");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    say(&murphy, &hub, "three").await;
    for (client, spoke) in [(&ann, &anns), (&ben, &bens), (&cara, &caras), (&dan, &dans)] {
        read(client, spoke, "three").await;
        assert_eq!(heard(client, spoke).await, ["one", "two", "three"]);
    }
    figures(&stage, "all is sent", |f| (f.inbox, f.waiting, f.held) == (0, 0, 0)).await;
    assert_eq!(spent.reads(&eves).await, ["one", "two", "three"]);
    assert_eq!(unsigned.reads(&dans).await, ["(unreadable)"; 3], "it is still not signed");
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann, ben, cara, dan], stage).await;
}
