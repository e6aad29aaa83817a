//! What is not passed on: its sender is told in the room, with the code, and others are not held up by it.

use std::time::Duration;

use parlour::{
    demo::client::{Client, Reading},
    run::Extras,
};
use parlour_integration_tests::{
    LIMIT, Stage, books::Books, crowd::Caller, put, read, refusal, room_path, say, send, token,
};
use reqwest::Method;
use ruma::EventId;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::saying::{gone, react, reacted};

fn impatient() -> Extras {
    Extras { patience: Some(Duration::from_secs(2)), ..Extras::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_refused_with_its_code() {
    let stage = Stage::open_with(impatient()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "kinds", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    let hello = read(&ann, &spoke, "hello").await;
    say(&ann, &spoke, "mine").await;

    let clear =
        put(&ann, &spoke, "send/m.room.message/1", json!({ "msgtype": "m.text", "body": "clear" })).await;
    let relation = json!({ "rel_type": "m.annotation", "event_id": hello.event_id, "key": "yes" });
    let reaction = put(&ann, &spoke, "send/m.reaction/2", json!({ "m.relates_to": relation })).await;
    let sticker = json!({ "body": "secret sticker", "info": {}, "url": "mxc://x/y" });
    let sticker = send(&ann, &spoke, "m.sticker", sticker).await;
    let edit = json!({
        "msgtype": "m.text", "body": "* secret edit",
        "m.new_content": { "msgtype": "m.text", "body": "secret edit" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": hello.event_id },
    });
    let edit = send(&ann, &spoke, "m.room.message", edit).await;
    let image = json!({ "msgtype": "m.image", "body": "secret.png", "url": "mxc://x/y" });
    let image = send(&ann, &spoke, "m.room.message", image).await;
    let long =
        send(&ann, &spoke, "m.room.message", json!({ "msgtype": "m.text", "body": "y".repeat(40_001) }))
            .await;
    let garbled = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "%", "session_id": "x" });
    let garbled = put(&ann, &spoke, "send/m.room.encrypted/3", garbled).await;
    for (name, refused, code) in [
        ("in the clear", clear, "ENC-1"),
        ("a reaction of words", reaction, "REACT-2"),
        ("a sticker", sticker, "KIND-1"),
        ("an edit of another's", edit, "EDIT-1"),
        ("an image that is not encrypted", image, "ENC-1"),
        ("too long", long, "SIZE-1"),
        ("garbled", garbled, "KEY-1"),
    ] {
        let words = refusal(&ann, &spoke, &refused).await;
        assert!(words.contains(&format!("({code})")), "{name}: {words}");
    }
    say(&ann, &spoke, "the end").await;
    read(&murphy, &hub, "the end").await;
    let passed_on = murphy.messages(&hub).await.expect("messages");
    let from_ann: Vec<_> =
        passed_on.iter().filter(|m| m.sender != murphy.user_id()).map(|m| &*m.body).collect();
    assert_eq!(from_ann, ["mine", "the end"], "nothing else arrived, and no notice of it");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

/// An administrator of the homeserver can set who writes in a room, and let somebody into it: what comes of that is passed on to
/// nobody (POST-1, POST-2).
#[tokio::test(flavor = "multi_thread")]
async fn whom_somebody_else_has_let_write_is_refused_all_the_same() {
    let stage = Stage::open().await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "let write", "one-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;

    let levels = room_path(&spoke, "state/m.room.power_levels");
    let (status, mut set) = stage.as_ours(&stage.bot(), Method::GET, &levels, None).await;
    assert_eq!((status, &set["events_default"]), (200, &json!(50)), "{set}");
    for client in [&ann, &ben] {
        set["users"][client.user_id().as_str()] = json!(50);
    }
    let (status, told) = stage.as_ours(&stage.bot(), Method::PUT, &levels, Some(&set)).await;
    assert_eq!(status, 200, "{told}");
    let join = format!("/_synapse/admin/v1/join/{spoke}");
    let whom = json!({ "user_id": ben.user_id() });
    let (status, told) = stage.as_ours(&stage.bot(), Method::POST, &join, Some(&whom)).await;
    assert_eq!(status, 200, "{told}");

    let one_way = say(&ann, &spoke, "secret answer").await;
    let words = refusal(&ann, &spoke, &one_way).await;
    assert!(words.contains("(POST-2)"), "{words}");
    let of_a_stranger = say(&ben, &spoke, "secret stranger").await;
    let words = refusal(&ann, &spoke, &of_a_stranger).await;
    assert!(words.contains("(POST-1)"), "{words}");

    // Whom somebody has let into a room gets no keys for it.
    say(&murphy, &hub, "for Ann alone").await;
    read(&ann, &spoke, "for Ann alone").await;

    // What holds is set by the next switch.
    let caller = Caller::new(&stage.world.public_url(), &token(&murphy));
    assert_eq!(caller.switched(talk.id(), "two-way").await.expect("an answer").0, 200);
    say(&ann, &spoke, "now it is heard").await;
    read(&murphy, &hub, "now it is heard").await;
    let passed_on = murphy.messages(&hub).await.expect("messages");
    assert!(!passed_on.iter().any(|message| message.body.contains("secret")), "{passed_on:?}");
    let (_, set) = stage.as_ours(&stage.bot(), Method::GET, &levels, None).await;
    assert_eq!(set["users"][ann.user_id().as_str()], 0, "{set}");
    let seen = ben.history(&spoke, 100).await.expect("messages");
    assert!(seen.iter().any(|message| matches!(message.reading, Reading::Undecryptable { .. })), "{seen:?}");
    assert!(!seen.iter().any(|message| message.body.contains("for Ann alone")), "{seen:?}");
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_cannot_be_told_are_refused_and_staff_alone_are_not() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "lanes", "two-way", &["kim"], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    let to_all = say(&murphy, &hub, "to all").await;
    say(&ann, &anns, "a question").await;
    let question = read(&murphy, &hub, "a question").await;
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let with = |body: &str, key: &str, value: Value| {
        let mut content = text(body);
        content[key] = value;
        content
    };
    let thread = |body: &str, root: &EventId| {
        let relation = json!({
            "rel_type": "m.thread", "event_id": root, "is_falling_back": true,
            "m.in_reply_to": { "event_id": question.event_id },
        });
        with(body, "m.relates_to", relation)
    };
    let names = with("secret for Ann", "m.mentions", json!({ "user_ids": [question.sender] }));
    let mention = send(&murphy, &hub, "m.room.message", names).await;
    let in_thread = send(&murphy, &hub, "m.room.message", thread("secret thread", &to_all)).await;
    let said = refusal(&murphy, &hub, &mention).await;
    assert!(said.contains("(LANE-3)"), "{said}");
    assert!(refusal(&murphy, &hub, &in_thread).await.contains("(LANE-1)"));
    let notice = murphy.wait_for(&hub, LIMIT, |message| message.body == said).await.expect("the bot's word");
    let to_notice = murphy.reply(&hub, &notice.event_id, "secret answer").await.expect("sent");
    assert!(refusal(&murphy, &hub, &to_notice).await.contains("(LANE-2)"));

    // What relates to something in a way that makes no sense is not as if it related to nothing.
    for (name, relation, code) in [
        ("an answer to nothing", json!({ "m.in_reply_to": { "event_id": 7 } }), "LANE-2"),
        ("an answer that is no object", json!({ "m.in_reply_to": "x" }), "LANE-2"),
        ("a thread without a root", json!({ "rel_type": "m.thread" }), "LANE-2"),
        ("a relation that is no text", json!({ "rel_type": 1 }), "KIND-1"),
    ] {
        let odd =
            send(&murphy, &hub, "m.room.message", with("secret oddity", "m.relates_to", relation)).await;
        let words = refusal(&murphy, &hub, &odd).await;
        assert!(words.contains(code), "{name}: {words}");
    }
    let named = say(&murphy, &hub, "secret: Ann Byrne, please call").await;
    assert!(refusal(&murphy, &hub, &named).await.contains("(LANE-3)"));

    // Who answers her names nobody but her; the quotation of who answers a file stays here as well.
    say(&ben, &bens, "Ben is here").await;
    let bens_ghost = read(&murphy, &hub, "Ben is here").await.sender;
    let to_her = json!({ "m.in_reply_to": { "event_id": question.event_id } });
    let pill = |ghost: &str, name: &str| {
        let mut content = with(&format!("{name}: secret"), "m.relates_to", to_her.clone());
        content["format"] = "org.matrix.custom.html".into();
        content["formatted_body"] =
            format!("<a href=\"https://matrix.to/#/{ghost}\">{name}</a>: secret").into();
        content["m.mentions"] = json!({ "user_ids": [ghost] });
        content
    };
    for content in
        [pill(bens_ghost.as_str(), "Ben Carey"), with("as for ben  CAREY", "m.relates_to", to_her.clone())]
    {
        let named = send(&murphy, &hub, "m.room.message", content).await;
        let words = refusal(&murphy, &hub, &named).await;
        assert!(words.contains("(LANE-6)"), "{words}");
    }
    let own_pill = send(&murphy, &hub, "m.room.message", pill(question.sender.as_str(), "Ann Byrne")).await;
    let hers = read(&ann, &anns, "Ann Byrne: secret").await;
    assert_eq!(hers.content["m.mentions"], json!({}), "{hers:?}");
    // Older clients quote in an edit as well, also whom they must not name.
    let edited = json!({
        "msgtype": "m.text", "body": format!("> <{bens_ghost}> Ben Carey\n\n * secret, corrected"),
        "format": "org.matrix.custom.html",
        "formatted_body": format!("<mx-reply><a href=\"https://matrix.to/#/{bens_ghost}\">Ben Carey</a></mx-reply> * secret"),
        "m.new_content": { "msgtype": "m.text", "body": format!("> <{bens_ghost}> Ben Carey\n\nsecret, corrected") },
        "m.relates_to": { "rel_type": "m.replace", "event_id": own_pill },
    });
    send(&murphy, &hub, "m.room.message", edited).await;
    let corrected =
        ann.wait_for(&anns, LIMIT, |m| m.content["m.new_content"]["body"] == "secret, corrected").await;
    assert!(corrected.is_ok(), "{corrected:?}");
    let file = murphy.upload(b"%PDF-1.4 a result").await.expect("uploaded");
    let captioned = json!({
        "msgtype": "m.file", "filename": "result.pdf", "file": file, "m.relates_to": to_her,
        "body": "> <@somebody:else> a secret of Ben\n\nyour result",
    });
    send(&murphy, &hub, "m.room.message", captioned).await;
    read(&ann, &anns, "your result").await;

    // In a thread on her question, whatever its fallback says, it is for Ann alone; and a quotation stays here.
    send(&murphy, &hub, "m.room.message", thread("secret: in her thread", &question.event_id)).await;
    read(&ann, &anns, "secret: in her thread").await;
    // Where a client does not say that it only falls back, it answers: in a thread to everybody it goes to whom it answers.
    for (root, words) in [
        (&question.event_id, "secret: in hers, as an answer"),
        (&to_all, "secret: in that to all, as an answer"),
    ] {
        let mut answer = thread(words, root);
        answer["m.relates_to"].as_object_mut().expect("a relation").remove("is_falling_back");
        send(&murphy, &hub, "m.room.message", answer).await;
        read(&ann, &anns, words).await;
    }
    let quoted = with(
        "> <@somebody:else> a secret of Ben\n\nonly this",
        "m.relates_to",
        json!({ "m.in_reply_to": { "event_id": question.event_id } }),
    );
    send(&murphy, &hub, "m.room.message", quoted).await;
    read(&ann, &anns, "only this").await;
    say(&murphy, &hub, "to all again").await;
    read(&ben, &bens, "to all again").await;
    for message in ben.messages(&bens).await.expect("messages") {
        assert!(message.is_readable(), "{message:?}");
        assert!(["to all", "Ben is here", "to all again"].contains(&&*message.body), "{}", message.body);
    }

    // Among staff alone everything has reached everybody already: nothing is refused.
    let alone = stage.begin(&murphy, "alone", "two-way", &["kim"], &[]).await;
    kim.wait_for_room(LIMIT, |room| room.room_id == alone.hub()).await.expect("in the room");
    let place = json!({ "msgtype": "m.location", "body": "the surgery", "geo_uri": "geo:53.3,-6.2" });
    send(&murphy, &alone.hub(), "m.room.message", place).await;
    say(&kim, &alone.hub(), "thank you").await;
    // A word that goes through Parlour, so that whatever it would have said of the place is there before.
    let clear = put(&kim, &alone.hub(), "send/m.room.message/1", text("clear")).await;
    assert!(refusal(&kim, &alone.hub(), &clear).await.contains("(ENC-1)"));
    let seen = kim.messages(&alone.hub()).await.expect("messages");
    assert_eq!(seen.iter().filter(|message| message.msgtype == "m.notice").count(), 1);
    for client in [murphy, kim, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}

/// What was refused, or waits for something, stands in the room where it was written: it is deleted there like everything else.
#[tokio::test(flavor = "multi_thread")]
async fn what_went_nowhere_is_deleted_where_it_stands() {
    let stage = Stage::open().await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "refused", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let hello = say(&murphy, &hub, "hello").await;
    let at_anns = read(&ann, &spoke, "hello").await.event_id;
    let sticker = send(&kim, &hub, "m.sticker", json!({ "body": "x", "info": {}, "url": "mxc://x/y" })).await;
    let told = murphy.wait_for(&hub, LIMIT, |message| message.in_reply_to.as_ref() == Some(&sticker)).await;
    let told = told.expect("the bot's word").event_id;
    let file = kim.send_file(&hub, "m.file", "x.pdf", b"%PDF-1.4", None).await.expect("sent");
    refusal(&kim, &hub, &file).await;
    let anns = send(&ann, &spoke, "m.sticker", json!({ "body": "x", "info": {}, "url": "mxc://x/y" })).await;
    refusal(&ann, &spoke, &anns).await;
    let like = react(&kim, &hub, &hello, "👎").await;
    reacted(&ann, &spoke, &at_anns, &["👎"]).await;
    let state = room_path(&hub, &format!("state/m.room.member/{}?format=event", kim.user_id()));
    let (_, joined) = murphy.http().call(Method::GET, &state, None).await.expect("an answer");
    let joined = EventId::parse(joined["event_id"].as_str().expect("an event")).expect("an id");

    let ask = async |client: &Client, event: &EventId, body: Value| {
        let path = format!("/conversations/{}/messages/{event}", talk.id());
        stage.api(Method::DELETE, &path, Some(&token(client)), Some(&body)).await
    };
    let why = || json!({ "reason": "not for our patients" });
    for (name, client, event, body, wanted) in [
        ("without a reason", &murphy, &sticker, json!({}), (400, "IO.PARLOUR.NO_REASON")),
        ("by a patient, who does not see it", &ann, &sticker, why(), (404, "M_NOT_FOUND")),
        ("that somebody is here", &murphy, &joined, why(), (404, "M_NOT_FOUND")),
        ("the bot's words", &murphy, &told, why(), (404, "M_NOT_FOUND")),
        ("a patient's, by whoever does not see it", &murphy, &anns, why(), (404, "M_NOT_FOUND")),
        ("by a manager", &murphy, &sticker, why(), (200, "")),
        ("once more", &murphy, &sticker, why(), (200, "")),
        ("what waits for words", &murphy, &file, why(), (200, "")),
        ("a reaction", &murphy, &like, why(), (200, "")),
        ("a patient's own", &ann, &anns, json!({}), (200, "")),
    ] {
        let (status, answer) = ask(client, event, body).await;
        let code = answer["errcode"].as_str().unwrap_or_default();
        assert_eq!((status, code), wanted, "{name}: {answer}");
        let is_recorded = event == &like;
        assert!(status != 200 || answer["message"].is_string() == is_recorded, "{name}: {answer}");
    }
    for (client, room, event) in [(&kim, &hub, &sticker), (&kim, &hub, &file), (&ann, &spoke, &anns)] {
        gone(client, room, event).await;
    }
    reacted(&ann, &spoke, &at_anns, &[]).await;
    // It waits for nothing any more.
    say(&kim, &hub, "about no file").await;
    read(&ann, &spoke, "about no file").await;
    let files = ann.messages(&spoke).await.expect("messages");
    assert!(files.iter().all(|message| message.content["file"].is_null()), "{files:?}");
    let books = Books::of(&stage.world.place.data, None);
    for (sql, wanted) in [
        ("SELECT COUNT(*) FROM removals WHERE LENGTH(reason) > 0", 2),
        ("SELECT COUNT(*) FROM removals", 3),
        ("SELECT COUNT(*) FROM ledger WHERE what = 'removed' AND by_id IS NOT NULL", 3),
    ] {
        assert_eq!(books.number(sql).await, wanted, "{sql}");
    }
    for client in [murphy, kim, ann] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_silences_nobody() {
    let stage = Stage::open().await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "damage", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    say(&ann, &anns, "a question").await;
    let question = read(&murphy, &hub, "a question").await;
    let file = stage.world.config.data.join("parlour.db");
    let url = format!("sqlite://{}", file.display());
    let mut database = sqlx::AnyConnection::connect(&url).await.expect("the database");
    for damage in ["PRAGMA foreign_keys = OFF", "UPDATE messages SET lane = 'nobody'"] {
        sqlx::query(damage).execute(&mut database).await.expect("damaged");
    }
    database.close().await.expect("closed");
    let answer = murphy.reply(&hub, &question.event_id, "an answer").await.expect("sent");
    say(&murphy, &hub, "behind it").await;
    assert!(refusal(&murphy, &hub, &answer).await.contains("(SELF-1)"));
    read(&ben, &bens, "behind it").await;
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}
