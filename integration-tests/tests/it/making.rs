//! `kill -9` while a conversation, its rooms and a new ghost are made: it is complete soon after the next start, and neither
//! an account nor a room stands twice on the homeserver.
//!
//! Killed at are the first, the middle and the last passage of each commit point. What Parlour does beside it when it is time
//! for that is killed at where it comes; all others have to be.

use std::{collections::BTreeSet, time::Duration};

use parlour::demo::{client::Client, talk};
use parlour_integration_tests::{LIMIT, Talk, books::Books, read, say, token, trial::Trial};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::time::{Instant, sleep};

use crate::{
    crash::{Kills, PROGRAM, Record},
    killed::{Killed, Scene, places_of},
};

/// More than there are kills; each needs a new patient, whose ghost is new.
const PATIENTS: usize = 200;
const LOOK: Duration = Duration::from_millis(20);
/// How often a point is tried that was in another place each time.
const ATTEMPTS: usize = 3;
/// What Parlour does beside it when it is time for that: looking into inboxes, asking what came by no transaction, and who was
/// seen.
const BY_THE_CLOCK: [&str; 4] = ["hs.read-inbox", "db.caught-up", "hs.read-seen", "db.devices-known"];
/// From the start of the process until the conversation is complete, where a room may still be in the making.
const LONGEST_RECOVERY: Duration = Duration::from_secs(15);
/// In a spoke the patient, in a hub the member of staff; the bot; the other's ghost.
const MEMBERS: i64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_conversation_is_made_leaves_nothing_half_made_and_nothing_twice() {
    let mut trial = Trial::open(PROGRAM, None, PATIENTS, None).await;
    let books = Books::of(&trial.data, None);
    let murphy = trial.sign_in("murphy", "first").await;
    let mut patients = (1..=PATIENTS).map(|number| format!("number{number}"));
    let mut next = || patients.next().expect("another patient");
    // Everything that is made once for all is there.
    let mut made = vec![begin(&trial, &murphy, &next()).await];

    let patient = next();
    trial.kill_parlour().await;
    trial.start_parlour().await;
    trial.order("record").await;
    made.push(begin(&trial, &murphy, &patient).await);
    books.still().await;
    let record = Record::of(&trial.order("recorded").await);

    let mut kills = Kills::default();
    for place in ["before", "after"]
        .iter()
        .flat_map(|side| record.chosen().into_iter().map(move |at| format!("{side} {at}")))
    {
        made.push(kill(&mut trial, &books, &murphy, &next(), &place, &mut kills).await);
    }
    // One run goes through them in another order than the next.
    let recorded = record.points.iter().filter(|point| !BY_THE_CLOCK.contains(&point.as_str()));
    let recorded = recorded.flat_map(|point| ["before", "after"].map(|side| format!("{side} {point}")));
    let places: BTreeSet<_> = recorded.chain(places_of(Scene::Making)).collect();
    for place in &places {
        for _ in 0..ATTEMPTS {
            if !kills.at.contains_key(place) {
                made.push(
                    kill(&mut trial, &books, &murphy, &next(), &format!("{place} 1"), &mut kills).await,
                );
            }
        }
    }
    println!("a conversation with a new patient: n = {}; {kills}", record.points.len());
    println!("  points: {}", record.points.join(" "));
    println!("  killed: {:?}", kills.at);
    for place in &places {
        assert!(kills.at.contains_key(place), "never {place}: {:?}", kills.at);
    }
    Killed::at(kills.at.keys()).is_all_of(Scene::Making);

    books.still().await;
    nothing_is_twice(&trial, i64::try_from(made.len()).expect("a number")).await;
    // They are not only there: what is said in them arrives.
    for (patient, talk) in made.iter().step_by(12) {
        let client = trial.sign_in(patient, "first").await;
        let spoke = talk.spoke(trial.person(patient));
        say(&murphy, &talk.hub(), "hello").await;
        read(&client, &spoke, "hello").await;
        say(&client, &spoke, "good morning").await;
        read(&murphy, &talk.hub(), "good morning").await;
        client.stop().await;
    }
    murphy.stop().await;
    trial.close().await;
}

/// Kills while a conversation with a new patient is made, and starts again; the conversation.
async fn kill(
    trial: &mut Trial,
    books: &Books,
    murphy: &Client,
    patient: &str,
    place: &str,
    kills: &mut Kills,
) -> (String, Talk) {
    trial.kill_parlour().await;
    trial.start_parlour().await;
    trial.order(&format!("end {place}")).await;
    let asked = talk::begin(&trial.public_url(), murphy, &wanted(trial, patient)).await;
    if asked.is_ok() {
        let url = trial.public_url();
        let everything = async {
            until_ready(&url, murphy, patient).await;
            // What follows is taken in: that people have come into the rooms.
            books.still().await;
        };
        tokio::select! {
            _ = trial.parlour_ends(LIMIT) => {}
            () = everything => {}
        }
    }
    if trial.order_if_it_runs("recorded").await.is_some() {
        kills.unharmed += 1;
        return complete(trial, murphy, patient).await;
    }
    assert!(trial.parlour_ends(LIMIT).await, "it ends");
    let at = trial.ended_at().unwrap_or_else(|| panic!("{place}: {}", trial.last_words()));
    let begun = Instant::now();
    trial.start_parlour().await;
    // Where it was not written down yet, whoever asked has heard no yes, and asks again.
    let made = match found(trial, murphy, patient).await {
        Some(_) => complete(trial, murphy, patient).await,
        None => begin(trial, murphy, patient).await,
    };
    let recovery = begun.elapsed();
    assert!(recovery <= LONGEST_RECOVERY, "{at}: {recovery:?}: {}", trial.last_words());
    kills.count(at, recovery);
    made
}

fn wanted(trial: &Trial, patient: &str) -> Value {
    json!({ "name": patient, "mode": "two-way", "patients": [trial.person(patient).user_id] })
}

async fn begin(trial: &Trial, murphy: &Client, patient: &str) -> (String, Talk) {
    let told = talk::begin(&trial.public_url(), murphy, &wanted(trial, patient)).await;
    told.unwrap_or_else(|error| panic!("{patient}: {error}"));
    complete(trial, murphy, patient).await
}

/// The conversation with a patient, once it is complete.
async fn complete(trial: &Trial, murphy: &Client, patient: &str) -> (String, Talk) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let told = found(trial, murphy, patient).await.expect("it was begun");
        if told["ready"] == true {
            return (patient.to_owned(), Talk { told });
        }
        assert!(Instant::now() < deadline, "{patient}: {told}: {}", trial.last_words());
        sleep(LOOK).await;
    }
}

/// Waits until the conversation with a patient is complete, for as long as that takes.
async fn until_ready(url: &str, murphy: &Client, patient: &str) {
    while asked(url, murphy, patient).await.ok().flatten().is_none_or(|told| told["ready"] != true) {
        sleep(LOOK).await;
    }
}

async fn found(trial: &Trial, murphy: &Client, patient: &str) -> Option<Value> {
    asked(&trial.public_url(), murphy, patient).await.expect("an answer")
}

/// The conversation with a patient as its owner is told of it; there are never two.
async fn asked(url: &str, murphy: &Client, patient: &str) -> reqwest::Result<Option<Value>> {
    let url = format!("{url}/_parlour/v1/conversations");
    let all: Value = reqwest::Client::new().get(url).bearer_auth(token(murphy)).send().await?.json().await?;
    let all = all["conversations"].as_array().expect("conversations");
    let same: Vec<_> = all.iter().filter(|conversation| conversation["name"] == patient).collect();
    assert!(same.len() < 2, "{same:?}");
    Ok(same.first().map(|told| (*told).clone()))
}

/// By the homeserver's own database: two rooms a conversation, each with its members; one account a patient's ghost, and
/// those of the owner's ghost and the bot.
async fn nothing_is_twice(trial: &Trial, conversations: i64) {
    let url = format!("sqlite://{}?mode=ro", trial.homeserver_database().display());
    let mut connection = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
    let rooms: Vec<(String, i64)> = sqlx::query_as(
        "SELECT room_id, COUNT(*) FROM local_current_membership WHERE membership = 'join' GROUP BY room_id",
    )
    .fetch_all(&mut connection)
    .await
    .expect("rooms");
    let (whole, other): (Vec<_>, Vec<_>) = rooms.into_iter().partition(|(_, members)| *members == MEMBERS);
    assert_eq!(i64::try_from(whole.len()), Ok(2 * conversations), "rooms; {other:?}");
    assert!(other.is_empty(), "rooms that belong to no conversation: {other:?}");
    let ghosts: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM users WHERE name LIKE '@\\_parlour\\_%' ESCAPE '\\'
         AND name IN (SELECT user_id FROM devices)",
    )
    .fetch_all(&mut connection)
    .await
    .expect("accounts");
    connection.close().await.expect("closed");
    assert_eq!(i64::try_from(ghosts.len()), Ok(conversations + 2), "accounts with a device: {ghosts:?}");
}
