//! Receipts (S12, S17): who has read what is known for good, shown where it may be, and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Stage, Talk,
    crowd::{Caller, Events},
    read, room_path, say, token,
};
use reqwest::Method;
use ruma::{EventId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

const LOOK: Duration = Duration::from_millis(50);

/// All receipts of a room that somebody's client gets: event, who, and of which kind.
pub(crate) async fn receipts(client: &Client, room: &RoomId) -> Vec<(String, String, String)> {
    let filter =
        json!({ "room": { "rooms": [room], "timeline": { "limit": 1 } }, "presence": { "types": [] } });
    // The same request would be answered from memory.
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let timeout = ASKED.fetch_add(1, Ordering::Relaxed) % 5_000;
    let mut path = reqwest::Url::parse("http://x/_matrix/client/v3/sync").expect("a URL");
    path.query_pairs_mut()
        .append_pair("filter", &filter.to_string())
        .append_pair("timeout", &timeout.to_string());
    let path = format!("{}?{}", path.path(), path.query().unwrap_or_default());
    let (status, answer) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let events =
        answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    let mut receipts = Vec::new();
    for event in events.iter().filter(|event| event["type"] == "m.receipt") {
        for (event_id, kinds) in event["content"].as_object().expect("events") {
            for (kind, users) in kinds.as_object().expect("kinds") {
                for user in users.as_object().expect("users").keys() {
                    receipts.push((event_id.clone(), user.clone(), kind.clone()));
                }
            }
        }
    }
    receipts
}

/// Waits until somebody's client is shown that one of Parlour's users has read up to an event; who.
async fn shown(client: &Client, room: &RoomId, event: &EventId) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = receipts(client, room).await;
        let ours = found.iter().find(|(id, user, _)| id == event.as_str() && user.starts_with("@_parlour_"));
        if let Some((_, user, _)) = ours {
            return user.clone();
        }
        assert!(Instant::now() < deadline, "{event}: {found:?}");
        sleep(LOOK).await;
    }
}

/// What the practice API tells of a message.
async fn status(stage: &Stage, client: &Client, talk: &Talk, event: &EventId) -> (u16, Value) {
    let path = format!("/conversations/{}/messages/{event}/status", talk.id());
    stage.api(Method::GET, &path, Some(&token(client)), None).await
}

/// Waits until so many have read a message; what is told of it then.
async fn read_by(stage: &Stage, client: &Client, talk: &Talk, event: &EventId, wanted: i64) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (code, told) = status(stage, client, talk, event).await;
        assert_eq!(code, 200, "{told}");
        if told["read"] == wanted {
            return told;
        }
        assert!(Instant::now() < deadline, "{wanted}: {told}");
        sleep(LOOK).await;
    }
}

/// The entry of one person.
fn of<'a>(told: &'a Value, name: &str) -> &'a Value {
    let people = told["people"].as_array().expect("people");
    people
        .iter()
        .find(|entry| entry["name"].as_str().is_some_and(|found| found.contains(name)))
        .expect("them")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patients_reading_is_known_to_staff_and_to_nobody_else() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S12", "two-way", &["kim"], &["ann", "ben", "cara"]).await;
    let [anns, bens] = ["ann", "ben"].map(|name| talk.spoke(stage.person(name)));
    let hub = talk.hub();
    let mut events = Vec::new();
    for words in ["one", "two", "three"] {
        events.push(say(&murphy, &hub, words).await);
    }
    read(&ann, &anns, "three").await;
    let two = read(&ann, &anns, "two").await.event_id;
    let bens_three = read(&ben, &bens, "three").await.event_id;
    let fresh = read_by(&stage, &murphy, &talk, &events[1], 0).await;
    let states: Vec<_> = ["Ann", "Ben", "Cara", "Kim"].map(|name| of(&fresh, name)["status"].clone()).into();
    assert_eq!(states, ["sent", "sent", "held", "sent"], "{fresh}");
    assert_eq!(of(&fresh, "Ann")["sent_as"], json!(two), "{fresh}");
    for event in &events[..2] {
        let told = read_by(&stage, &murphy, &talk, event, 0).await;
        let times = ["Ann", "Cara"]
            .map(|name| (of(&told, name)["held_at"].is_i64(), of(&told, name)["sent_at"].is_i64()));
        assert_eq!(times, [(false, true), (true, false)], "{told}");
    }
    let listening = Caller::new(&stage.world.public_url(), &token(&murphy));
    let mut changes = listening.listen(talk.id()).await.expect("a stream");

    // Ann reads the second: the first is read by that as well, and the third is not.
    ann.read(&anns, &two).await.expect("a receipt is taken");
    let told = read_by(&stage, &murphy, &talk, &events[1], 1).await;
    let entry = of(&told, "Ann");
    assert_eq!((&entry["status"], &entry["implied"]), (&json!("read"), &json!(false)), "{told}");
    assert_eq!((&entry["read_up_to"], &entry["delivered_at"]), (&json!(two), &entry["read_at"]), "{told}");
    let told = read_by(&stage, &kim, &talk, &events[0], 1).await;
    assert_eq!(
        (&of(&told, "Ann")["implied"], &of(&told, "Ben")["status"]),
        (&json!(true), &json!("sent")),
        "{told}"
    );
    read_by(&stage, &murphy, &talk, &events[2], 0).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        let change = changes.next().await.expect("the stream goes on");
        if change["event"] == "sending" && change["event_id"] == json!(events[1]) && change["read"] == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{change}");
    }
    // Reading alone makes no ghost join; once it is there, it shows what was read.
    let in_hub = receipts(&murphy, &hub).await;
    assert!(in_hub.iter().all(|(_, user, _)| !user.starts_with("@_parlour_")), "{in_hub:?}");
    say(&ann, &anns, "thank you").await;
    let ghost = read(&murphy, &hub, "thank you").await.sender;
    assert_eq!(shown(&murphy, &hub, &events[1]).await, ghost.as_str());

    // A private receipt is nobody's business.
    let path = room_path(&bens, &format!("receipt/m.read.private/{bens_three}"));
    let (code, _) = ben.http().call(Method::POST, &path, Some(json!({}))).await.expect("an answer");
    assert_eq!(code, 200);
    // Ann, who reads all, is counted once for each; and so she is known to have read for good.
    let three = read(&ann, &anns, "three").await.event_id;
    for event in [&three, &two, &three] {
        ann.read(&anns, event).await.expect("a receipt is taken");
    }
    let told = read_by(&stage, &murphy, &talk, &events[2], 1).await;
    assert_eq!(of(&told, "Ben")["status"], "sent", "{told}");
    // What colleagues read is known as well, and who wrote it does not count.
    kim.read(&hub, &events[2]).await.expect("a receipt is taken");
    murphy.read(&hub, &events[2]).await.expect("a receipt is taken");
    let told = read_by(&stage, &murphy, &talk, &events[2], 2).await;
    assert_eq!(of(&told, "Kim")["status"], "read", "{told}");

    // Patients hear of staff alone, and see nobody else's receipts.
    let (code, told) = status(&stage, &ann, &talk, &two).await;
    assert_eq!((code, &told["people"], &told["read"]), (200, &Value::Null, &Value::Null), "{told}");
    let names: Vec<_> =
        told["read_by"].as_array().expect("readers").iter().map(|read| read["name"].clone()).collect();
    assert!(names.iter().all(|name| name.as_str().is_some_and(|name| !name.contains("Ann"))), "{told}");
    for (client, room) in [(&ann, &anns), (&ben, &bens)] {
        let found = receipts(client, room).await;
        assert!(found.iter().all(|(_, user, _)| user == client.user_id().as_str()), "{found:?}");
    }
    for (client, event) in [(&ben, &two), (&ann, &events[1])] {
        assert_eq!(status(&stage, client, &talk, event).await.0, 404, "of a room that is not theirs");
    }
    for client in [murphy, kim, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_staff_have_read_is_shown_under_a_patients_own_words_only() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S12 up", "two-way", &["kim"], &["ann", "ben"]).await;
    let [anns, bens] = ["ann", "ben"].map(|name| talk.spoke(stage.person(name)));
    let hub = talk.hub();
    let hello = say(&murphy, &hub, "hello").await;
    let ghost = read(&ann, &anns, "hello").await.sender;
    read(&ben, &bens, "hello").await;
    let first = say(&ann, &anns, "my result?").await;
    let asked = read(&murphy, &hub, "my result?").await.event_id;
    let bens_own = say(&ben, &bens, "and mine?").await;
    let last = read(&murphy, &hub, "and mine?").await.event_id;
    // Up to Ann's words: what Ben said later was not read.
    murphy.read(&hub, &asked).await.expect("a receipt is taken");
    assert_eq!(shown(&ann, &anns, &first).await, ghost.as_str());
    let (_, told) = status(&stage, &ann, &talk, &first).await;
    let names: Vec<_> =
        told["read_by"].as_array().expect("readers").iter().map(|read| &read["name"]).collect();
    assert_eq!(names, ["Dr Aoife Murphy"], "{told}");
    let found = receipts(&ben, &bens).await;
    assert!(!found.iter().any(|(_, user, _)| user.starts_with("@_parlour_")), "{found:?}");
    murphy.read(&hub, &last).await.expect("a receipt is taken");
    shown(&ben, &bens, &bens_own).await;
    // Nothing new of Ann's was read, so nothing moves in her room, also when staff read what they wrote themselves.
    let later = say(&murphy, &hub, "all well").await;
    read(&ann, &anns, "all well").await;
    murphy.read(&hub, &later).await.expect("a receipt is taken");
    kim.read(&hub, &later).await.expect("a receipt is taken");
    let told = read_by(&stage, &murphy, &talk, &hello, 1).await;
    assert_eq!(of(&told, "Kim")["status"], "read", "{told}");
    let found = receipts(&ann, &anns).await;
    let ours: Vec<_> = found.iter().filter(|(_, user, _)| user.starts_with("@_parlour_")).collect();
    assert_eq!(
        ours.iter().map(|(event, ..)| event.as_str()).collect::<Vec<_>>(),
        [first.as_str()],
        "{found:?}"
    );
    for client in [murphy, kim, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// Waits until a stream tells of a change.
async fn heard(changes: &mut Events, what: &str, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let change = changes.next().await.expect("the stream goes on");
        if wanted(&change) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {change}");
    }
}

/// Staff who listen hear of what patients have written too: that it came, was read, was deleted; and that they may write no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_told_as_it_changes() {
    let stage = Stage::open().await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S12 told", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let caller = |client: &Client| Caller::new(&stage.world.public_url(), &token(client));
    let mut changes = caller(&murphy).listen(talk.id()).await.expect("a stream");
    let own = say(&ann, &spoke, "my result?").await;
    let asked = read(&murphy, &hub, "my result?").await.event_id;
    let is_about = |change: &Value, event: &EventId| {
        change["event"] == "sending" && change["event_id"] == event.as_str()
    };
    heard(&mut changes, "it came", |change| {
        is_about(change, &asked) && (&change["of"], &change["sent"]) == (&json!(1), &json!(1))
    })
    .await;
    for (client, count) in [(&murphy, 1), (&kim, 2)] {
        client.read(&hub, &asked).await.expect("a receipt is taken");
        heard(&mut changes, "it was read", |change| is_about(change, &asked) && change["read"] == count)
            .await;
    }
    let path = room_path(&spoke, &format!("redact/{own}/1"));
    let (code, _) = ann.http().call(Method::PUT, &path, Some(json!({}))).await.expect("an answer");
    assert_eq!(code, 200);
    heard(&mut changes, "it was deleted", |change| is_about(change, &asked) && change["deleted"] == true)
        .await;
    assert_eq!(caller(&murphy).switched(talk.id(), "one-way").await.expect("an answer").0, 200);
    heard(&mut changes, "it was switched", |change| {
        change["event"] == "mode" && change["mode"] == "one-way" && change["switching"] == 0
    })
    .await;
    let ben = stage.person("ben").user_id.clone();
    let (mut both, alone) = (vec![ann.user_id(), &*ben], vec![ann.user_id()]);
    both.sort();
    for (what, wanted) in [("Ben comes", both), ("Ben goes", alone)] {
        let told = match wanted.len() {
            2 => caller(&murphy).include(talk.id(), &ben).await,
            _ => caller(&murphy).exclude(talk.id(), &ben).await,
        };
        assert!(matches!(told, Some((200 | 202, _))), "{told:?}");
        heard(&mut changes, what, |change| {
            change["event"] == "people"
                && change["owner"] == murphy.user_id().as_str()
                && change["patients"] == json!(wanted)
        })
        .await;
    }
    // Among staff alone, too.
    let alone = stage.begin(&murphy, "S12 alone", "two-way", &["kim"], &[]).await;
    let mut changes = caller(&murphy).listen(alone.id()).await.expect("a stream");
    let rota = say(&murphy, &alone.hub(), "the rota").await;
    read(&kim, &alone.hub(), "the rota").await;
    kim.read(&alone.hub(), &rota).await.expect("a receipt is taken");
    heard(&mut changes, "a colleague has read it", |change| {
        is_about(change, &rota) && (&change["of"], &change["read"]) == (&json!(0), &json!(1))
    })
    .await;
    for client in [murphy, kim, ann] {
        client.stop().await;
    }
    stage.close().await;
}
