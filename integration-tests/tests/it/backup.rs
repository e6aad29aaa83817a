//! Backup and restore: a copy made while everything runs, and what happens when it is put in place of what has gone on.

use std::{collections::BTreeSet, path::Path, process::Output};

use parlour::demo::client::{Client, Message};
use parlour_integration_tests::{LIMIT, Talk, read, refusal, say, trial::Trial};
use ruma::RoomId;
use tokio::process::Command;

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");

async fn parlour(trial: &Trial, arguments: &[&str]) -> Output {
    let mut command = Command::new(PARLOUR);
    command.args(arguments).arg("--config").arg(trial.data.join("parlour.toml"));
    command.output().await.expect("it runs")
}

fn words(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

pub(crate) async fn back_up(trial: &Trial, to: &Path) {
    let output = parlour(trial, &["backup", "--to", to.to_str().expect("a name")]).await;
    assert!(output.status.success(), "{}", words(&output));
    println!("{}", words(&output));
}

/// What stands in a room of somebody else's words, in order.
async fn of_others(client: &Client, room: &RoomId) -> Vec<String> {
    let messages = client.history(room, 200).await.expect("the room");
    let others = messages.into_iter().filter(|m| m.sender != client.user_id() && m.msgtype == "m.text");
    others.map(|message| message.body).collect()
}

/// The device that encrypted each message, by its sender.
fn devices(messages: &[Message]) -> BTreeSet<String> {
    messages.iter().filter(|m| m.is_readable()).map(|m| m.sender.to_string()).collect()
}

struct Scene {
    trial: Trial,
    murphy: Client,
    ann: Client,
    talk: Talk,
}

async fn scene(database: Option<String>) -> Scene {
    let trial = Trial::open(PARLOUR, database, 0, None).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "backup", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    say(&ann, &spoke, "Ann before").await;
    read(&murphy, &hub, "Ann before").await;
    Scene { trial, murphy, ann, talk }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_yesterday_doubles_nothing_and_loses_nothing_that_can_be_read() {
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
    assert!(
        matches!(&again.reading, parlour::demo::client::Reading::Readable { lax, .. } if *lax == parlour::demo::client::Shield::None)
    );
    trial.quiet().await;
    assert_eq!(of_others(&ann, &spoke).await, ["before", "after", "in a new session", "again"]);
    assert_eq!(of_others(&murphy, &hub).await, ["Ann before", "Ann after", "Ann again"]);
    assert!(!devices(&said).is_empty());
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// The whole drill: everything is put back from a backup, homeserver included.
async fn drill(database: Option<String>) {
    let Scene { mut trial, murphy, ann, talk } = scene(database).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    // Phones that were off since before the backup: they know nothing of what is undone.
    let (murphys, anns) = (trial.sign_in("murphy", "second").await, trial.sign_in("ann", "second").await);
    for (client, room) in [(&murphys, &hub), (&anns, &spoke)] {
        client.wait_for_room(LIMIT, |found| found.room_id == *room).await.expect("in the room");
        client.pause().await;
    }
    say(&murphy, &hub, "last words").await;
    read(&ann, &spoke, "last words").await;
    trial.quiet().await;
    let copy = trial.data.join("copy");
    back_up(&trial, &copy).await;
    say(&murphy, &hub, "undone").await;
    read(&ann, &spoke, "undone").await;
    for client in [murphy, ann] {
        client.stop().await;
    }

    let from = copy.to_str().expect("a name").to_owned();
    let output = parlour(&trial, &["restore", "--from", &from]).await;
    assert!(!output.status.success() && words(&output).contains("stop it"), "{}", words(&output));
    trial.kill_parlour().await;
    trial.kill_homeserver().await;
    let output = parlour(&trial, &["restore", "--from", &from]).await;
    assert!(output.status.success(), "{}", words(&output));
    println!("{}", words(&output));
    trial.start_homeserver().await;
    trial.start_parlour().await;

    let bot = ruma::UserId::parse("@_parlour_bot:demo.parlour.local").expect("a user id");
    for client in [&murphys, &anns] {
        let mut updates = client.updates();
        client.resume().await;
        updates.changed().await.expect("it syncs");
        // Whoever writes before their client has heard of the bot's new device is told to send it again (KEY-1).
        client.matrix().encryption().request_user_identity(&bot).await.expect("asked");
    }
    say(&murphys, &hub, "and on").await;
    let on = read(&anns, &spoke, "and on").await;
    anns.reply(&spoke, &on.event_id, "Ann goes on").await.expect("sent");
    read(&murphys, &hub, "Ann goes on").await;
    let seen = of_others(&anns, &spoke).await;
    assert!(seen.ends_with(&["last words".to_owned(), "and on".to_owned()]), "{seen:?}");
    assert!(of_others(&murphys, &hub).await.ends_with(&["Ann goes on".to_owned()]));

    // A backup that was touched is not taken.
    let damaged = copy.join("parlour.database");
    let mut bytes = std::fs::read(&damaged).expect("the copy");
    bytes[200] ^= 1;
    std::fs::write(&damaged, bytes).expect("damaged");
    let output = parlour(&trial, &["restore", "--from", &from]).await;
    assert!(!output.status.success() && words(&output).contains("parlour.database"), "{}", words(&output));
    for client in [murphys, anns] {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_comes_back_from_its_backup() {
    drill(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_on_postgresql_comes_back_from_its_backup() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        drill(Some(postgres.create_database().expect("a database"))).await;
    }
}
