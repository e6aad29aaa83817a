//! Ghosts' own inboxes: what people's clients send to ghosts is fetched, so that it does not pile up.

use std::time::{Duration, Instant};

use parlour::run::Extras;
use parlour_integration_tests::{LIMIT, Stage, read, say};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_ghosts_inbox_is_emptied_and_its_one_time_keys_are_made_up() {
    let extras = Extras { care: Some(Duration::from_millis(500)), ..Extras::default() };
    let stage = Stage::open_with(extras).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "care", "two-way", &[], &["ann"]).await;
    let spoke = talk.spoke(stage.person("ann"));
    // The ghost of the owner is in the spoke, so Ann's client sends it the key of what she writes, for which it
    // claims one of its one-time keys.
    say(&murphy, &talk.hub(), "hello").await;
    let hello = read(&ann, &spoke, "hello").await;
    say(&ann, &spoke, "good morning").await;
    read(&murphy, &talk.hub(), "good morning").await;
    let store = stage.world.parlour.engine().store();
    let ghost = store.our_user(&hello.sender).await.expect("the store").expect("a ghost");
    let url = format!("{}/_matrix/client/v3/sync", stage.world.homeserver_url());
    let look = async |number: u32| -> Value {
        // Synapse remembers its answer to the same question for two minutes.
        let number = number.to_string();
        let query = [
            ("user_id", ghost.user_id.as_str()),
            ("device_id", ghost.device_id.as_str()),
            ("timeout", &number),
        ];
        let token = stage.world.config.homeserver.as_token.reveal();
        let url = reqwest::Url::parse_with_params(&url, query).expect("a URL");
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    };
    let deadline = Instant::now() + LIMIT;
    for number in 0.. {
        let inbox = look(number).await;
        let keys = inbox["to_device"]["events"].as_array().map_or(0, Vec::len);
        let one_time = inbox["device_one_time_keys_count"]["signed_curve25519"].as_u64();
        if keys == 0 && one_time == Some(50) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{keys} keys stay in the inbox, {one_time:?} one-time keys are left"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    say(&murphy, &talk.hub(), "and on").await;
    read(&ann, &spoke, "and on").await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ghost_that_is_idle_sleeps_and_speaks_again_with_the_keys_it_had() {
    let care = Some(Duration::from_millis(300));
    let extras = Extras { care, idle: Some(Duration::from_millis(600)), ..Extras::default() };
    let stage = Stage::open_with(extras).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "sleep", "two-way", &[], &["ann"]).await;
    let spoke = talk.spoke(stage.person("ann"));
    say(&murphy, &talk.hub(), "good night").await;
    let night = read(&ann, &spoke, "good night").await;
    let engine = stage.world.parlour.engine();
    let deadline = Instant::now() + LIMIT;
    while engine.machines_awake().await > 1 {
        assert!(Instant::now() < deadline, "all but the bot sleep");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say(&murphy, &talk.hub(), "good morning").await;
    let morning = read(&ann, &spoke, "good morning").await;
    let session = |message: &parlour::demo::client::Message| message.sender.clone();
    assert_eq!(session(&night), session(&morning), "the same ghost");
    let ghost = engine.store().our_user(&morning.sender).await.expect("the store").expect("a ghost");
    let path = format!("/_matrix/client/v3/rooms/{spoke}/messages?dir=b&limit=20");
    let (_, history) = ann.http().call(reqwest::Method::GET, &path, None).await.expect("an answer");
    let of_ghost = history["chunk"].as_array().into_iter().flatten();
    let of_ghost = of_ghost.filter(|event| event["sender"] == ghost.user_id.as_str());
    let sessions: std::collections::BTreeSet<_> =
        of_ghost.filter_map(|event| event["content"]["session_id"].as_str()).collect();
    assert_eq!(sessions.len(), 1, "it goes on with the session that it had: {sessions:?}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
