//! Rooms and homeserver that change under our hands.

use std::collections::BTreeSet;

use parlour::{demo::client::Client, run::Extras};
use parlour_integration_tests::{Stage, proxy::Fate, read, room_path, say, trial::Trial};
use reqwest::Method;
use ruma::{RoomId, UserId};
use serde_json::json;

use super::{end, hand_over, heard, swallowed, told};

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn encryption_event_changed() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "changed", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let mut wanted = vec!["before".to_owned()];
    let good = json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 1 });
    // With what makes no sense in it a client sends nothing: that is tried in the room that ghosts write in.
    for (number, (rooms, content)) in [
        (vec![&hub, &spoke], &good),
        (vec![&spoke], &json!({ "algorithm": "org.example.none" })),
        (vec![&spoke], &json!({})),
        (vec![&spoke], &good),
    ]
    .into_iter()
    .enumerate()
    {
        for room in rooms {
            let path = room_path(room, "state/m.room.encryption/");
            let (status, answer) = stage.as_ours(&stage.bot(), Method::PUT, &path, Some(content)).await;
            assert_eq!(status, 200, "{content}: {answer}");
        }
        let words = format!("after {number}");
        say(&murphy, &hub, &words).await;
        read(&ann, &spoke, &words).await;
        wanted.push(words);
    }
    // Each of them encrypted, whatever the room says.
    assert_eq!(heard(&ann, &spoke).await, wanted);
    let path = room_path(&spoke, "messages?dir=b&limit=100");
    let (_, page) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
    let events = page["chunk"].as_array().expect("events").iter();
    let kinds: Vec<_> = events.filter(|e| e["state_key"].is_null()).map(|e| &e["type"]).collect();
    assert_eq!(kinds, vec![&json!("m.room.encrypted"); wanted.len()]);
    // And what people say there is read.
    say(&ann, &spoke, "from Ann").await;
    read(&murphy, &hub, "from Ann").await;
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, ann], stage).await;
}

/// What kinds of events stand in a room, state aside.
async fn kinds(client: &Client, room: &RoomId) -> BTreeSet<String> {
    let path = room_path(room, "messages?dir=b&limit=100");
    let (_, page) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    let events = page["chunk"].as_array().expect("events").iter();
    events.filter(|e| e["state_key"].is_null()).map(|e| e["type"].as_str().expect("a type").into()).collect()
}

/// Parlour hears that its rooms are encrypted when messages have travelled already, and hears it again.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_event_late() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    // From here on what comes to Parlour comes by our hands alone, also what it would ask for itself.
    proxies.to_parlour.judge(|_, _| Fate::Answer(200, "{}"));
    let asks = |path: &str| path.contains("/sync?") && !path.contains("device_id");
    proxies.to_homeserver.judge(move |_, path| if asks(path) { Fate::CutRequest } else { Fate::Pass });
    let talk = stage.begin(&murphy, "late", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let mut encryption = Vec::new();
    for room in [&hub, &spoke] {
        let path = room_path(room, "messages?dir=b&limit=100");
        let (_, page) = stage.as_ours(&stage.bot(), Method::GET, &path, None).await;
        let events = page["chunk"].as_array().expect("events").iter();
        encryption.extend(events.filter(|event| event["type"] == "m.room.encryption").cloned());
    }
    assert_eq!(encryption.len(), 2, "one a room: {encryption:?}");
    drop(proxies.to_homeserver.seen());
    let mut number = 0;
    let mut through = async |client: &Client, room: &RoomId, words: &str| {
        let event = say(client, room, words).await;
        let event = swallowed(&proxies.to_parlour, &event).await;
        number += 1;
        hand_over(&stage, &format!("message {number}"), &[event]).await;
    };
    through(&murphy, &hub, "before it").await;
    read(&ann, &spoke, "before it").await;
    through(&ann, &spoke, "Ann before it").await;
    read(&murphy, &hub, "Ann before it").await;
    hand_over(&stage, "late", &encryption).await;
    through(&murphy, &hub, "after it").await;
    read(&ann, &spoke, "after it").await;
    // Once more, as events that are new.
    for (number, event) in encryption.iter_mut().enumerate() {
        event["event_id"] = json!(format!("$again{number}"));
    }
    hand_over(&stage, "again", &encryption).await;
    through(&murphy, &hub, "after all").await;
    read(&ann, &spoke, "after all").await;
    through(&ann, &spoke, "Ann after all").await;
    read(&murphy, &hub, "Ann after all").await;
    let put = proxies.to_homeserver.seen();
    assert!(
        !put.iter().any(|request| request.contains("/send/m.room.message/")),
        "never in the clear: {put:?}"
    );
    // The homeserver's own way is open again: what it brings is known.
    proxies.to_homeserver.pass_all();
    proxies.to_parlour.pass_all();
    say(&murphy, &hub, "by itself").await;
    read(&ann, &spoke, "by itself").await;
    assert_eq!(heard(&ann, &spoke).await, ["before it", "after it", "after all", "by itself"]);
    assert_eq!(heard(&murphy, &hub).await, ["Ann before it", "Ann after all"]);
    let encrypted = BTreeSet::from(["m.room.encrypted".to_owned()]);
    assert_eq!((kinds(&ann, &spoke).await, kinds(&murphy, &hub).await), (encrypted.clone(), encrypted));
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_upgrade() {
    let trial = Trial::open(PARLOUR, None, 0, None).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "upgrade", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let bot = UserId::parse("@_parlour_bot:demo.parlour.local").expect("a user id");
    let content = json!({ "body": "moved", "replacement_room": "!elsewhere:demo.parlour.local" });
    for room in [&hub, &spoke] {
        // Nobody but the bot may.
        let path = room_path(room, "state/m.room.tombstone/");
        for client in [&murphy, &ann] {
            let (status, _) =
                client.http().call(Method::PUT, &path, Some(content.clone())).await.expect("an answer");
            assert_eq!(status, 403);
        }
        let (status, answer) = trial.as_ours(&bot, Method::PUT, &path, Some(&content)).await;
        assert_eq!(status, 200, "{answer}");
    }
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    say(&ann, &spoke, "Ann after").await;
    read(&murphy, &hub, "Ann after").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "after"]);
    assert_eq!(heard(&murphy, &hub).await, ["Ann after"]);
    let log = trial.log();
    assert_eq!(log.matches("a room was replaced by another").count(), 2, "{log}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_restart_in_mid_poll() {
    let mut trial = Trial::open(PARLOUR, None, 0, None).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "restart", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let mut wanted = Vec::new();
    for number in 1..=3 {
        let words = format!("words {number}");
        say(&murphy, &hub, &words).await;
        read(&ann, &spoke, &words).await;
        wanted.push(words);
        trial.quiet().await;
        if number < 3 {
            // The bot waits for news, and its homeserver is gone.
            trial.kill_homeserver().await;
            trial.wait_for("it is noticed", |metrics| metrics["parlour_receiving"] == 0.0).await;
            trial.start_homeserver().await;
            // A new session: its key comes before the bot looks again, or after.
            murphy.matrix().get_room(&hub).expect("the hub").discard_room_key().await.expect("a new session");
        }
    }
    assert_eq!(heard(&ann, &spoke).await, wanted);
    say(&ann, &spoke, "from Ann").await;
    read(&murphy, &hub, "from Ann").await;
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    assert!(trial.parlour_runs());
    // A homeserver that was killed is not one that was put back from a copy.
    assert!(!trial.log().contains("was put back from a copy"), "{}", trial.log());
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}
