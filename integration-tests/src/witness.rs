//! What stands in a room, told by a client that has read nothing of it before, and by the homeserver.

use std::collections::{BTreeMap, BTreeSet};

use parlour::demo::client::{Client, Message};
use reqwest::Method;
use ruma::RoomId;
use serde_json::json;

use crate::{LIMIT, room_path};

/// What others than the client's own person and the bot have said in a room, in order, once there is so much of it and
/// all can be read.
///
/// # Panics
/// When it does not come to that.
pub async fn others_words(client: &Client, room: &RoomId, at_least: usize) -> Vec<String> {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await.expect("in the room");
    client.history(room, 5000).await.expect("the history");
    let of_others = |message: &&Message| message.sender != *client.user_id() && message.msgtype != "m.notice";
    let all = client
        .wait_until(room, LIMIT, |seen| {
            let others: Vec<_> = seen.iter().filter(of_others).collect();
            let done = others.len() >= at_least && others.iter().all(|message| message.is_readable());
            done.then(|| others.iter().map(|message| message.body.clone()).collect())
        })
        .await;
    all.unwrap_or_else(|error| panic!("{error}"))
}

/// The newest events of a room by raw `/messages`, whatever the client made of them: when, by whom, of which type.
///
/// # Panics
/// When the homeserver gives no answer.
pub async fn newest(client: &Client, room: &RoomId) -> Vec<String> {
    let path = room_path(room, "messages?dir=b&limit=8");
    let (_, page) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    let events = page["chunk"].as_array().into_iter().flatten();
    events
        .map(|event| format!("{} {} {}", event["origin_server_ts"], event["sender"], event["type"]))
        .collect()
}

/// How many `m.room.encrypted` events each user has in a room, by raw `/messages`. Those that were redacted do not count.
///
/// # Panics
/// When an event comes twice.
pub async fn ciphertexts(client: &Client, room: &RoomId) -> BTreeMap<String, usize> {
    let filter = json!({ "types": ["m.room.encrypted"] }).to_string();
    let (mut counts, mut ids, mut from) = (BTreeMap::new(), BTreeSet::new(), None::<String>);
    loop {
        let mut query =
            vec![("dir", "b".to_owned()), ("limit", "500".to_owned()), ("filter", filter.clone())];
        query.extend(from.map(|from| ("from", from)));
        let url = reqwest::Url::parse_with_params("http://x/", &query).expect("a URL");
        let path = room_path(room, &format!("messages?{}", url.query().unwrap_or_default()));
        let (status, page) = client.http().call(Method::GET, &path, None).await.expect("an answer");
        assert_eq!(status, 200, "{page}");
        for event in page["chunk"].as_array().expect("events") {
            assert!(ids.insert(event["event_id"].to_string()), "an event twice: {event}");
            if event["content"]["ciphertext"].is_null() {
                continue;
            }
            *counts.entry(event["sender"].as_str().expect("a sender").to_owned()).or_default() += 1;
        }
        match page["end"].as_str() {
            Some(end) => from = Some(end.to_owned()),
            None => return counts,
        }
    }
}
