//! One of the two databases is put back from a copy, and the other has gone on.

use std::collections::BTreeSet;

use parlour::demo::client::{Client, Message, Reading, Shield};
use parlour_integration_tests::{LIMIT, proxy::Fate, read, refusal, say, trial::Trial, witness};
use ruma::RoomId;
use tokio::time::{Instant, timeout};

use super::told;
use crate::{
    backup::{Scene, back_up, of_others, scene},
    crash::PROGRAM,
};

/// The device that encrypted each message, by its sender.
fn devices(messages: &[Message]) -> BTreeSet<String> {
    messages.iter().filter(|m| m.is_readable()).map(|m| m.sender.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn database_restored_from_yesterday() {
    let Scene { mut trial, murphy, ann, talk } = scene(None).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let copy = trial.data.join("yesterday");
    back_up(&trial, &copy).await;

    // The world goes on: in the sessions that the copy knows, and in one that it does not.
    say(&murphy, &hub, "after").await;
    let after = read(&ann, &spoke, "after").await;
    ann.reply(&spoke, &after.event_id, "Ann after").await.expect("sent");
    read(&murphy, &hub, "Ann after").await;
    let room = murphy.matrix().get_room(&hub).expect("the hub");
    room.discard_room_key().await.expect("a new session");
    say(&murphy, &hub, "in a new session").await;
    read(&ann, &spoke, "in a new session").await;
    trial.quiet().await;

    // Only Parlour's file goes back, by hand; the homeserver has gone on.
    trial.kill_parlour().await;
    let database = trial.data.join("parlour").join("parlour.db");
    for end in ["-wal", "-shm"] {
        let mut name = database.clone().into_os_string();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
    std::fs::copy(copy.join("parlour.database"), &database).expect("put in place");
    // What is written before it is up again.
    let meanwhile = say(&murphy, &hub, "meanwhile").await;
    trial.start_parlour().await;

    // The sender of what cannot be read any more hears of it: delivered or not.
    let lost =
        murphy.wait_for(&hub, LIMIT * 3, |m| m.msgtype == "m.notice" && m.body.contains("(KEY-4)")).await;
    let seen: Vec<_> = murphy.messages(&hub).await.expect("messages").into_iter().map(|m| m.body).collect();
    let lost = lost
        .unwrap_or_else(|error| panic!("{error}: {seen:?}; {}", trial.last_words()))
        .in_reply_to
        .expect("about an event");
    let said = murphy.messages(&hub).await.expect("messages");
    let body = said.iter().find(|m| m.event_id == lost).map(|m| m.body.as_str());
    assert_eq!(body, Some("in a new session"));
    let told = refusal(&murphy, &hub, &meanwhile).await;
    assert!(told.contains("(KEY-1)"), "written to the device that is no more: {told}");

    // Everything goes on, with new devices that no client warns of, and nothing is doubled.
    say(&murphy, &hub, "again").await;
    let again = read(&ann, &spoke, "again").await;
    ann.reply(&spoke, &after.event_id, "Ann again").await.expect("sent");
    let answer = read(&murphy, &hub, "Ann again").await;
    let asked = read(&murphy, &hub, "after").await;
    assert_eq!(answer.in_reply_to, Some(asked.event_id), "what was said after the backup is known");
    assert!(matches!(&again.reading, Reading::Readable { lax, .. } if *lax == Shield::None));
    trial.quiet().await;
    assert_eq!(of_others(&ann, &spoke).await, ["before", "after", "in a new session", "again"]);
    assert_eq!(of_others(&murphy, &hub).await, ["Ann before", "Ann after", "Ann again"]);
    assert!(!devices(&said).is_empty());
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

async fn in_a_new_session(client: &Client, room: &RoomId, words: &str) {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await.expect("in the room");
    let known = client.matrix().get_room(room).expect("their room");
    known.discard_room_key().await.expect("a new session");
    say(client, room, words).await;
}

/// What somebody reads who was away all the time, and how many ciphertexts of others stand there.
async fn all_that_stands(client: &Client, room: &RoomId, wanted: &[&str]) {
    client.resume().await;
    assert_eq!(witness::others_words(client, room, wanted.len()).await, wanted);
    let mut counts = witness::ciphertexts(client, room).await;
    counts.remove(client.user_id().as_str());
    assert_eq!(counts.values().sum::<usize>(), wanted.len(), "each once: {counts:?}");
    assert_eq!(told(client, room).await, 0);
}

/// The homeserver alone is put back from a copy. It has forgotten what was said since, who a ghost is, whose one-time keys
/// are used and which room keys it had for whom.
async fn homeserver_goes_back(parlour_runs: bool) {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    let (murphy, kim) = (trial.sign_in("murphy", "first").await, trial.sign_in("kim", "first").await);
    let ann = trial.sign_in("ann", "first").await;
    let away = [trial.sign_in("murphy", "away").await, trial.sign_in("ann", "away").await];
    let talk = trial.begin(&murphy, "rebuilt", &["kim"], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(trial.person("ann")), talk.spoke(trial.person("ben")));
    for (client, room) in away.iter().zip([&hub, &anns]) {
        client.wait_for_room(LIMIT, |found| found.room_id == *room).await.expect("in the room");
        client.pause().await;
    }
    say(&murphy, &hub, "before").await;
    let before = read(&ann, &anns, "before").await;
    say(&ann, &anns, "Ann before").await;
    read(&murphy, &hub, "Ann before").await;
    trial.quiet().await;
    let copy = trial.data.join("copy");
    trial.kill_homeserver().await;
    trial.copy_homeserver(&copy);
    trial.start_homeserver().await;
    trial.messages_travel().await;

    // What it will have forgotten: words, sessions, Kim's ghost, Ben's device and the one-time keys that were taken.
    in_a_new_session(&murphy, &hub, "forgotten").await;
    read(&ann, &anns, "forgotten").await;
    say(&kim, &hub, "Kim, forgotten").await;
    read(&ann, &anns, "Kim, forgotten").await;
    in_a_new_session(&ann, &anns, "Ann, forgotten").await;
    read(&murphy, &hub, "Ann, forgotten").await;
    let ben = trial.sign_in("ben", "forgotten").await;
    read(&ben, &bens, "forgotten").await;
    say(&ben, &bens, "Ben, forgotten").await;
    read(&murphy, &hub, "Ben, forgotten").await;
    trial.quiet().await;
    ben.stop().await;

    if !parlour_runs {
        trial.kill_parlour().await;
    }
    trial.kill_homeserver().await;
    trial.put_homeserver_back(&copy);
    // Before Parlour has looked: the key waits in the bot's inbox. Synapse takes what stands in an inbox as read when
    // somebody asks from a place that it has not come to yet, so phones that are on ask before anything is sent to them.
    trial.to_homeserver.judge(|_, _| Fate::CutRequest);
    let news = [&murphy, &kim, &ann].map(Client::updates);
    trial.start_homeserver().await;
    for mut news in news {
        timeout(LIMIT, news.changed()).await.expect("in time").expect("it syncs");
    }
    in_a_new_session(&murphy, &hub, "meanwhile").await;
    trial.to_homeserver.pass_all();
    let open = Instant::now();
    if !parlour_runs {
        trial.start_parlour().await;
    }
    read(&ann, &anns, "meanwhile").await;
    println!("after the homeserver went back, the first message was there in {:?}", open.elapsed());
    in_a_new_session(&ann, &anns, "Ann after").await;
    read(&murphy, &hub, "Ann after").await;
    // Her client does not know that the homeserver has lost its key for Dr Murphy's phone that was off.
    in_a_new_session(&kim, &hub, "Kim after").await;
    read(&ann, &anns, "Kim after").await;
    say(&murphy, &hub, "Murphy after").await;
    read(&ann, &anns, "Murphy after").await;
    // Who signs in now is given the one-time keys that were taken already, unless they are published anew.
    let ben = trial.sign_in("ben", "late").await;
    say(&ben, &bens, "Ben after").await;
    read(&murphy, &hub, "Ben after").await;
    say(&kim, &hub, "Kim to Ben, too").await;
    read(&ben, &bens, "Kim to Ben, too").await;
    ann.reply(&anns, &before.event_id, "Ann answers").await.expect("sent");
    let answer = read(&murphy, &hub, "Ann answers").await;
    assert!(answer.in_reply_to.is_some(), "what it answers is known");
    trial.quiet().await;

    let [murphys, anns_away] = &away;
    all_that_stands(
        anns_away,
        &anns,
        &["before", "meanwhile", "Kim after", "Murphy after", "Kim to Ben, too"],
    )
    .await;
    let others = ["Ann before", "Ann after", "Kim after", "Ben after", "Kim to Ben, too", "Ann answers"];
    all_that_stands(murphys, &hub, &others).await;
    let log = trial.log();
    assert_eq!(log.matches("put back from a copy").count(), 1, "the operator is told: {log}");
    for client in away.into_iter().chain([murphy, kim, ann, ben]) {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_database_rebuilt() {
    homeserver_goes_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_database_rebuilt_while_parlour_is_down() {
    homeserver_goes_back(false).await;
}
