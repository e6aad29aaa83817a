//! One-way and two-way (S8, S14, S16): switched at any time, enforced by the homeserver for every client, and fair to what was
//! written before.

use parlour::{
    demo::client::{Client, Message, Reading},
    run::Extras,
};
use parlour_integration_tests::{
    LIMIT, Stage, Talk,
    crowd::{Caller, numbers},
    proxy::Fate,
    put, read,
    requests::{is_transaction, point_of},
    room_path, runs_alone, say, send, token,
};
use reqwest::Method;
use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

async fn switch(stage: &Stage, by: &Client, talk: &Talk, mode: &str) -> (u16, Value) {
    let caller = Caller::new(&stage.world.public_url(), &token(by));
    caller.switched(talk.id(), mode).await.expect("an answer")
}

/// What the homeserver answers to somebody's own `PUT` of an encrypted event.
async fn raw_put(client: &Client, room: &RoomId, id: &str) -> (u16, Value) {
    let path = room_path(room, &format!("send/m.room.encrypted/{id}"));
    let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    client.http().call(Method::PUT, &path, Some(body)).await.expect("an answer")
}

async fn is_forbidden(client: &Client, room: &RoomId, id: &str) {
    let (status, answer) = raw_put(client, room, id).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")), "{} {id}", client.user_id());
}

/// How often a word of the bot's stands in somebody's room.
async fn told_times(client: &Client, room: &RoomId, words: &str, times: usize) {
    let counted = client.wait_until(room, LIMIT, |seen| {
        let count = seen.iter().filter(|m| m.msgtype == "m.notice" && m.body.contains(words)).count();
        (count >= times).then_some(count)
    });
    assert_eq!(counted.await.expect("the bot says it"), times, "{words}");
}

async fn receipt(client: &Client, room: &RoomId, event: &EventId) {
    client.read(room, event).await.expect("a receipt is taken");
}

fn state(event_type: &str) -> String {
    format!("state/{event_type}")
}

/// The level that it takes to write in a room, as its state says; 0 where it says nothing (Matrix v1.19 client-server
/// §m.room.power_levels).
async fn takes_to_write(client: &Client, room: &RoomId) -> i64 {
    let (status, levels) = client
        .http()
        .call(Method::GET, &room_path(room, &state("m.room.power_levels")), None)
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{levels}");
    levels["events_default"].as_i64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_switched_and_every_client_is_bound() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "S16", "two-way", &["kim"], &["ann", "ben"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let bens = talk.spoke(stage.person("ben"));
    say(&murphy, &hub, "how are you all?").await;
    let question = read(&ann, &spoke, "how are you all?").await;
    let own = say(&ann, &spoke, "fine").await;
    let fine = read(&murphy, &hub, "fine").await.event_id;

    // Who may not switch it.
    for (client, wanted) in [(&ann, 403), (&kim, 403)] {
        let (status, answer) = switch(&stage, client, &talk, "one-way").await;
        assert_eq!((status, &answer["errcode"]), (wanted, &json!("IO.PARLOUR.NOT_YOURS")), "{answer}");
    }
    let (cara, nobody) = (stage.sign_in("cara").await, json!({}));
    assert_eq!(switch(&stage, &cara, &talk, "one-way").await.0, 404, "it is not there for others");
    let path = format!("/conversations/{}", talk.id());
    for body in [json!({ "mode": "sideways" }), json!({ "mode": "one-way", "more": 1 }), nobody] {
        let (status, answer) = stage.api(Method::PATCH, &path, Some(&token(&murphy)), Some(&body)).await;
        assert_eq!((status, &answer["errcode"]), (400, &json!("M_BAD_JSON")), "{body}: {answer}");
    }
    assert_eq!(takes_to_write(&ann, &spoke).await, 0);

    let (status, whole) = switch(&stage, &murphy, &talk, "one-way").await;
    assert_eq!((status, &whole["mode"], &whole["switching"]), (200, &json!("one-way"), &json!(0)), "{whole}");
    // Everybody else, patient or staff, gets the homeserver's own answer, in whatever client.
    for (client, room) in [(&ann, &spoke), (&ben, &bens), (&kim, &hub)] {
        is_forbidden(client, room, "one").await;
        assert_eq!(takes_to_write(client, room).await, 50);
    }
    let reaction =
        json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": question.event_id, "key": "👍" } });
    let path = room_path(&spoke, "send/m.reaction/r1");
    let (status, _) = ann.http().call(Method::PUT, &path, Some(reaction)).await.expect("an answer");
    assert_eq!(status, 403, "a reaction is an answer");
    // Nor may they change it back by themselves.
    let path = room_path(&spoke, &state("m.room.power_levels"));
    let (status, _) =
        ann.http().call(Method::PUT, &path, Some(json!({ "events_default": 0 }))).await.expect("an answer");
    assert_eq!(status, 403);
    say(&murphy, &hub, "please only read").await;
    let message = read(&ann, &spoke, "please only read").await;
    read(&ben, &bens, "please only read").await;
    // Reading, and deleting what is one's own, still work.
    receipt(&ann, &spoke, &message.event_id).await;
    put(&ann, &spoke, &format!("redact/{own}/gone"), json!({})).await;
    let is_gone = |seen: &[Message]| {
        seen.iter().any(|m| m.event_id == fine && matches!(m.reading, Reading::Redacted)).then_some(())
    };
    murphy.wait_until(&hub, LIMIT, is_gone).await.expect("it is deleted in the hub");
    told_times(&ann, &spoke, "only the practice writes", 1).await;
    told_times(&ben, &bens, "only the practice writes", 1).await;
    told_times(&kim, &hub, "Responses are switched off", 1).await;
    // Asked for again, nothing happens: nobody is told twice.
    let (status, _) = switch(&stage, &murphy, &talk, "one-way").await;
    assert_eq!(status, 200);

    let (status, whole) = switch(&stage, &murphy, &talk, "two-way").await;
    assert_eq!((status, &whole["mode"], &whole["switching"]), (200, &json!("two-way"), &json!(0)), "{whole}");
    for (client, room, words) in
        [(&ann, &spoke, "thank you"), (&ben, &bens, "and me"), (&kim, &hub, "Kim here")]
    {
        say(client, room, words).await;
    }
    read(&murphy, &hub, "thank you").await;
    read(&murphy, &hub, "and me").await;
    read(&ann, &spoke, "Kim here").await;
    told_times(&ann, &spoke, "you can answer", 1).await;
    told_times(&kim, &hub, "Responses are switched on", 1).await;
    told_times(&ann, &spoke, "only the practice writes", 1).await;
    assert_eq!(takes_to_write(&ann, &spoke).await, 0);
    for client in [murphy, kim, ann, ben, cara] {
        client.stop().await;
    }
    stage.close().await;
}

/// What the homeserver took before the switch is delivered, however late Parlour hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_the_switch_is_delivered() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S16 in time", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;

    // No transaction brings what is said until all rooms are set; what Parlour asks for by itself it asks for seldom.
    proxies.to_parlour.judge(|method, path| {
        let held = is_transaction(&format!("{method} {path}"));
        if held { Fate::Answer(503, "{}") } else { Fate::Pass }
    });
    say(&ann, &spoke, "just in time").await;
    drop(proxies.to_homeserver.seen());
    let asked = switch(&stage, &murphy, &talk, "one-way");
    let set = async {
        let deadline = Instant::now() + LIMIT;
        let mut count = 0;
        // Of the hub, which also says what it was set to, two; of the spoke one.
        while count < 3 {
            let is_set = |request: &&String| {
                let (method, path) = request.split_once(' ').expect("a method and a path");
                point_of(method, path) == Some(parlour_engine::CommitPoint::SetState)
            };
            count += proxies.to_homeserver.seen().iter().filter(is_set).count();
            assert!(Instant::now() < deadline, "{count} of 3 states are set");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let path = room_path(&spoke, &state("m.room.power_levels"));
        loop {
            let (_, levels) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
            if levels["events_default"] == 50 {
                break;
            }
            assert!(Instant::now() < deadline, "the room is switched: {levels}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        is_forbidden(&ann, &spoke, "late").await;
        proxies.to_parlour.pass_all();
    };
    let ((status, _), ()) = tokio::join!(asked, set);
    assert_eq!(status, 200);
    read(&murphy, &hub, "just in time").await;
    told_times(&ann, &spoke, "only the practice writes", 1).await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// An old switch that comes late changes nothing: the room tells what holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_comes_late_is_not_believed() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S16 late", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    assert_eq!(switch(&stage, &murphy, &talk, "one-way").await.0, 200);
    let late = json!({
        "event_id": "$late", "room_id": spoke, "sender": stage.bot(), "type": "m.room.power_levels",
        "state_key": "", "origin_server_ts": 1, "content": { "events_default": 0 },
    });
    let hs_token = stage.world.config.homeserver.hs_token.reveal();
    let body = json!({ "events": [late] }).to_string();
    // A number that is none, as of no transaction of the homeserver's.
    let path = "/_matrix/app/v1/transactions/late";
    assert_eq!(stage.internal(Method::PUT, path, Some(hs_token), Some(body)).await.0, 200);
    say(&murphy, &hub, "what holds?").await;
    read(&ann, &spoke, "what holds?").await;
    let (_, told) =
        stage.api(Method::GET, &format!("/conversations/{}", talk.id()), Some(&token(&ann)), None).await;
    assert_eq!(told["mode"], "one-way");
    told_times(&ann, &spoke, "you can answer", 0).await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// Whom the owner names writes in a one-way conversation, until they are named no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_sender_writes_in_a_one_way_conversation() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let ann = stage.sign_in("ann").await;
    let talk = stage.begin(&murphy, "S16 senders", "one-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    kim.wait_for_room(LIMIT, |found| found.room_id == hub).await.expect("in the hub");
    is_forbidden(&kim, &hub, "one").await;
    let path = format!("/conversations/{}", talk.id());
    let name = async |by: &Client, senders: Value| {
        let body = json!({ "senders": senders });
        let (status, answer) = stage.api(Method::PATCH, &path, Some(&token(by)), Some(&body)).await;
        (status, answer["senders"].clone(), answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    for (who, by, senders, wanted) in [
        ("themselves", &kim, json!([kim.user_id()]), (403, "IO.PARLOUR.NOT_YOURS")),
        ("a patient", &murphy, json!([ann.user_id()]), (400, "IO.PARLOUR.NOBODY_LIKE_THAT")),
        ("a stranger", &murphy, json!(["@nobody:x"]), (400, "IO.PARLOUR.NOBODY_LIKE_THAT")),
        ("nobody at all", &murphy, json!(null), (400, "M_BAD_JSON")),
    ] {
        let (status, _, code) = name(by, senders).await;
        assert_eq!((status, code.as_str()), wanted, "{who}");
    }
    let (status, senders, _) = name(&murphy, json!([kim.user_id()])).await;
    assert_eq!((status, senders), (200, json!([kim.user_id()])));
    say(&kim, &hub, "Kim here").await;
    read(&ann, &spoke, "Kim here").await;
    is_forbidden(&ann, &spoke, "two").await;
    let (status, senders, _) = name(&murphy, json!([])).await;
    assert_eq!((status, senders), (200, json!([])));
    is_forbidden(&kim, &hub, "three").await;
    say(&murphy, &hub, "only I").await;
    read(&ann, &spoke, "only I").await;
    // Named when it is begun, they write from the beginning.
    let wanted = json!({ "name": "S8 senders", "mode": "one-way", "staff": [kim.user_id()], "patients": [ann.user_id()],
        "senders": [kim.user_id()] });
    let (status, told) =
        stage.api(Method::POST, "/conversations", Some(&token(&murphy)), Some(&wanted)).await;
    assert_eq!(status, if told["ready"] == true { 201 } else { 202 }, "{told}");
    assert_eq!(told["senders"], json!([kim.user_id()]), "{told}");
    let caller = Caller::new(&stage.world.public_url(), &token(&murphy));
    let other = Talk { told: caller.made(told["id"].as_str().expect("an id")).await };
    say(&kim, &other.hub(), "Kim, named").await;
    read(&ann, &other.spoke(stage.person("ann")), "Kim, named").await;
    // It was said once, when the conversation was made.
    told_times(&ann, &spoke, "writes in this conversation", 1).await;
    told_times(&kim, &hub, "Responses are switched off", 1).await;
    for client in [murphy, kim, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// What the homeserver took is delivered, also when it comes before the event that switched its room back.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_after_the_switch_back_is_delivered_whatever_comes_first() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S16 back", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    assert_eq!(switch(&stage, &murphy, &talk, "one-way").await.0, 200);

    proxies.to_parlour.judge(|method, path| {
        let held = is_transaction(&format!("{method} {path}"));
        if held { Fate::Answer(503, "{}") } else { Fate::Pass }
    });
    let asked = switch(&stage, &murphy, &talk, "two-way");
    let written = async {
        let deadline = Instant::now() + LIMIT;
        let own = loop {
            match ann.send_text(&spoke, "now I can").await {
                Ok(own) => break own,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let (_, event) = ann
            .http()
            .call(Method::GET, &room_path(&spoke, &format!("event/{own}")), None)
            .await
            .expect("an answer");
        let hs_token = stage.world.config.homeserver.hs_token.reveal();
        let body = json!({ "events": [event] }).to_string();
        let path = "/_matrix/app/v1/transactions/first";
        assert_eq!(stage.internal(Method::PUT, path, Some(hs_token), Some(body)).await.0, 200);
        read(&murphy, &hub, "now I can").await;
        proxies.to_parlour.pass_all();
    };
    let ((status, _), ()) = tokio::join!(asked, written);
    assert_eq!(status, 200);
    told_times(&ann, &spoke, "you can answer", 1).await;
    let seen = ann.messages(&spoke).await.expect("messages");
    assert!(!seen.iter().any(|message| message.body.contains("POST-2")), "{seen:?}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// Fifty rooms are switched soon, and back.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_rooms_are_switched_soon() {
    const SPOKES: usize = 50;
    let stage = Stage::open_with(Extras { more_patients: SPOKES, ..Extras::default() }).await;
    let murphy = stage.sign_in("murphy").await;
    let names = numbers(SPOKES);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let talk = stage.begin(&murphy, "S16 of fifty", "two-way", &[], &names).await;
    let rooms: Vec<OwnedRoomId> = talk.rooms();
    assert_eq!(rooms.len(), SPOKES + 1);
    let mut took = Vec::new();
    for mode in ["one-way", "two-way"] {
        let begun = Instant::now();
        let (status, whole) = switch(&stage, &murphy, &talk, mode).await;
        println!("{SPOKES} rooms are {mode}: {:.2} s", begun.elapsed().as_secs_f64());
        took.push(begun.elapsed());
        assert_eq!((status, &whole["switching"]), (200, &json!(0)), "{whole}");
        let wanted = if mode == "one-way" { 50 } else { 0 };
        for room in &rooms {
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels");
            let (_, levels) = stage.as_ours(&stage.bot(), Method::GET, &path, None).await;
            assert_eq!(levels["events_default"].as_i64().unwrap_or(0), wanted, "{room}");
        }
    }
    // Beside other tests the time says nothing: it is held against the limit where nothing else runs.
    if runs_alone() {
        assert!(took.iter().all(|took| *took <= Duration::from_secs(5)), "{took:?}");
    }
    murphy.stop().await;
    stage.close().await;
}

/// Switched there and back again and again, a conversation ends as it was wished last.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_wish_counts() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "S16 in haste", "two-way", &[], &["ann"]).await;
    let spoke = talk.spoke(stage.person("ann"));
    let wishes = ["one-way", "two-way", "one-way", "two-way", "one-way"];
    for mode in wishes {
        let (status, _) = switch(&stage, &murphy, &talk, mode).await;
        assert_eq!(status, 200);
    }
    is_forbidden(&ann, &spoke, "last").await;
    let both =
        tokio::join!(switch(&stage, &murphy, &talk, "two-way"), switch(&stage, &murphy, &talk, "two-way"));
    assert_eq!((both.0.0, both.1.0), (200, 200));
    send(&ann, &spoke, "m.room.message", json!({ "msgtype": "m.text", "body": "I can" })).await;
    read(&murphy, &talk.hub(), "I can").await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
