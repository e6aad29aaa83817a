//! Sending: what is done and not known to be, what is alike and must not be, who may not send at all.

use std::collections::BTreeSet;

use parlour::{demo::world::Place, run::Extras};
use parlour_integration_tests::{Stage, proxy::Fate, read, say};
use tokio::process::Command;

use super::{end, heard, told};

/// Transaction id and user of each `PUT /send` that went through.
fn sent(seen: &[String]) -> Vec<(String, String)> {
    let of = |request: &String| {
        let path = request.strip_prefix("PUT ")?.split_once("/send/m.room.encrypted/")?.1;
        let url = reqwest::Url::parse(&format!("http://x/{path}")).expect("a URL");
        let user = url.query_pairs().find(|(key, _)| key == "user_id").expect("a user").1.into_owned();
        Some((url.path().trim_start_matches('/').to_owned(), user))
    };
    seen.iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn put_done_answer_lost() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "lost", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    // Neither the answer nor the echo tells that it was done.
    let mut first = true;
    proxies.to_homeserver.seen();
    proxies.to_parlour.seen();
    proxies.to_homeserver.judge(move |_, path| match path.contains("/send/m.room.encrypted/") {
        true if std::mem::take(&mut first) => Fate::CutAnswer,
        _ => Fate::Pass,
    });
    let event = say(&murphy, &hub, "once").await;
    read(&ann, &spoke, "once").await;
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    let put = sent(&proxies.to_homeserver.seen());
    assert_eq!(put.len(), 2, "what stands in the room is not sent again: {put:?}");
    assert_eq!(heard(&ann, &spoke).await, ["before", "once", "after"]);
    assert_eq!(told(&murphy, &hub).await, 0);
    // What landed unseen is known for what it is.
    let once = read(&ann, &spoke, "once").await;
    ann.reply(&spoke, &once.event_id, "an answer").await.expect("sent");
    assert_eq!(read(&murphy, &hub, "an answer").await.in_reply_to, Some(event));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_transaction_ids_of_two_ghosts() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "alike", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    proxies.to_homeserver.seen();
    let mut wanted = Vec::new();
    for number in 1..=3 {
        for (client, name) in [(&murphy, "Murphy"), (&kim, "Kim")] {
            let words = format!("{name} {number}");
            say(client, &hub, &words).await;
            read(&ann, &spoke, &words).await;
            wanted.push(words);
        }
    }
    // Synapse remembers the ids of an application service without the user: those of two ghosts must differ.
    let put = sent(&proxies.to_homeserver.seen());
    let ids: BTreeSet<_> = put.iter().map(|(id, _)| id).collect();
    let users: BTreeSet<_> = put.iter().map(|(_, user)| user).collect();
    assert_eq!((put.len(), ids.len(), users.len()), (6, 6, 2), "{put:?}");
    for (id, user) in &put {
        let localpart = user.trim_start_matches('@').split(':').next().expect("a localpart");
        assert!(id.ends_with(localpart), "{id} names its ghost, {user}");
    }
    assert_eq!(heard(&ann, &spoke).await, wanted);
    end([murphy, kim, ann], stage).await;
}

/// A second Parlour on the same data does not start, says why, and disturbs nothing.
async fn second_process(database_url: Option<String>) {
    let stage = Stage::open_with(Extras { database_url, ..Extras::default() }).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "second", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let elsewhere = Place::anywhere(stage.world.place.data.clone()).expect("free ports");
    let address = |port: u16| format!("127.0.0.1:{port}");
    let second = Command::new(env!("CARGO_BIN_EXE_parlour-under-test"))
        .args(["run", "--config"])
        .arg(stage.world.place.data.join("parlour.toml"))
        .env("PARLOUR__LISTEN__PUBLIC", address(elsewhere.public))
        .env("PARLOUR__LISTEN__INTERNAL", address(elsewhere.internal))
        .kill_on_drop(true)
        .output();
    let second = tokio::time::timeout(parlour_integration_tests::LIMIT, second).await;
    let second = second.expect("it ends").expect("it ran");
    let words = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{words}");
    assert_eq!(words.lines().count(), 1, "one sentence: {words}");
    assert!(words.contains("another Parlour runs on this database"), "{words}");
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "after"]);
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_for_one_ghost() {
    second_process(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_for_one_ghost_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        second_process(Some(postgres.create_database().expect("a database"))).await;
    }
}
