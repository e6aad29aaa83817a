//! People are excluded and included again. Whenever Parlour ends meanwhile, their rooms are closed to them soon after the next
//! start, nothing of what is said then reaches them, and nothing that was said before is lost.

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, proxy::Fate, read, room_path, say, token, trial::Trial, witness,
};
use reqwest::Method;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use super::{Killed, Scene, places_of, practice};
use crate::cut::{Plan, cut_for};

const LOOK: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_somebody_is_excluded_leaves_no_room_open_on_sqlite() {
    taking_part(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_somebody_is_excluded_leaves_no_room_open_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        taking_part(Some(postgres.create_database().expect("a database"))).await;
    }
}

async fn taking_part(database: Option<String>) {
    let begun = Instant::now();
    let mut trial = practice(database.clone(), 0).await;
    let books = Books::of(&trial.data, database.as_deref());
    let (murphy, kim) = (trial.sign_in("murphy", "first").await, trial.sign_in("kim", "first").await);
    let ann = trial.sign_in("ann", "first").await;
    let fresh = trial.sign_in("ann", "fresh").await;
    fresh.pause().await;
    let talk = trial.begin(&murphy, "taking part", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let mut killed = Killed::default();
    let (mut said, mut anns, mut plans) = (Vec::new(), 0, Vec::new());
    let places = places_of(Scene::TakingPart);
    for (number, place) in places.iter().chain([&"cut".to_owned()]).enumerate() {
        let words = format!("before {place}");
        say(&murphy, &hub, &words).await;
        read(&ann, &spoke, &words).await;
        said.push(words);
        let (whom, client, room) = match place.contains("participants-kept") {
            true => ("ann", &ann, &spoke),
            false => ("kim", &kim, &hub),
        };
        let comes_back = place.contains("hs.invite");
        if place == "cut" {
            plans = cut_for(Scene::TakingPart, [Fate::CutRequest, Fate::CutAnswer], &trial);
        }
        if comes_back || place == "cut" {
            change(&trial, &murphy, &talk, whom, "excluded").await;
        } else {
            let asks = async |trial: &Trial| {
                change(trial, &murphy, &talk, whom, "excluded").await;
            };
            killed.during(&mut trial, place, asks).await;
            trial.start_parlour().await;
            if place == "before db.participants-kept" {
                // Nobody has heard that it would be done: whoever asked asks again.
                change(&trial, &murphy, &talk, whom, "excluded").await;
            }
        }
        are_set(&trial, &books, 2, place).await;
        let path = room_path(room, "send/m.room.encrypted/x");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let (status, _) = client.http().call(Method::PUT, &path, Some(body)).await.expect("an answer");
        assert_eq!(status, 403, "{place}");
        let away = format!("while {whom} is away, {place}");
        say(&murphy, &hub, &away).await;
        if whom == "ann" {
            anns += 1;
            read(&kim, &hub, &away).await;
        } else {
            read(&ann, &spoke, &away).await;
            said.push(away);
        }
        trial.quiet().await;
        if comes_back {
            let asks = async |trial: &Trial| {
                change(trial, &murphy, &talk, whom, "included").await;
            };
            killed.during(&mut trial, place, asks).await;
            trial.start_parlour().await;
        } else {
            change(&trial, &murphy, &talk, whom, "included").await;
        }
        are_set(&trial, &books, 3, place).await;
        if whom == "kim" {
            kim.accept(&hub, LIMIT).await.expect("invited");
        }
        for what in ["excluded", "included"] {
            let sql = format!("SELECT COUNT(*) FROM ledger WHERE what = '{what}'");
            let count = books.number(&sql).await;
            assert_eq!(count, i64::try_from(number + 1).expect("a number"), "{place}: {what} once each time");
        }
    }
    killed.is_all_of(Scene::TakingPart);
    assert!(plans.iter().all(Plan::is_done), "{plans:?}");
    trial.to_homeserver.pass_all();
    say(&kim, &hub, "Kim is back").await;
    read(&ann, &spoke, "Kim is back").await;
    said.push("Kim is back".to_owned());
    trial.quiet().await;
    fresh.resume().await;
    assert_eq!(witness::others_words(&fresh, &spoke, said.len()).await, said);
    // The bot's words each time that Ann went and came back: that she does not take part, that she does, that she may write.
    let mut counts: Vec<_> = witness::ciphertexts(&fresh, &spoke).await.into_values().collect();
    counts.sort_unstable();
    let mut wanted = [1, said.len() - 1, 3 * anns];
    wanted.sort_unstable();
    assert_eq!(counts, wanted);
    println!("{}: {:.1} s", books.name(), begun.elapsed().as_secs_f64());
    for client in [murphy, kim, ann, fresh] {
        client.stop().await;
    }
    trial.close().await;
}

/// Asks that somebody goes or comes; nobody may hear the answer.
async fn change(trial: &Trial, murphy: &Client, talk: &Talk, whom: &str, how: &str) {
    let caller = Caller::new(&trial.public_url(), &token(murphy));
    let user_id = &trial.person(whom).user_id;
    match how {
        "excluded" => drop(caller.exclude(talk.id(), user_id).await),
        _ => drop(caller.include(talk.id(), user_id).await),
    }
}

/// Waits until so many people take part, and all rooms are as they are to be.
async fn are_set(trial: &Trial, books: &Books, people: i64, place: &str) {
    let sql = "SELECT COUNT(*) + 100 * (SELECT COUNT(*) FROM portals WHERE revision_set < revision) FROM participants";
    let deadline = Instant::now() + LIMIT;
    while books.number(sql).await != people {
        assert!(Instant::now() < deadline, "{place}: {}", trial.last_words());
        sleep(LOOK).await;
    }
}
