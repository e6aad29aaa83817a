//! Parlour begins in an empty database, beside a homeserver that knows its bot from before.

use parlour::{config::Config, edge::SystemChance, master_key};
use parlour_engine::Store;
use parlour_integration_tests::{books::Books, read, say, trial::Trial, witness};
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

use super::{Killed, Scene, database_files, practice};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_the_first_start_leaves_nothing_half_begun_on_sqlite() {
    begins(None, Scene::Starting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_the_first_start_leaves_nothing_half_begun_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        begins(Some(postgres.create_database().expect("a database")), Scene::Taking).await;
    }
}

async fn begins(database: Option<String>, scene: Scene) {
    let begun = Instant::now();
    let mut trial = practice(database.clone(), 0).await;
    let books = Books::of(&trial.data, database.as_deref());
    let mut killed = Killed::default();
    // Which points a first start goes through.
    empty(&mut trial, &books).await;
    trial.spawn_parlour_ordered("record").await;
    trial.travels().await;
    let recorded = trial.order("recorded").await;
    let points: BTreeSet<_> = recorded.split_whitespace().collect();
    println!("{}: {recorded}", books.name());
    let everywhere =
        points.iter().flat_map(|point| ["before", "after"].map(|side| format!("{side} {point}")));
    let mut places: Vec<_> = everywhere.map(|place| (place, 1)).collect();
    // The first are the keys of the database, the second is what the ids of legs are made with.
    places.extend(["before db.setting-kept", "after db.setting-kept"].map(|place| (place.to_owned(), 2)));
    for (place, passage) in places {
        empty(&mut trial, &books).await;
        killed.at_start(&mut trial, &place, passage).await;
        trial.start_parlour().await;
        for (what, sql) in [
            ("one bot, complete", "SELECT COUNT(*) FROM our_users WHERE person_id IS NULL AND ready = 1"),
            ("no ghost", "SELECT 1 + COUNT(*) FROM our_users WHERE person_id IS NOT NULL"),
            ("one key of leg ids", "SELECT COUNT(*) FROM settings WHERE name = 'leg-id-key'"),
            ("one key of the practice", "SELECT COUNT(*) FROM data_keys"),
            ("all is known", "SELECT COUNT(*) FROM intake WHERE caught_up_to IS NOT NULL"),
        ] {
            assert_eq!(books.number(sql).await, 1, "{what}, {place} {passage}");
        }
    }
    travels(&mut trial).await;
    killed.is_all_of(scene);
    println!("{}: {:.1} s", books.name(), begun.elapsed().as_secs_f64());
    trial.close().await;
}

/// Ends Parlour, and takes everything out of its database.
async fn empty(trial: &mut Trial, books: &Books) {
    trial.kill_parlour().await;
    if books.name() == "SQLite" {
        for file in database_files(trial) {
            if let Err(error) = std::fs::remove_file(&file) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", file.display());
            }
        }
    } else {
        books.change("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    }
}

/// The people are written down, and what they say arrives once.
async fn travels(trial: &mut Trial) {
    trial.kill_parlour().await;
    let config = Config::read(&trial.data.join("parlour.toml")).expect("the configuration");
    let key = master_key::read(&trial.data.join("master.key")).expect("the master key");
    let store = Store::open(&config.database(), &key, Arc::new(SystemChance)).await.expect("the database");
    for person in &trial.people {
        store.put_person(&person.person().expect("a person")).await.expect("written down");
    }
    store.close().await;
    trial.start_parlour().await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let fresh = [trial.sign_in("murphy", "fresh").await, trial.sign_in("ann", "fresh").await];
    for client in &fresh {
        client.pause().await;
    }
    let talk = trial.begin(&murphy, "first", &[], &["ann"]).await;
    let rooms = [talk.hub(), talk.spoke(trial.person("ann"))];
    for number in 1..=2 {
        say(&murphy, &rooms[0], &format!("hello {number}")).await;
        read(&ann, &rooms[1], &format!("hello {number}")).await;
        say(&ann, &rooms[1], &format!("good morning {number}")).await;
        read(&murphy, &rooms[0], &format!("good morning {number}")).await;
    }
    trial.quiet().await;
    for (client, room, words) in [(&fresh[0], &rooms[0], "good morning"), (&fresh[1], &rooms[1], "hello")] {
        client.resume().await;
        let wanted = [1, 2].map(|number| format!("{words} {number}"));
        assert_eq!(witness::others_words(client, room, wanted.len()).await, wanted);
        let counts: Vec<_> = witness::ciphertexts(client, room).await.into_values().collect();
        assert_eq!(counts, [2, 2]);
    }
    for client in [murphy, ann].into_iter().chain(fresh) {
        client.stop().await;
    }
}
