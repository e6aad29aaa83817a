//! All that people send: formatted words, edits, reactions and deletions, from any client, in the portals that their message
//! reached and in no other (S17, S18).

use parlour::demo::client::{Client, Message, Reading};
use parlour_integration_tests::{
    LIMIT, Stage, Talk, books::Books, put, read, refusal, room_path, say, send, token,
};
use reqwest::Method;
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

const LOOK: Duration = Duration::from_millis(50);

/// Says something else in the place of a message.
pub(crate) async fn edit(client: &Client, room: &RoomId, edited: &EventId, words: &str) -> OwnedEventId {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {words}"),
        "m.new_content": { "msgtype": "m.text", "body": words },
        "m.relates_to": { "rel_type": "m.replace", "event_id": edited },
    });
    send(client, room, "m.room.message", content).await
}

pub(crate) async fn react(client: &Client, room: &RoomId, to: &EventId, key: &str) -> OwnedEventId {
    let relation = json!({ "rel_type": "m.annotation", "event_id": to, "key": key });
    send(client, room, "m.reaction", json!({ "m.relates_to": relation })).await
}

pub(crate) async fn delete(client: &Client, room: &RoomId, event: &EventId) -> OwnedEventId {
    send(client, room, "m.room.redaction", json!({ "redacts": event, "reason": "a mistake" })).await
}

/// The edit that says these words in the place of a message.
async fn edited(client: &Client, room: &RoomId, of: &EventId, words: &str) -> Message {
    let found = client.wait_for(room, LIMIT, |message| {
        message.replaces.as_deref() == Some(of) && message.content["m.new_content"]["body"] == words
    });
    found.await.unwrap_or_else(|error| panic!("{words:?} in place of {of}: {error}"))
}

/// What stands in somebody's room about an event, by the homeserver: who, and the emoji.
async fn reactions(client: &Client, room: &RoomId, to: &EventId) -> Vec<(String, String)> {
    let path =
        room_path(room, "x").replace("/v3/", "/v1/").replace("/x", &format!("/relations/{to}/m.annotation"));
    let (status, found) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{found}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |event: &Value| (text(&event["sender"]), text(&event["content"]["m.relates_to"]["key"]));
    // The homeserver gives the newest first.
    found["chunk"].as_array().expect("events").iter().rev().map(of).collect()
}

/// Waits until these emoji stand there.
pub(crate) async fn reacted(
    client: &Client,
    room: &RoomId,
    to: &EventId,
    wanted: &[&str],
) -> Vec<(String, String)> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = reactions(client, room, to).await;
        if found.iter().map(|(_, key)| key.as_str()).eq(wanted.iter().copied()) {
            return found;
        }
        assert!(Instant::now() < deadline, "{wanted:?} to {to}: {found:?}");
        sleep(LOOK).await;
    }
}

/// Waits until an event is redacted for somebody.
pub(crate) async fn gone(client: &Client, room: &RoomId, event: &EventId) {
    let is_gone = |seen: &[Message]| {
        let found = seen.iter().find(|message| message.event_id == event)?;
        (found.reading == Reading::Redacted).then_some(())
    };
    client.wait_until(room, LIMIT, is_gone).await.unwrap_or_else(|error| panic!("{event}: {error}"));
}

/// A conversation of Dr Murphy and Kim with Ann and Ben.
struct Group {
    stage: Stage,
    murphy: Client,
    kim: Client,
    ann: Client,
    ben: Client,
    talk: Talk,
}

impl Group {
    async fn open(name: &str) -> Self {
        let stage = Stage::open().await;
        let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
        let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
        let talk = stage.begin(&murphy, name, "two-way", &["kim"], &["ann", "ben"]).await;
        Self { stage, murphy, kim, ann, ben, talk }
    }

    fn rooms(&self) -> [ruma::OwnedRoomId; 3] {
        let spoke = |name| self.talk.spoke(self.stage.person(name));
        [self.talk.hub(), spoke("ann"), spoke("ben")]
    }

    async fn close(self) {
        for client in [self.murphy, self.kim, self.ann, self.ben] {
            client.stop().await;
        }
        self.stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_arrive_as_they_are_meant_and_without_what_is_nobody_elses_business() {
    let group = Group::open("formatted").await;
    let [hub, anns, _] = group.rooms();
    let html = |form: &str, body: &str, html: &str| json!({ "msgtype": form, "body": body, "format": "org.matrix.custom.html", "formatted_body": html });
    let pill = format!("<a href=\"https://matrix.to/#/{}\">Dr Murphy</a>", group.murphy.user_id());
    for (content, wanted) in [
        (html("m.text", "two a day", "<strong>two</strong> a day"), json!("<strong>two</strong> a day")),
        (html("m.text", "ask Dr Murphy", &format!("ask {pill}")), json!("ask <a>Dr Murphy</a>")),
        (html("m.emote", "waves", "waves<script>x</script>"), json!("waves")),
        (json!({ "msgtype": "m.notice", "body": "by a machine" }), json!(null)),
    ] {
        let words = content["body"].as_str().expect("words").to_owned();
        send(&group.murphy, &hub, "m.room.message", content.clone()).await;
        let message = read(&group.ann, &anns, &words).await;
        assert_eq!(message.msgtype, content["msgtype"], "{words}");
        assert_eq!(message.content["formatted_body"], wanted, "{words}");
        assert_eq!(message.content["m.mentions"], json!({}), "{words}");
    }
    group.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_follows_its_message_and_only_its_writer_may() {
    let group = Group::open("edits").await;
    let [hub, anns, bens] = group.rooms();
    let Group { murphy, kim, ann, ben, .. } = &group;
    let own = say(murphy, &hub, "at four").await;
    let [at_anns, at_bens] =
        [read(ann, &anns, "at four").await.event_id, read(ben, &bens, "at four").await.event_id];
    edit(murphy, &hub, &own, "at five").await;
    let in_anns = edited(ann, &anns, &at_anns, "at five").await;
    edited(ben, &bens, &at_bens, "at five").await;
    assert_eq!(in_anns.content["m.new_content"]["m.mentions"], json!({}));
    assert_eq!(in_anns.body, "* at five");

    // A patient's own, and what answers it: each in its lane.
    let asked = say(ann, &anns, "may I come today?").await;
    let at_hub = read(murphy, &hub, "may I come today?").await.event_id;
    edit(ann, &anns, &asked, "may I come tomorrow?").await;
    let changed = edited(murphy, &hub, &at_hub, "may I come tomorrow?").await;
    // A client may well answer the edit.
    let answer = murphy.reply(&hub, &changed.event_id, "secret: yes").await.expect("sent");
    let at_anns = read(ann, &anns, "secret: yes").await.event_id;
    let second = edit(murphy, &hub, &answer, "secret: yes, at ten").await;
    let second_at_anns = edited(ann, &anns, &at_anns, "secret: yes, at ten").await.event_id;
    // Deleted alone, an edit is gone, and what was said first stands again.
    delete(murphy, &hub, &second).await;
    gone(ann, &anns, &second_at_anns).await;
    let seen = ann.messages(&anns).await.expect("messages");
    let first = seen.iter().find(|message| message.event_id == at_anns).expect("it is there");
    assert_eq!((first.is_readable(), &*first.body), (true, "secret: yes"));

    // Nobody changes another's words, nor what was never passed on; and an edit to everybody names no patient.
    let sticker =
        send(murphy, &hub, "m.sticker", json!({ "body": "secret", "info": {}, "url": "mxc://x/y" })).await;
    for (name, by, room, event, words, code) in [
        ("another's", kim, &hub, &own, "secret: never", "EDIT-1"),
        ("a patient's, by staff", murphy, &hub, &at_hub, "secret: no need", "EDIT-1"),
        ("staff's, by a patient", ann, &anns, &at_anns, "secret: at nine", "EDIT-1"),
        ("what was refused", murphy, &hub, &sticker, "secret: smile", "EDIT-1"),
        ("to all, naming one", murphy, &hub, &own, "secret: Ann Byrne at five", "LANE-3"),
    ] {
        let refused = edit(by, room, event, words).await;
        let told = refusal(by, room, &refused).await;
        assert!(told.contains(&format!("({code})")), "{name}: {told}");
    }
    say(murphy, &hub, "the end").await;
    for (client, room, secrets) in [(ann, &anns, 1), (ben, &bens, 0)] {
        read(client, room, "the end").await;
        let seen = client.messages(room).await.expect("messages");
        let secret = |message: &&Message| {
            message.msgtype != "m.notice"
                && message.sender != client.user_id()
                && message.content.to_string().contains("secret")
        };
        assert_eq!(seen.iter().filter(secret).count(), secrets, "{seen:?}");
    }
    group.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_goes_where_its_message_went_and_is_taken_back() {
    let group = Group::open("reactions").await;
    let [hub, anns, bens] = group.rooms();
    let Group { murphy, kim, ann, ben, .. } = &group;
    let to_all = say(murphy, &hub, "the surgery is closed").await;
    let at_anns = read(ann, &anns, "the surgery is closed").await.event_id;
    let at_bens = read(ben, &bens, "the surgery is closed").await.event_id;
    // From a patient to staff, and to nobody else.
    let thumb = react(ann, &anns, &at_anns, "👍").await;
    let ghost = reacted(murphy, &hub, &to_all, &["👍"]).await.remove(0).0;
    assert_ne!(ghost, ann.user_id().as_str());
    assert!(reactions(ben, &bens, &at_bens).await.is_empty());
    // From staff: to all, or in the lane of what they react to.
    react(kim, &hub, &to_all, "🙏").await;
    reacted(ben, &bens, &at_bens, &["🙏"]).await;
    reacted(ann, &anns, &at_anns, &["👍", "🙏"]).await;
    let asked = say(ann, &anns, "thank you").await;
    let at_hub = read(murphy, &hub, "thank you").await.event_id;
    react(murphy, &hub, &at_hub, "❤️").await;
    reacted(ann, &anns, &asked, &["❤️"]).await;
    // Taken back, and given again.
    delete(ann, &anns, &thumb).await;
    reacted(murphy, &hub, &to_all, &["🙏"]).await;
    react(ann, &anns, &at_anns, "👍").await;
    reacted(murphy, &hub, &to_all, &["🙏", "👍"]).await;

    // The same once more, by the id of an edit: it stands there, and nobody waits for it.
    edit(murphy, &hub, &to_all, "the surgery is closed today").await;
    let changed = edited(ann, &anns, &at_anns, "the surgery is closed today").await.event_id;
    react(ann, &anns, &changed, "👍").await;
    say(ann, &anns, "I see").await;
    read(murphy, &hub, "I see").await;
    reacted(murphy, &hub, &to_all, &["🙏", "👍"]).await;

    let notice = react(ann, &anns, &at_anns, "call me").await;
    let told = refusal(ann, &anns, &notice).await;
    assert!(told.contains("(REACT-2)"), "{told}");
    let notice = ann.wait_for(&anns, LIMIT, |message| message.body == told).await.expect("the bot's word");
    let about = react(ann, &anns, &notice.event_id, "👎").await;
    assert!(refusal(ann, &anns, &about).await.contains("(REACT-1)"));
    assert!(!reactions(murphy, &hub, &to_all).await.iter().any(|(_, key)| key.contains("call")));
    // Nothing of it is in Ben's room but what is for everybody.
    assert_eq!(reacted(ben, &bens, &at_bens, &["🙏"]).await.len(), 1);
    group.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_disappears_everywhere_and_stays_in_the_record() {
    let group = Group::open("deletions").await;
    let [hub, anns, bens] = group.rooms();
    let Group { murphy, kim, ann, ben, stage, talk } = &group;
    let own = say(murphy, &hub, "to the wrong people").await;
    let at_anns = read(ann, &anns, "to the wrong people").await.event_id;
    let at_bens = read(ben, &bens, "to the wrong people").await.event_id;
    let second = edit(murphy, &hub, &own, "still to the wrong people").await;
    let edit_at_anns = edited(ann, &anns, &at_anns, "still to the wrong people").await.event_id;
    let edit_at_bens = edited(ben, &bens, &at_bens, "still to the wrong people").await.event_id;
    ann.read(&anns, &edit_at_anns).await.expect("a receipt is taken");
    let books = Books::of(&stage.world.place.data, None);
    let read_by =
        "SELECT COUNT(*) FROM reads r JOIN messages m ON m.id = r.message_id WHERE m.kind = 'message'";
    books.comes_to(read_by, 1).await.expect("Ann has read it");
    let why = json!({ "redacts": own, "reason": "to the\nwrong people" });
    send(murphy, &hub, "m.room.redaction", why).await;
    // The edit as well, also where its writer's client left it.
    for (client, room, event) in [
        (ann, &anns, &at_anns),
        (ann, &anns, &edit_at_anns),
        (ben, &bens, &at_bens),
        (ben, &bens, &edit_at_bens),
        (kim, &hub, &own),
        (kim, &hub, &second),
    ] {
        gone(client, room, event).await;
    }
    // What is deleted stays so.
    let late = edit(murphy, &hub, &own, "again").await;
    assert!(refusal(murphy, &hub, &late).await.contains("(EDIT-2)"));
    let late = react(ann, &anns, &at_anns, "👍").await;
    assert!(refusal(ann, &anns, &late).await.contains("(REACT-1)"));
    // Twice is once.
    delete(murphy, &hub, &own).await;

    // A patient's own; and not another's: that is the homeserver's own answer.
    let mistake = say(ann, &anns, "a mistake").await;
    let at_hub = read(murphy, &hub, "a mistake").await.event_id;
    let path = |room: &RoomId, event: &EventId| room_path(room, &format!("redact/{event}/1"));
    for (client, room, event) in [(kim, &hub, &at_hub), (murphy, &hub, &at_hub)] {
        let (status, _) =
            client.http().call(Method::PUT, &path(room, event), Some(json!({}))).await.expect("an answer");
        assert_eq!(status, 403, "{event}");
    }
    delete(ann, &anns, &mistake).await;
    gone(murphy, &hub, &at_hub).await;

    // By the practice API: one's own, and a manager any, with a reason.
    let kims = say(kim, &hub, "Kim's words").await;
    let at_anns = read(ann, &anns, "Kim's words").await.event_id;
    let annas = say(ann, &anns, "rude words").await;
    let at_hub = read(murphy, &hub, "rude words").await.event_id;
    let ask = async |client: &Client, event: &EventId, body: Value| {
        let path = format!("/conversations/{}/messages/{event}", talk.id());
        let (status, answer) = stage.api(Method::DELETE, &path, Some(&token(client)), Some(&body)).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let why = || json!({ "reason": "not to be read by others" });
    for (name, client, event, body, wanted) in [
        ("another's", kim, &at_hub, why(), (403, "IO.PARLOUR.NOT_YOURS")),
        ("staff's, by a patient", ann, &at_anns, why(), (403, "IO.PARLOUR.NOT_YOURS")),
        ("without a reason", murphy, &at_hub, json!({}), (400, "IO.PARLOUR.NO_REASON")),
        ("with half of one", murphy, &at_hub, json!({ "reason": "" }), (400, "M_BAD_JSON")),
        ("of a room that is not theirs", ben, &at_anns, why(), (404, "M_NOT_FOUND")),
        ("of the hub, by a patient", ann, &kims, why(), (404, "M_NOT_FOUND")),
        ("nothing", murphy, &late, why(), (404, "M_NOT_FOUND")),
        ("a manager any", murphy, &at_hub, why(), (200, "")),
        ("once more", murphy, &at_hub, why(), (200, "")),
        ("one's own", kim, &kims, json!({}), (200, "")),
    ] {
        let (status, code) = ask(client, event, body).await;
        assert_eq!((status, code.as_str()), wanted, "{name}");
    }
    for (client, room, event) in
        [(ann, &anns, &annas), (murphy, &hub, &at_hub), (ann, &anns, &at_anns), (murphy, &hub, &kims)]
    {
        gone(client, room, event).await;
    }
    // Its writer's own client may not know yet: what they say in its place goes as well, and they are told.
    let late = edit(ann, &anns, &annas, "polite words").await;
    assert!(refusal(ann, &anns, &late).await.contains("(EDIT-2)"));
    gone(ann, &anns, &late).await;
    // In the record they stand, sealed: who deleted them, why, and who had read them.
    let by = |name: &str, reason: &str, count: i64| {
        let sql = format!(
            "SELECT COUNT(*) FROM messages m JOIN people p ON p.id = m.deleted_by
             WHERE m.deleted_at > 0 AND LENGTH(m.content) > 0 AND p.user_id = '{}' AND m.reason IS {reason}",
            stage.person(name).user_id
        );
        (sql, count)
    };
    for (sql, count) in [
        // Their edit went with the first of them.
        by("murphy", "NOT NULL", 2),
        by("murphy", "NULL", 1),
        by("ann", "NOT NULL", 1),
        by("kim", "NULL", 1),
        (format!("{read_by} AND m.deleted_at > 0"), 1),
    ] {
        assert_eq!(books.number(&sql).await, count, "{sql}");
    }
    let cara = stage.sign_in("cara").await;
    assert_eq!(ask(&cara, &own, why()).await.0, 404, "it is not there for others");
    cara.stop().await;
    say(murphy, &hub, "the end").await;
    read(ann, &anns, "the end").await;
    assert!(!murphy.messages(&hub).await.expect("messages").iter().any(|m| m.body.contains("(DEL-1)")));
    group.close().await;
}

/// What its writer deletes before Parlour has seen it never leaves its room.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_before_it_is_read_goes_nowhere() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "unread", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    let stage = stage
        .without_parlour(async {
            let mistake = say(&ann, &spoke, "a mistake").await;
            put(&ann, &spoke, &format!("redact/{mistake}/gone"), json!({})).await;
            say(&ann, &spoke, "what I meant").await;
        })
        .await;
    read(&murphy, &hub, "what I meant").await;
    let seen = murphy.messages(&hub).await.expect("messages");
    let others: Vec<_> = seen.iter().filter(|m| m.sender != murphy.user_id()).map(|m| &*m.body).collect();
    assert_eq!(others, ["what I meant"]);
    let notices = ann.messages(&spoke).await.expect("messages");
    assert!(!notices.iter().any(|message| message.msgtype == "m.notice"), "{notices:?}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
