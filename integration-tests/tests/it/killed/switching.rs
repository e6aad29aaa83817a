//! A conversation becomes one-way, and two-way again. Whenever Parlour ends meanwhile, all rooms are switched soon after the
//! next start, the bot has said so once in each, and nothing that was said is lost.

use parlour::demo::client::Client;
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, proxy::Fate, read, requests::point_of, room_path, say, token,
    trial::Trial, witness,
};
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Killed, Scene, places_of, practice};
use crate::cut::{all_are_cut, cut_for};

const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
const MODES: [&str; 2] = ["one-way", "two-way"];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_conversation_is_switched_leaves_no_room_behind_on_sqlite() {
    switching(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_conversation_is_switched_leaves_no_room_behind_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        switching(Some(postgres.create_database().expect("a database"))).await;
    }
}

/// A room that was made before the conversation was switched, and that nobody has heard of since, is switched as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_whose_making_was_not_answered_is_switched_too() {
    let mut trial = practice(None, 0).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    let patients = [trial.person("ann").user_id.clone()];
    let wanted = json!({ "name": "made before", "mode": "two-way", "patients": patients });
    trial.order("end after hs.create-room 1").await;
    let answer = caller.begin(&wanted, Some("key")).await;
    assert!(trial.parlour_ends(LIMIT).await, "{answer:?}: {}", trial.last_words());
    // Whether the room stands cannot be found out for now.
    trial.to_homeserver.judge(|method, path| match point_of(method, path) {
        Some(CommitPoint::ReadRooms) => Fate::Answer(502, "{}"),
        _ => Fate::Pass,
    });
    trial.start_parlour().await;
    let (_, told) = caller.begin(&wanted, Some("key")).await.expect("an answer");
    let talk = Talk { told };
    assert_eq!(talk.told["ready"], false, "{}", talk.told);
    assert_eq!(ask(&trial, &murphy, &talk, "one-way").await, Some(202), "rooms are in the making");
    trial.to_homeserver.pass_all();
    let talk = Talk { told: caller.made(talk.id()).await };
    let books = Books::of(&trial.data, None);
    is_switched(&trial, &books, &talk, "one-way", "made before").await;
    let path = room_path(&talk.spoke(trial.person("ann")), "send/m.room.encrypted/x");
    let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let (status, _) = ann.http().call(Method::PUT, &path, Some(body)).await.expect("an answer");
    assert_eq!(status, 403);
    assert_eq!(ask(&trial, &murphy, &talk, "one-way").await, Some(200));
    // It is said once in each room: of the one that was made before, that it is so from now on; of the other, that it is so.
    trial.quiet().await;
    for (client, room, said) in [
        (&ann, talk.spoke(trial.person("ann")), "writes in this conversation"),
        (&murphy, talk.hub(), "Responses are switched off"),
    ] {
        let told = client.wait_for(&room, LIMIT, |message| message.body.contains(said)).await;
        told.unwrap_or_else(|error| panic!("{said}: {error}"));
        let seen = client.messages(&room).await.expect("messages");
        assert_eq!(seen.iter().filter(|message| message.body.contains(said)).count(), 1, "{seen:?}");
    }
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

async fn switching(database: Option<String>) {
    let begun = Instant::now();
    let mut trial = practice(database.clone(), 0).await;
    let books = Books::of(&trial.data, database.as_deref());
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let fresh = trial.sign_in("ann", "fresh").await;
    fresh.pause().await;
    let talk = trial.begin(&murphy, "switched", &[], &["ann"]).await;
    let mut killed = Killed::default();
    let mut said = Vec::new();
    let places = places_of(Scene::Switching);
    for (number, place) in places.iter().chain([&"cut".to_owned()]).enumerate() {
        let mode = MODES[number % 2];
        let words = format!("before {place}");
        say(&murphy, &talk.hub(), &words).await;
        said.push(words);
        if place == "cut" {
            requests_are_cut(&trial, &murphy, &talk, mode).await;
        } else {
            let asks = async |trial: &Trial| {
                ask(trial, &murphy, &talk, mode).await;
            };
            killed.during(&mut trial, place, asks).await;
            trial.start_parlour().await;
            if place == "before db.mode-kept" {
                // Nobody has heard that it would be done: whoever asked asks again.
                ask(&trial, &murphy, &talk, mode).await;
            }
        }
        is_switched(&trial, &books, &talk, mode, place).await;
        // In the room as it is for everybody.
        let path = room_path(&talk.spoke(trial.person("ann")), "send/m.room.encrypted/x");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        if mode == "one-way" {
            let (status, _) = ann.http().call(Method::PUT, &path, Some(body)).await.expect("an answer");
            assert_eq!(status, 403, "{place}");
        }
        trial.quiet().await;
        let told = books.number("SELECT COUNT(*) FROM ledger WHERE what = 'mode'").await;
        let wanted = i64::try_from(talk.rooms().len() * (number + 1)).expect("a number");
        assert_eq!(told, wanted, "{place}: each room is switched once");
    }
    killed.is_all_of(Scene::Switching);
    let spoke = talk.spoke(trial.person("ann"));
    read(&ann, &spoke, said.last().expect("words")).await;
    fresh.resume().await;
    assert_eq!(witness::others_words(&fresh, &spoke, said.len()).await, said);
    // Dr Murphy's words, and the bot's: once for each switch.
    let counts: Vec<_> = witness::ciphertexts(&fresh, &spoke).await.into_values().collect();
    assert_eq!(counts, [said.len(); 2]);
    println!("{}: {:.1} s", books.name(), begun.elapsed().as_secs_f64());
    for client in [murphy, ann, fresh] {
        client.stop().await;
    }
    trial.close().await;
}

/// Asks for a mode; nobody may hear the answer. Its status.
async fn ask(trial: &Trial, murphy: &Client, talk: &Talk, mode: &str) -> Option<u16> {
    let caller = Caller::new(&trial.public_url(), &token(murphy));
    caller.switch(talk.id(), mode).await.map(|(status, _)| status)
}

async fn is_switched(trial: &Trial, books: &Books, talk: &Talk, mode: &'static str, place: &str) {
    let sql = match mode {
        "one-way" => "SELECT COUNT(*) FROM portals WHERE mode = 'one-way' AND revision_set = revision",
        _ => "SELECT COUNT(*) FROM portals WHERE mode = 'two-way' AND revision_set = revision",
    };
    let deadline = Instant::now() + LIMIT;
    while books.number(sql).await < i64::try_from(talk.rooms().len()).expect("a number") {
        assert!(Instant::now() < deadline, "{place}: {}", trial.last_words());
        sleep(LOOK).await;
    }
}

async fn requests_are_cut(trial: &Trial, murphy: &Client, talk: &Talk, mode: &str) {
    let plans = cut_for(Scene::Switching, [Fate::CutAnswer, Fate::CutRequest], trial);
    ask(trial, murphy, talk, mode).await;
    all_are_cut(&plans, trial).await;
}
