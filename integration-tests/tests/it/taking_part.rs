//! Who takes part (S3, S6): included and excluded at any time, by the practice API or by one's own client; and what each of them
//! can read of it.

use parlour::{
    demo::client::{Client, Message, Reading},
    run::Extras,
};
use parlour_integration_tests::{
    LIMIT, Stage, Talk, crowd::Caller, proxy::Fate, put, read, refusal, requests::is_transaction, room_path,
    say, token,
};
use reqwest::Method;
use ruma::{RoomId, events::room::power_levels::RoomPowerLevelsEventContent};
use serde_json::{Value, json};

pub(crate) fn caller(stage: &Stage, client: &Client) -> Caller {
    Caller::new(&stage.world.public_url(), &token(client))
}

async fn include(stage: &Stage, by: &Client, talk: &Talk, name: &str) -> (u16, Value) {
    let user_id = &stage.person(name).user_id;
    caller(stage, by).include(talk.id(), user_id).await.expect("an answer")
}

async fn exclude(stage: &Stage, by: &Client, talk: &Talk, name: &str) -> (u16, Value) {
    let user_id = &stage.person(name).user_id;
    caller(stage, by).exclude(talk.id(), user_id).await.expect("an answer")
}

/// Includes somebody; the conversation as it is then.
pub(crate) async fn included(stage: &Stage, by: &Client, talk: &Talk, name: &str) -> Talk {
    let (status, told) = include(stage, by, talk, name).await;
    assert!([200, 202].contains(&status), "{told}");
    Talk { told: caller(stage, by).made(talk.id()).await }
}

pub(crate) async fn excluded(stage: &Stage, by: &Client, talk: &Talk, name: &str) -> Value {
    let (status, told) = exclude(stage, by, talk, name).await;
    assert!([200, 202].contains(&status), "{told}");
    if status == 200 { told } else { caller(stage, by).settled(talk.id()).await }
}

/// What the homeserver answers to somebody's own `PUT` of an encrypted event.
pub(crate) async fn raw_put(client: &Client, room: &RoomId, id: &str) -> u16 {
    let path = room_path(room, &format!("send/m.room.encrypted/{id}"));
    let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    client.http().call(Method::PUT, &path, Some(body)).await.expect("an answer").0
}

async fn state(client: &Client, room: &RoomId, event_type: &str) -> Value {
    let path = room_path(room, &format!("state/{event_type}"));
    let (status, content) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{content}");
    content
}

async fn topic(client: &Client, room: &RoomId) -> Value {
    state(client, room, "m.room.topic").await["topic"].take()
}

/// The Megolm session that an event of these words was encrypted with.
async fn session(client: &Client, room: &RoomId, words: &str) -> String {
    let event = read(client, room, words).await.event_id;
    let path = room_path(room, &format!("event/{event}"));
    let (status, event) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{event}");
    event["content"]["session_id"].as_str().expect("a session").to_owned()
}

async fn notice(client: &Client, room: &RoomId, words: &str) -> Message {
    let told = client.wait_for(room, LIMIT, |m| m.msgtype == "m.notice" && m.body.contains(words)).await;
    told.unwrap_or_else(|error| panic!("{words}: {error}"))
}

async fn leaves(client: &Client, room: &RoomId) {
    let path = room_path(room, "leave");
    let (status, answer) = client.http().call(Method::POST, &path, Some(json!({}))).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
}

/// All that somebody can read in a room, of people.
async fn readable(client: &Client, room: &RoomId) -> Vec<String> {
    let seen = client.history(room, 200).await.expect("messages");
    let words = seen.into_iter().filter(|m| m.msgtype == "m.text" && m.is_readable());
    words.map(|message| message.body).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_are_excluded_and_included_and_read_no_more_than_they_may() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (sam, ann) = (stage.sign_in("sam").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S3", "two-way", &["kim"], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &anns, "the first").await;
    read(&kim, &hub, "the first").await;
    say(&kim, &hub, "Kim answers").await;
    read(&ann, &anns, "Kim answers").await;

    // Only the owner, and managers who take part, say who takes part.
    let not_yours = json!("IO.PARLOUR.NOT_YOURS");
    for client in [&kim, &ann] {
        let (status, answer) = exclude(&stage, client, &talk, "murphy").await;
        assert_eq!((status, &answer["errcode"]), (403, &not_yours), "{answer}");
        let (status, answer) = include(&stage, client, &talk, "sam").await;
        assert_eq!((status, &answer["errcode"]), (403, &not_yours), "{answer}");
    }
    assert_eq!(include(&stage, &sam, &talk, "sam").await.0, 404, "nobody lets themselves in");

    // Included, Sam accepts, sees the whole hub, and writes; asked again, nothing changes.
    let talk = included(&stage, &murphy, &talk, "sam").await;
    assert_eq!(included(&stage, &murphy, &talk, "sam").await.told["staff"], talk.told["staff"]);
    say(&ann, &anns, "before Sam accepts").await;
    sam.accept(&hub, LIMIT).await.expect("invited");
    sam.history(&hub, 100).await.expect("messages");
    for words in ["the first", "Kim answers", "before Sam accepts"] {
        read(&sam, &hub, words).await;
    }
    say(&sam, &hub, "Sam too").await;
    read(&ann, &anns, "Sam too").await;
    say(&ann, &anns, "hello Sam").await;
    read(&sam, &hub, "hello Sam").await;

    // Excluded, Kim is out of the room, and can neither write nor read what follows; nor by any way back.
    let told = excluded(&stage, &murphy, &talk, "kim").await;
    let staff: Vec<_> =
        told["staff"].as_array().expect("staff").iter().map(|s| s["user_id"].clone()).collect();
    assert_eq!(staff.len(), 2, "{told}");
    assert!(!staff.contains(&json!(stage.person("kim").user_id)), "{told}");
    assert_eq!(raw_put(&kim, &hub, "one").await, 403);
    say(&ann, &anns, "not for Kim").await;
    // For whoever comes the same session goes on; when somebody has gone, another begins.
    let [first, before, after] = ["before Sam accepts", "hello Sam", "not for Kim"];
    let [first, before, after] = [
        session(&murphy, &hub, first).await,
        session(&murphy, &hub, before).await,
        session(&murphy, &hub, after).await,
    ];
    assert_eq!(first, before);
    assert_ne!(before, after);
    say(&murphy, &hub, "nor this").await;
    read(&ann, &anns, "nor this").await;
    let path = room_path(&hub, "messages?dir=b&limit=100");
    let (status, history) = kim.http().call(Method::GET, &path, None).await.expect("an answer");
    let last = history["chunk"][0].clone();
    assert_eq!(
        (status, &last["type"]),
        (200, &json!("m.room.member")),
        "the last that Kim can fetch: {last}"
    );
    assert_eq!(last["state_key"], json!(stage.person("kim").user_id));
    let path = format!("/conversations/{}", talk.id());
    assert_eq!(stage.api(Method::GET, &path, Some(&token(&kim)), None).await.0, 404);
    let (_, own) = stage.api(Method::GET, "/conversations", Some(&token(&kim)), None).await;
    assert_eq!(own["conversations"], json!([]));

    // Included once more, Kim is back, and what was said meanwhile in the hub is the staff's, so Kim's.
    included(&stage, &murphy, &talk, "kim").await;
    kim.accept(&hub, LIMIT).await.expect("invited");
    kim.history(&hub, 100).await.expect("messages");
    read(&kim, &hub, "not for Kim").await;
    read(&kim, &hub, "nor this").await;
    say(&ann, &anns, "Kim again").await;
    read(&kim, &hub, "Kim again").await;
    say(&kim, &hub, "here I am").await;
    read(&ann, &anns, "here I am").await;

    // Whoever is invited may decline, and does not take part then.
    let talk = included(&stage, &murphy, &talk, "kim").await;
    excluded(&stage, &murphy, &talk, "kim").await;
    included(&stage, &murphy, &talk, "kim").await;
    leaves(&kim, &hub).await;
    notice(&murphy, &hub, "Kim Brady has left").await;
    included(&stage, &murphy, &talk, "kim").await;
    kim.accept(&hub, LIMIT).await.expect("invited");

    // Whoever owns it may go, and somebody else owns it; the last of the staff may not.
    let told = excluded(&stage, &murphy, &talk, "murphy").await;
    assert_eq!(told, json!({}), "it is not hers any more");
    notice(&sam, &hub, "owns this conversation from now on").await;
    let of_sam = caller(&stage, &sam).one(talk.id()).await;
    assert_eq!(of_sam["owner"], json!(stage.person("sam").user_id), "the longest there: {of_sam}");
    excluded(&stage, &sam, &talk, "kim").await;
    let (status, answer) = exclude(&stage, &sam, &talk, "sam").await;
    assert_eq!((status, &answer["errcode"]), (409, &json!("IO.PARLOUR.LAST_OF_STAFF")), "{answer}");
    say(&ann, &anns, "is anybody there?").await;
    read(&sam, &hub, "is anybody there?").await;
    // The levels are those of the owner, and of nobody who has gone.
    let levels: RoomPowerLevelsEventContent =
        serde_json::from_value(state(&sam, &hub, "m.room.power_levels").await).expect("levels");
    let listed: Vec<_> =
        levels.users.iter().map(|(user, level)| (user.as_str(), i64::from(*level))).collect();
    assert_eq!(listed, [(stage.person("sam").user_id.as_str(), 50)]);
    for client in [murphy, kim, sam, ann] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patients_are_excluded_and_included_and_see_what_follows() {
    let stage = Stage::open().await;
    let murphy = stage.sign_in("murphy").await;
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S3 patients", "two-way", &[], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    let to_ann = say(&murphy, &hub, "for Ann alone").await;
    read(&ann, &anns, "for Ann alone").await;
    assert_eq!(topic(&murphy, &hub).await, "What you write here is read by 1 patient");

    // Ben sees what follows, never before; what went to Ann alone stays hers, and so does an answer to it.
    let talk = included(&stage, &murphy, &talk, "ben").await;
    let bens = talk.spoke(stage.person("ben"));
    notice(&murphy, &hub, "Ben Carey takes part").await;
    assert_eq!(topic(&murphy, &hub).await, "What you write here is read by 2 patients");
    murphy.reply(&hub, &to_ann, "more for Ann").await.expect("sent");
    read(&ann, &anns, "more for Ann").await;
    let to_both = say(&murphy, &hub, "for both").await;
    read(&ann, &anns, "for both").await;
    read(&ben, &bens, "for both").await;
    assert_eq!(readable(&ben, &bens).await, ["for both"]);
    let doomed = say(&murphy, &hub, "soon deleted").await;
    read(&ann, &anns, "soon deleted").await;
    let doomed_at_bens = read(&ben, &bens, "soon deleted").await.event_id;
    say(&ben, &bens, "Ben here").await;
    let of_ben = read(&murphy, &hub, "Ben here").await;

    // Excluded, Ben reads what was written, writes nothing, and gets nothing more. His room says so.
    let told = excluded(&stage, &murphy, &talk, "ben").await;
    assert_eq!(told["former_patients"][0]["user_id"], json!(stage.person("ben").user_id), "{told}");
    notice(&murphy, &hub, "Ben Carey does not take part").await;
    notice(&ben, &bens, "You do not take part").await;
    assert_eq!(topic(&murphy, &hub).await, "What you write here is read by 1 patient");
    assert_eq!(raw_put(&ben, &bens, "one").await, 403);
    let says = state(&ben, &bens, "io.parlour.portal").await;
    let levels = state(&ben, &bens, "m.room.power_levels").await;
    assert_eq!((&says["open"], &levels["events_default"]), (&json!(false), &json!(50)), "{says} {levels}");
    let (_, own) = stage.api(Method::GET, "/conversations", Some(&token(&ben)), None).await;
    assert_eq!(own["conversations"][0]["takes_part"], false, "{own}");
    // An answer to him goes to nobody else instead, and what is written to all does not reach him; nor do other words for
    // what he has.
    let to_ben = murphy.reply(&hub, &of_ben.event_id, "only for Ben").await.expect("sent");
    assert!(refusal(&murphy, &hub, &to_ben).await.contains("(LANE-4)"));
    say(&murphy, &hub, "while he is away").await;
    let edit = json!({
        "msgtype": "m.text", "body": "* for all", "m.new_content": { "msgtype": "m.text", "body": "for all" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": to_both },
    });
    murphy.send_raw(&hub, "m.room.message", edit).await.expect("sent");
    read(&ann, &anns, "while he is away").await;
    read(&ann, &anns, "* for all").await;
    // But what is deleted disappears everywhere.
    put(&murphy, &hub, &format!("redact/{doomed}/gone"), json!({})).await;
    let is_gone = |seen: &[Message]| {
        seen.iter()
            .any(|m| m.event_id == doomed_at_bens && matches!(m.reading, Reading::Redacted))
            .then_some(())
    };
    ben.wait_until(&bens, LIMIT, is_gone).await.expect("it is deleted in his room");

    // Switched to one-way and back, his room stays closed.
    for mode in ["one-way", "two-way"] {
        let (status, told) = caller(&stage, &murphy).switched(talk.id(), mode).await.expect("an answer");
        assert_eq!((status, &told["switching"]), (200, &json!(0)), "{told}");
        assert_eq!(raw_put(&ben, &bens, mode).await, 403, "{mode}");
    }

    // Included again, the same room opens, and what was said meanwhile stays unseen.
    let again = included(&stage, &murphy, &talk, "ben").await;
    assert_eq!(again.spoke(stage.person("ben")), bens);
    notice(&ben, &bens, "You take part in this conversation again").await;
    say(&murphy, &hub, "welcome back").await;
    read(&ben, &bens, "welcome back").await;
    assert_eq!(readable(&ben, &bens).await, ["for both", "Ben here", "welcome back"]);
    let thanks = say(&ben, &bens, "thank you").await;
    read(&murphy, &hub, "thank you").await;
    put(&ben, &bens, &format!("redact/{thanks}/own"), json!({})).await;
    let is_gone = |seen: &[Message]| {
        let thanks =
            seen.iter().filter(|m| m.sender != *murphy.user_id() && matches!(m.reading, Reading::Redacted));
        (thanks.count() == 1).then_some(())
    };
    murphy.wait_until(&hub, LIMIT, is_gone).await.expect("it is deleted in the hub");

    // JOIN-5: what was written among staff alone stays among them.
    let alone = stage.begin(&murphy, "alone", "two-way", &["kim"], &[]).await;
    let (status, answer) = include(&stage, &murphy, &alone, "ann").await;
    assert_eq!((status, &answer["errcode"]), (409, &json!("IO.PARLOUR.STAFF_ONLY_CONVERSATION")), "{answer}");
    let (status, begun) = caller(&stage, &murphy).begin(&answer["instead"], None).await.expect("an answer");
    // Its rooms may still be in the making.
    assert!(
        [201, 202].contains(&status) && begun["name"] == "alone",
        "the offer is what begins another: {begun}"
    );
    assert_eq!(begun["staff"].as_array().expect("staff").len(), 2, "{begun}");
    let nobody = "@nobody:demo.parlour.local".try_into().expect("a user id");
    let (status, answer) = caller(&stage, &murphy).include(talk.id(), nobody).await.expect("an answer");
    assert_eq!((status, &answer["errcode"]), (400, &json!("IO.PARLOUR.NOBODY_LIKE_THAT")), "{answer}");
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// Who leaves by their own client counts as excluded: staff hear of it, and the practice API brings them back.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_by_their_own_client_does_not_take_part_until_they_are_brought_back() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "leaving", "two-way", &["kim"], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &anns, "hello").await;
    read(&ben, &bens, "hello").await;
    leaves(&ann, &anns).await;
    notice(&murphy, &hub, "Ann Byrne has left").await;
    say(&murphy, &hub, "for whoever is left").await;
    read(&ben, &bens, "for whoever is left").await;
    let store = stage.world.parlour.engine().store();
    let figures = store.figures().await.expect("the store");
    assert_eq!((figures.held, figures.waiting), (0, 0), "nothing is kept for who has gone");
    included(&stage, &murphy, &talk, "ann").await;
    say(&murphy, &hub, "welcome back").await;
    read(&ann, &anns, "welcome back").await;
    say(&ann, &anns, "here I am").await;
    read(&murphy, &hub, "here I am").await;
    assert_eq!(readable(&ann, &anns).await, ["hello", "welcome back", "here I am"]);

    // The owner goes, and Kim owns it; Kim is the last of the staff, and is brought back.
    leaves(&murphy, &hub).await;
    notice(&kim, &hub, "Nurse Kim Brady owns this conversation from now on").await;
    notice(&kim, &hub, "Murphy has left").await;
    leaves(&kim, &hub).await;
    kim.accept(&hub, LIMIT).await.expect("invited");
    notice(&kim, &hub, "is brought back").await;
    say(&ben, &bens, "anybody?").await;
    read(&kim, &hub, "anybody?").await;
    say(&kim, &hub, "Kim is").await;
    read(&ben, &bens, "Kim is").await;
    for client in [murphy, kim, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// What was written before somebody was included does not reach them, however late Parlour hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_reaches_no_newcomer() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let murphy = stage.sign_in("murphy").await;
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S3 in time", "two-way", &[], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &anns, "hello").await;
    // No transaction brings what is said until Ben's room stands and the hub is set; and what Parlour asks for by itself
    // comes seldom.
    proxies.to_parlour.judge(|method, path| {
        let held = is_transaction(&format!("{method} {path}"));
        if held { Fate::Answer(503, "{}") } else { Fate::Pass }
    });
    say(&murphy, &hub, "for Ann").await;
    let talk = included(&stage, &murphy, &talk, "ben").await;
    let bens = talk.spoke(stage.person("ben"));
    say(&murphy, &hub, "for both").await;
    proxies.to_parlour.pass_all();
    read(&ann, &anns, "for Ann").await;
    read(&ann, &anns, "for both").await;
    read(&ben, &bens, "for both").await;
    assert_eq!(readable(&ben, &bens).await, ["for both"]);
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// A new starter who signs in only after they were included reads what was said before, all the same.
#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_after_they_were_included_reads_what_was_said_before() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S3 starter", "two-way", &[], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &anns, "from before").await;
    read(&murphy, &hub, "from before").await;
    included(&stage, &murphy, &talk, "sam").await;
    let sam = stage.sign_in("sam").await;
    sam.accept(&hub, LIMIT).await.expect("invited");
    sam.history(&hub, 100).await.expect("messages");
    read(&sam, &hub, "from before").await;
    for client in [murphy, ann, sam] {
        client.stop().await;
    }
    stage.close().await;
}

/// Whoever has got another phone while they took part in nothing reads with it what was said before.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_phone_by_then_reads_what_was_said_before() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let kim = stage.sign_in("kim").await;
    let talk = stage.begin(&murphy, "S3 another phone", "two-way", &["kim"], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &anns, "to both").await;
    read(&kim, &hub, "to both").await;
    excluded(&stage, &murphy, &talk, "kim").await;
    say(&ann, &anns, "while Kim is away").await;
    read(&murphy, &hub, "while Kim is away").await;
    let phone = stage.device("kim", "second", false).await;
    included(&stage, &murphy, &talk, "kim").await;
    phone.accept(&hub, LIMIT).await.expect("invited");
    phone.history(&hub, 100).await.expect("messages");
    for words in ["to both", "while Kim is away"] {
        read(&phone, &hub, words).await;
    }
    for client in [murphy, ann, kim, phone] {
        client.stop().await;
    }
    stage.close().await;
}

/// Whoever is let into a hub by somebody else than the practice API is put out again.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_part_does_not_stay() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S3 strangers", "two-way", &[], &["ann"]).await;
    let (hub, anns) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &anns, "hello").await;
    let (engine, sam) = (stage.world.parlour.engine(), stage.person("sam").user_id.clone());
    let bot = engine.bot().expect("the bot");
    engine.homeserver().join(&bot, &hub, &sam).await.expect("let in");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while engine.homeserver().has_joined(&bot, &hub, &sam).await.expect("an answer") {
        assert!(tokio::time::Instant::now() < deadline, "Sam is still there");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    say(&ann, &anns, "only for Dr Murphy").await;
    read(&murphy, &hub, "only for Dr Murphy").await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
