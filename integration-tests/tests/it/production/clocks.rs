//! Clocks that go wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parlour::{edge::SystemClock, run::Extras};
use parlour_domain::{Clock, Timestamp};
use parlour_integration_tests::{LIMIT, Stage, proxy::Fate, put, read, refusal, say};
use serde_json::json;
use sqlx::Connection as _;

use super::{end, hand_over, heard, raw, swallowed, told};

const A_DAY: i64 = 24 * 60 * 60 * 1000;

/// The system's clock, and how many milliseconds it is wrong by.
#[derive(Default)]
struct Skewed(AtomicI64);

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_millis(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_of_a_sender() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "skew", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    proxies.to_parlour.judge(|_, _| Fate::Answer(200, "{}"));
    let times = [4_102_444_800_000_u64, 0, 1_000];
    for (number, at) in times.into_iter().enumerate() {
        let words = format!("at {at}");
        let event = say(&murphy, &hub, &words).await;
        let mut event = swallowed(&proxies.to_parlour, &event).await;
        event["origin_server_ts"] = json!(at);
        hand_over(&stage, &format!("skew-{number}"), &[event]).await;
        let message = read(&ann, &spoke, &words).await;
        assert_eq!(u64::from(message.sent_at.get()), at, "the sender's own time, whatever it is");
    }
    assert_eq!(heard(&ann, &spoke).await, ["at 4102444800000", "at 0", "at 1000"], "in the order of arrival");
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_of_our_own() {
    let clock = Arc::new(Skewed::default());
    let patience = Some(Duration::from_secs(15));
    let extras = Extras { clock: Some(Arc::clone(&clock) as Arc<dyn Clock>), patience, ..Extras::default() };
    let (stage, proxies) = Stage::open_between_proxies(extras).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "skew", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let before = say(&ann, &spoke, "before").await;
    read(&murphy, &hub, "before").await;

    // A leg is put off, and an event waits for its key, when the clock is set back by a day.
    proxies.to_homeserver.judge(|method, path| match path.contains("/send/m.room.encrypted/") {
        true if method == "PUT" => Fate::Answer(500, r#"{"errcode":"M_UNKNOWN","error":"no"}"#),
        _ => Fate::Pass,
    });
    say(&murphy, &hub, "put off").await;
    let file = stage.world.config.data.join("parlour.db");
    let mut database =
        sqlx::AnyConnection::connect(&format!("sqlite://{}", file.display())).await.expect("the database");
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let sql = "SELECT COUNT(*) FROM outbox WHERE next_attempt_at > 0 AND state = 'waiting'";
        let (put_off,): (i64,) = sqlx::query_as(sql).fetch_one(&mut database).await.expect("a count");
        if put_off == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the leg is put off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut content = raw(&ann, &spoke, &before).await["content"].clone();
    content["session_id"] = json!("MBS9Ur9WZ+fTgFqGH/9ipWl4kk6BIPJkwPiVJQYlAjM");
    let lost = put(&ann, &spoke, "send/m.room.encrypted/1", content).await;
    super::figures(&stage, "the event waits", |figures| figures.inbox == 1).await;
    clock.0.store(-A_DAY, Ordering::Relaxed);
    proxies.to_homeserver.pass_all();
    read(&ann, &spoke, "put off").await;
    assert!(refusal(&ann, &spoke, &lost).await.contains("(KEY-1)"));
    database.close().await.expect("closed");

    // And a day ahead: what comes then waits for its key as long as ever.
    clock.0.store(A_DAY, Ordering::Relaxed);
    say(&murphy, &hub, "tomorrow").await;
    read(&ann, &spoke, "tomorrow").await;
    assert_eq!(heard(&ann, &spoke).await, ["put off", "tomorrow"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 1));
    end([murphy, ann], stage).await;
}
