//! A patient reads what was written to them. Wherever Parlour ends meanwhile, it is known soon after the next start, once, and
//! staff see it in their room.

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Talk, books::Books, proxy::Fate, read, say, trial::Trial};
use tokio::time::{Duration, Instant, sleep};

use super::{Killed, Scene, places_of, practice};
use crate::{
    cut::{all_are_cut, cut_for},
    reading::receipts,
};

const LOOK: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_is_read_forgets_nobody_on_sqlite() {
    reading(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_is_read_forgets_nobody_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        reading(Some(postgres.create_database().expect("a database"))).await;
    }
}

async fn reading(database: Option<String>) {
    let begun = Instant::now();
    let mut trial = practice(database.clone(), 0).await;
    let books = Books::of(&trial.data, database.as_deref());
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "read", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let mut killed = Killed::default();
    let places = places_of(Scene::Reading);
    for (number, place) in places.iter().chain([&"cut".to_owned()]).enumerate() {
        let words = format!("before {place}");
        let own = say(&murphy, &hub, &words).await;
        let theirs = read(&ann, &spoke, &words).await.event_id;
        trial.quiet().await;
        if place == "cut" {
            let plans = cut_for(Scene::Reading, [Fate::CutAnswer, Fate::CutRequest], &trial);
            ann.read(&spoke, &theirs).await.expect("a receipt is taken");
            is_read(&trial, &books, &murphy, &talk, &own, number + 1).await;
            // The second is cut at the next receipt.
            all_are_cut(&plans, &trial).await;
        } else {
            let reads = async |_: &Trial| ann.read(&spoke, &theirs).await.expect("a receipt is taken");
            killed.during(&mut trial, place, reads).await;
            trial.start_parlour().await;
        }
        is_read(&trial, &books, &murphy, &talk, &own, number + 1).await;
    }
    killed.is_all_of(Scene::Reading);
    println!("{}: {:.1} s", books.name(), begun.elapsed().as_secs_f64());
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// Waits until so many messages were read, and the last of them is shown so in the hub.
async fn is_read(
    trial: &Trial,
    books: &Books,
    murphy: &Client,
    talk: &Talk,
    event: &ruma::EventId,
    count: usize,
) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let reads = books.number("SELECT COUNT(*) FROM reads").await;
        let due = books.number("SELECT COUNT(*) FROM receipts_due").await;
        let seen = receipts(murphy, &talk.hub()).await;
        let is_shown =
            seen.iter().any(|(id, user, _)| id == event.as_str() && user.starts_with("@_parlour_"));
        if usize::try_from(reads) == Ok(count) && due == 0 && is_shown {
            return;
        }
        assert!(Instant::now() < deadline, "{reads} of {count}, {due} due: {seen:?}; {}", trial.last_words());
        sleep(LOOK).await;
    }
}
