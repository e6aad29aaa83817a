//! Out of hours: who writes while the practice is closed is answered once, with the day of the answer and what to do in an
//! emergency; and the same words stand in their room.

use parlour::{
    config::Week,
    demo::{
        client::{Client, Message},
        practice::EMERGENCY,
    },
    edge::SystemClock,
    run::{Extras, Parlour},
};
use parlour_domain::Clock as _;
use parlour_integration_tests::{LIMIT, Stage, pictures::jpeg, read, refusal, room_path, say, send};
use reqwest::Method;
use ruma::RoomId;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Parlour is started again with other words about the practice.
async fn changed(mut stage: Stage, change: impl FnOnce(&mut parlour::config::Practice)) -> Stage {
    stage.world.parlour.stop().await;
    change(&mut stage.world.config.practice);
    stage.world.parlour =
        Parlour::start(&stage.world.config, Extras::default()).await.expect("started again");
    stage.world.parlour.receiving().await;
    stage
}

/// How often the bot has said that the practice is closed.
async fn answers(client: &Client, room: &RoomId) -> Vec<String> {
    let seen = client.messages(room).await.expect("messages");
    let notices = seen.into_iter().filter(|message| message.msgtype == "m.notice");
    notices.map(|message| message.body).filter(|body| body.contains("is closed now")).collect()
}

/// In seconds, UTC.
fn since_midnight() -> u64 {
    let now = SystemClock.now().millis() / 1000;
    u64::try_from(now).expect("after 1970") % (24 * 60 * 60)
}

async fn topic(client: &Client, room: &RoomId) -> String {
    let path = room_path(room, "state/m.room.topic");
    let (_, topic) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    topic["topic"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_out_of_hours_is_answered_once() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "hours", "two-way", &[], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    let ben = stage.sign_in("ben").await;
    let (status, practice) = stage.api(Method::GET, "/practice", None, None).await;
    assert_eq!((status, &practice["open"], &practice["emergency"]), (200, &json!(null), &json!(EMERGENCY)));
    say(&ann, &anns, "is anybody there?").await;
    read(&murphy, &hub, "is anybody there?").await;
    assert_eq!(topic(&ann, &anns).await, EMERGENCY);

    // Open all day: nobody is told anything.
    let always = || vec!["00:00-24:00".to_owned()];
    let stage = changed(stage, |practice| {
        practice.hours = Some(Week {
            monday: always(),
            tuesday: always(),
            wednesday: always(),
            thursday: always(),
            friday: always(),
            saturday: always(),
            sunday: always(),
        });
    })
    .await;
    let (_, practice) = stage.api(Method::GET, "/practice", None, None).await;
    assert_eq!((&practice["open"], &practice["opens_at"]), (&json!(true), &json!(null)));
    say(&ann, &anns, "and now?").await;
    read(&murphy, &hub, "and now?").await;

    // Never open: once, in her room alone, and as an answer to what she wrote.
    let words = "Call 999, or go to the hospital.";
    let stage = changed(stage, |practice| {
        practice.hours = Some(Week::default());
        practice.emergency = Some(words.to_owned());
    })
    .await;
    let (_, practice) = stage.api(Method::GET, "/practice", None, None).await;
    assert_eq!((&practice["open"], &practice["emergency"]), (&json!(false), &json!(words)));
    let first = say(&ann, &anns, "my chest hurts").await;
    read(&murphy, &hub, "my chest hurts").await;
    let answer = ann.wait_for(&anns, LIMIT, |message| message.in_reply_to.as_ref() == Some(&first)).await;
    let answer = answer.expect("the bot's answer");
    assert!(answer.is_readable() && answer.body.ends_with(words), "{answer:?}");
    say(&ann, &anns, "still").await;
    read(&murphy, &hub, "still").await;
    let asked =
        murphy.reply(&hub, &read(&murphy, &hub, "still").await.event_id, "I am here").await.expect("sent");
    read(&ann, &anns, "I am here").await;
    assert_eq!(answers(&ann, &anns).await.len(), 1, "once for as long as it is closed");
    assert!(answers(&murphy, &hub).await.is_empty(), "staff know, whatever they write: {asked}");
    // Ben's picture waits for words, and so does what he would have written elsewhere: he hears of it all the same, once.
    let picture = ben.send_file(&bens, "m.image", "rash.jpg", &jpeg("GPS"), None).await.expect("sent");
    let is_answer = |m: &Message| m.in_reply_to.as_ref() == Some(&picture) && m.body.ends_with(words);
    assert!(ben.wait_for(&bens, LIMIT, is_answer).await.is_ok(), "the bot's answer");
    let place = send(&ben, &bens, "m.room.message", json!({ "msgtype": "m.location", "body": "here" })).await;
    assert!(refusal(&ben, &bens, &place).await.contains("(KIND-1)"));
    say(&ben, &bens, "a rash").await;
    read(&murphy, &hub, "a rash").await;
    say(&ben, &bens, "and it itches").await;
    read(&murphy, &hub, "and it itches").await;
    // And once more, when something has come.
    let answers = answers(&ben, &bens).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(!answers[0].contains("We have") && answers[1].starts_with("We have your message"), "{answers:?}");

    // Closed for another while it is told again, with the day on which the practice answers.
    let hour = (since_midnight() / 3600 + 12) % 24;
    let stage = changed(stage, |practice| {
        let span = || vec![format!("{hour:02}:00-{hour:02}:01")];
        practice.time_zone = Some("UTC".to_owned());
        practice.hours = Some(Week {
            monday: span(),
            tuesday: span(),
            wednesday: span(),
            thursday: span(),
            friday: span(),
            saturday: span(),
            sunday: span(),
        });
    })
    .await;
    let other = say(&ann, &anns, "still here").await;
    let answer = ann.wait_for(&anns, LIMIT, |message| message.in_reply_to.as_ref() == Some(&other)).await;
    let (answer, day) = (answer.expect("the bot's answer").body, format!("from {hour:02}:00"));
    assert!(answer.contains("will answer to") && answer.contains(&day), "today or tomorrow, {day}: {answer}");
    // Rooms that stood before have the new words.
    let deadline = Instant::now() + LIMIT;
    while topic(&ann, &anns).await != words {
        assert!(Instant::now() < deadline, "the words in the room are the old ones");
        sleep(std::time::Duration::from_millis(50)).await;
    }
    let stage = changed(stage, |practice| practice.emergency = None).await;
    let deadline = Instant::now() + LIMIT;
    while !topic(&ann, &anns).await.is_empty() {
        assert!(Instant::now() < deadline, "words that hold no longer stand in the room");
        sleep(std::time::Duration::from_millis(50)).await;
    }
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    stage.close().await;
}
