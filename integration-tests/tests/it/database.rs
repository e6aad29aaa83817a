//! The database fails: it is away for a minute, or its disk is full. Nothing is lost, it is said in a sentence, and it ends
//! without a restart.

use std::time::{Duration, Instant};

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Talk, read, say, trial::Trial};
use parlour_test_postgres::Postgres;

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");

async fn health(trial: &Trial, path: &str) -> u16 {
    let url = format!("{}{path}", trial.internal_url());
    reqwest::get(url).await.map_or(0, |answer| answer.status().as_u16())
}

async fn health_becomes(trial: &Trial, wanted: u16) {
    let deadline = Instant::now() + LIMIT;
    while health(trial, "/health/ready").await != wanted {
        assert!(Instant::now() < deadline, "not {wanted}: {}", trial.last_words());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn scene(trial: &Trial) -> (Client, Client, Talk) {
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "database", &[], &["ann"]).await;
    say(&murphy, &talk.hub(), "before").await;
    read(&ann, &talk.spoke(trial.person("ann")), "before").await;
    (murphy, ann, talk)
}

/// Everything stands once and in order, on both sides.
async fn all_is_there(trial: &Trial, murphy: &Client, ann: &Client, talk: &Talk, words: &[&str]) {
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    for words in words {
        read(ann, &spoke, words).await;
        read(murphy, &hub, &format!("Ann: {words}")).await;
    }
    trial.quiet().await;
    let of_staff = ann.messages(&spoke).await.expect("messages");
    let of_staff: Vec<_> = of_staff.into_iter().map(|m| m.body).filter(|b| words.contains(&&**b)).collect();
    assert_eq!(of_staff, words);
    let of_ann = murphy.messages(&hub).await.expect("messages");
    let of_ann: Vec<_> =
        of_ann.into_iter().filter_map(|m| m.body.strip_prefix("Ann: ").map(str::to_owned)).collect();
    assert_eq!(of_ann, words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_for_a_minute() {
    let Some(mut postgres) = Postgres::start().expect("PostgreSQL") else { return };
    let url = postgres.create_database().expect("a database");
    let trial = Trial::open(PARLOUR, Some(url), 0, None).await;
    let (murphy, ann, talk) = scene(&trial).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let gone = Instant::now();
    postgres.crash_server().expect("it is gone");
    let words = ["one", "two", "three"];
    for words in words {
        say(&murphy, &hub, words).await;
        say(&ann, &spoke, &format!("Ann: {words}")).await;
    }
    health_becomes(&trial, 503).await;
    assert_eq!(health(&trial, "/health/live").await, 200, "it lives");
    let status = format!("{}/_parlour/v1/status", trial.public_url());
    let told: serde_json::Value = reqwest::get(status).await.expect("an answer").json().await.expect("JSON");
    assert_eq!((&told["status"], &told["bridge"]), (&"disconnected".into(), &false.into()), "{told}");
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(gone.elapsed())).await;
    postgres.start_server().expect("it is back");
    let back = Instant::now();
    health_becomes(&trial, 200).await;
    read(&ann, &spoke, "one").await;
    println!("a minute without a database: messages travel {:?} after it is back", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    all_is_there(&trial, &murphy, &ann, &talk, &words).await;
    let log = trial.log();
    assert!(log.contains("nothing can be kept: messages wait at the homeserver"), "{log}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("we run")) != 0 {
        println!("skipped: only root can give Parlour a disk of its own");
        return;
    }
    let mut trial = Trial::open(PARLOUR, None, 0, None).await;
    trial.kill_parlour().await;
    trial.on_a_disk_of(24);
    trial.start_parlour().await;
    let (murphy, ann, talk) = scene(&trial).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let filler = trial.seen_by_parlour().join("filler");
    // To the last byte: it is written until nothing more fits.
    let mut file = std::fs::File::create(&filler).expect("a file on that disk");
    let piece = [0; 4096];
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut file, &piece) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let words = ["one", "two", "three"];
    for words in words {
        // Longer than what a page that is there already could take.
        say(&murphy, &hub, words).await;
        say(&ann, &spoke, &format!("Ann: {words}")).await;
    }
    health_becomes(&trial, 503).await;
    let log = trial.log();
    assert!(
        log.contains("nothing can be kept: messages wait at the homeserver") && log.contains("full"),
        "{log}"
    );
    std::fs::remove_file(&filler).expect("room again");
    drop(file);
    let back = Instant::now();
    health_becomes(&trial, 200).await;
    read(&ann, &spoke, "one").await;
    println!("a full disk: messages travel {:?} after there is room", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    all_is_there(&trial, &murphy, &ann, &talk, &words).await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}
