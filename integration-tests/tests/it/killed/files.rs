//! Files are looked at. Whenever Parlour ends meanwhile, file and words arrive once, in order, and the file without what its pixels
//! do not show.

use parlour_integration_tests::{books::Books, proxy::Fate, read, say, trial::Trial, witness};
use tokio::time::Instant;

use super::{Killed, Scene, places_of, practice};
use crate::{
    cut::{all_are_cut, cut_for},
    files::photo,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_file_is_looked_at_loses_and_doubles_nothing_on_sqlite() {
    files(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_file_is_looked_at_loses_and_doubles_nothing_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        files(Some(postgres.create_database().expect("a database"))).await;
    }
}

async fn files(database: Option<String>) {
    let begun = Instant::now();
    let mut trial = practice(database.clone(), 0).await;
    let books = Books::of(&trial.data, database.as_deref());
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let fresh = trial.sign_in("murphy", "fresh").await;
    fresh.pause().await;
    let talk = trial.begin(&murphy, "files", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    let (mut killed, mut said) = (Killed::default(), Vec::new());
    for place in places_of(Scene::Files).iter().chain([&"cut".to_owned()]) {
        let name = format!("{place}.jpg");
        ann.send_file(&spoke, "m.image", &name, &photo(), None).await.expect("sent");
        let waits = "SELECT COUNT(*) FROM inbox WHERE state = 'wordless'";
        books.comes_to(waits, 1).await.unwrap_or_else(|found| panic!("{found}: {}", trial.last_words()));
        let words = format!("about {place}");
        if place == "cut" {
            let plans = cut_for(Scene::Files, [Fate::CutAnswer, Fate::CutRequest], &trial);
            say(&ann, &spoke, &words).await;
            all_are_cut(&plans, &trial).await;
        } else {
            let says = async |_: &Trial| drop(say(&ann, &spoke, &words).await);
            killed.during(&mut trial, place, says).await;
            trial.start_parlour().await;
        }
        read(&murphy, &hub, &words).await;
        said.extend([name, words]);
        trial.quiet().await;
    }
    killed.is_all_of(Scene::Files);
    fresh.resume().await;
    assert_eq!(witness::others_words(&fresh, &hub, said.len()).await, said);
    for message in fresh.messages(&hub).await.expect("messages") {
        if message.msgtype == "m.image" {
            let opened = fresh.open_file(&message.content).await.expect("it opens");
            assert!(!opened.windows(4).any(|bytes| bytes == b"53.3"), "{}", message.body);
        }
    }
    println!("{}: {:.1} s", books.name(), begun.elapsed().as_secs_f64());
    for client in [murphy, ann, fresh] {
        client.stop().await;
    }
    trial.close().await;
}
