//! No client shows a warning on any message, of whoever it is: the bot, ghosts of staff, ghosts of patients.

use std::collections::{BTreeMap, BTreeSet};

use parlour::demo::client::{Client, Message, Reading, Shield};
use parlour_integration_tests::{Stage, Talk, read, refusal, room_path, say, send};
use reqwest::Method;
use ruma::OwnedUserId;
use serde_json::{Value, json};

/// Everybody says something: staff to all, a patient, staff to that patient, the bot to both sides.
async fn everybody_speaks(stage: &Stage, talk: &Talk, people: &[&Client; 4], mark: &str) {
    let [murphy, kim, ann, ben] = people;
    let (anns, bens) = (talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    let words = |who: &str| format!("{mark} {who}");
    say(murphy, &talk.hub(), &words("Murphy")).await;
    for (patient, spoke) in [(ann, &anns), (ben, &bens)] {
        read(patient, spoke, &words("Murphy")).await;
    }
    say(ann, &anns, &words("Ann")).await;
    let asked = read(kim, &talk.hub(), &words("Ann")).await;
    kim.reply(&talk.hub(), &asked.event_id, &words("Kim")).await.expect("sent");
    read(ann, &anns, &words("Kim")).await;
    let odd = json!({ "msgtype": "m.location", "body": "here", "geo_uri": "geo:53.3,-6.2" });
    let refused = send(ann, &anns, "m.room.message", odd).await;
    assert!(refusal(ann, &anns, &refused).await.contains("KIND-1"));
    // The bot says in the hub what a laned reply is, at the first one.
    murphy
        .wait_for(&talk.hub(), parlour_integration_tests::LIMIT, |m| m.msgtype == "m.notice")
        .await
        .expect("the bot's word on lanes");
    say(ben, &bens, &words("Ben")).await;
    read(murphy, &talk.hub(), &words("Ben")).await;
}

fn shields(message: &Message) -> (Shield, Shield, &str) {
    match &message.reading {
        Reading::Readable { lax, strict, level, .. } => (lax.clone(), strict.clone(), level),
        other => panic!("{} is read as {other:?}", message.event_id),
    }
}

/// Messages of ours in all rooms that these people are in, by sender.
async fn ours(talk: &Talk, people: &[&Client; 4]) -> Vec<Message> {
    let mut all = Vec::new();
    for client in people {
        for room in talk.rooms() {
            let messages = client.messages(&room).await.unwrap_or_default();
            all.extend(messages.into_iter().filter(|m| m.sender.localpart().starts_with("_parlour_")));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_shield_for_anybody_and_none_in_strict_once_verified() {
    let stage = Stage::open().await;
    // Kim and Ben read only what comes from cross-signed devices.
    let murphy = stage.sign_in("murphy").await;
    let kim = stage.sign_in_strict("kim").await;
    let ann = stage.sign_in("ann").await;
    let ben = stage.sign_in_strict("ben").await;
    let people = [&murphy, &kim, &ann, &ben];
    let talk = stage.begin(&murphy, "shields", "two-way", &["kim"], &["ann", "ben"]).await;
    everybody_speaks(&stage, &talk, &people, "before").await;
    let mut senders: BTreeSet<OwnedUserId> = BTreeSet::new();
    for message in ours(&talk, &people).await {
        let (lax, strict, level) = shields(&message);
        assert_eq!((lax, level), (Shield::None, "Unverified(UnverifiedIdentity)"), "{}", message.body);
        assert!(matches!(strict, Shield::Red(_)), "nobody has verified them yet: {}", message.body);
        senders.insert(message.sender);
    }
    assert_eq!(senders.len(), 5, "the bot, two ghosts of staff, two of patients: {senders:?}");

    // Verified once, they are without a shield by the strict rules too: in sessions that begin after it.
    for client in people {
        for sender in &senders {
            client.verify_identity(sender).await.expect("verified");
        }
    }
    let next = stage.begin(&murphy, "verified", "two-way", &["kim"], &["ann", "ben"]).await;
    everybody_speaks(&stage, &next, &people, "after").await;
    let verified = ours(&next, &people).await;
    for message in &verified {
        assert_eq!(shields(message), (Shield::None, Shield::None, "Verified"), "{}", message.body);
    }
    assert_eq!(verified.iter().map(|m| &m.sender).collect::<BTreeSet<_>>().len(), 5);

    let staff = (&murphy, vec![talk.hub(), next.hub()]);
    let anns = [&talk, &next].map(|talk| talk.spoke(stage.person("ann")));
    let bens = [&talk, &next].map(|talk| talk.spoke(stage.person("ben")));
    encrypted_by_their_senders(&[staff, (&ann, anns.to_vec()), (&ben, bens.to_vec())]).await;
    for client in [murphy, kim, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// Every `m.room.encrypted` of every portal names a device that is its sender's own, by `/keys/query`.
async fn encrypted_by_their_senders(portals: &[(&Client, Vec<ruma::OwnedRoomId>)]) {
    let (mut count, mut devices) = (0, BTreeMap::new());
    for (client, rooms) in portals {
        for room in rooms {
            let path = room_path(room, "messages?dir=b&limit=500");
            let (status, page) = client.http().call(Method::GET, &path, None).await.expect("an answer");
            assert_eq!(status, 200, "{page}");
            for event in page["chunk"].as_array().expect("events") {
                if event["type"] != "m.room.encrypted" {
                    assert!(event["state_key"].is_string(), "{} is in the clear", event["event_id"]);
                    continue;
                }
                let (sender, content) = (event["sender"].as_str().expect("a sender"), &event["content"]);
                if !devices.contains_key(sender) {
                    let body = json!({ "device_keys": { sender: [] } });
                    let path = "/_matrix/client/v3/keys/query";
                    let (_, keys) =
                        client.http().call(Method::POST, path, Some(body)).await.expect("an answer");
                    devices.insert(sender.to_owned(), keys["device_keys"][sender].clone());
                }
                let device = content["device_id"].as_str().expect("a device");
                let key = &devices[sender][device]["keys"][format!("curve25519:{device}")];
                assert!(key.is_string(), "{} has no device {device}", sender);
                assert_eq!(key, &content["sender_key"], "{} of {sender}", event["event_id"]);
                count += 1;
            }
        }
    }
    println!("{count} encrypted events, each by a device of its sender");
    assert!(count >= 24, "only {count} encrypted events were found");
    let one_device = |keys: &Value| keys.as_object().is_some_and(|devices| devices.len() == 1);
    for (user, keys) in devices.iter().filter(|(user, _)| user.starts_with("@_parlour_")) {
        assert!(one_device(keys), "{user} has more than one device");
    }
}
