//! Backup and restore: a copy made while everything runs, and everything put back from it. Only one of the two databases put
//! back: `production/going_back.rs`.

use std::{path::Path, process::Output};

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk, crowd::Caller, read, room_path, say, token, trial::Trial, witness,
};
use reqwest::Method;
use ruma::RoomId;
use serde_json::json;
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
pub(crate) async fn of_others(client: &Client, room: &RoomId) -> Vec<String> {
    let messages = client.history(room, 200).await.expect("the room");
    let others = messages.into_iter().filter(|m| m.sender != client.user_id() && m.msgtype == "m.text");
    others.map(|message| message.body).collect()
}

pub(crate) struct Scene {
    pub(crate) trial: Trial,
    pub(crate) murphy: Client,
    pub(crate) ann: Client,
    pub(crate) talk: Talk,
}

pub(crate) async fn scene(database: Option<String>) -> Scene {
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

/// Whoever was excluded after the backup that was put in place stays so, and whoever was included: the rooms tell.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_part_is_not_undone_by_a_backup() {
    let mut trial = Trial::open(PARLOUR, None, 0, None).await;
    let (murphy, kim) = (trial.sign_in("murphy", "first").await, trial.sign_in("kim", "first").await);
    let sam = trial.sign_in("sam", "first").await;
    let (ann, ben) = (trial.sign_in("ann", "first").await, trial.sign_in("ben", "first").await);
    let talk = trial.begin(&murphy, "people", &["kim"], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(trial.person("ann")), talk.spoke(trial.person("ben")));
    say(&kim, &hub, "before").await;
    read(&ann, &anns, "before").await;
    read(&ben, &bens, "before").await;
    trial.quiet().await;
    let copy = trial.data.join("copy");
    back_up(&trial, &copy).await;
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    for name in ["kim", "ben"] {
        let (status, told) = caller.exclude(talk.id(), &trial.person(name).user_id).await.expect("an answer");
        assert_eq!(status, 200, "{told}");
    }
    let (status, told) = caller.include(talk.id(), &trial.person("sam").user_id).await.expect("an answer");
    assert_eq!(status, 200, "{told}");
    sam.accept(&hub, LIMIT).await.expect("invited");
    say(&sam, &hub, "Sam is here").await;
    read(&ann, &anns, "Sam is here").await;
    trial.quiet().await;

    trial.kill_parlour().await;
    let file = trial.data.join("parlour").join("parlour.db");
    for end in ["-wal", "-shm"] {
        let mut beside = file.clone().into_os_string();
        beside.push(end);
        drop(std::fs::remove_file(beside));
    }
    std::fs::copy(copy.join("parlour.database"), &file).expect("put in place");
    // Other words for emergencies, since: all rooms are to be set anew, which must hide nothing of what they tell.
    let config = trial.data.join("parlour.toml");
    let told = std::fs::read_to_string(&config).expect("the configuration");
    let otherwise = told.replace("emergency = \"In", "emergency = \"Now: in");
    assert_ne!(told, otherwise);
    std::fs::write(&config, otherwise).expect("written");
    trial.start_parlour().await;
    let bot = ruma::UserId::parse("@_parlour_bot:demo.parlour.local").expect("a user id");
    for client in [&murphy, &sam, &ann] {
        client.matrix().encryption().request_user_identity(&bot).await.expect("asked");
    }
    let told = caller.one(talk.id()).await;
    let ids = |list: &str| {
        let people = told[list].as_array().expect("people").iter();
        people.map(|person| person["user_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    let id = |name: &str| trial.person(name).user_id.to_string();
    assert_eq!(ids("staff"), [id("murphy"), id("sam")], "{told}");
    assert_eq!((ids("patients"), ids("former_patients")), (vec![id("ann")], vec![id("ben")]), "{told}");
    say(&murphy, &hub, "after it").await;
    read(&ann, &anns, "after it").await;
    read(&sam, &hub, "after it").await;
    say(&ann, &anns, "yes").await;
    read(&murphy, &hub, "yes").await;
    for (client, room) in [(&kim, &hub), (&ben, &bens)] {
        let path = room_path(room, "send/m.room.encrypted/x");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let (status, _) = client.http().call(Method::PUT, &path, Some(body)).await.expect("an answer");
        assert_eq!(status, 403);
    }
    assert_eq!(witness::others_words(&ben, &bens, 1).await, ["before"]);
    for client in [murphy, kim, sam, ann, ben] {
        client.stop().await;
    }
    trial.close().await;
}
