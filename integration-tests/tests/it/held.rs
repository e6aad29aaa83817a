//! Held legs: who has no device yet reads everything once they have one, in order, with the times it was written.

use std::time::{Duration, Instant};

use parlour::demo::client::{Message, Reading};
use parlour_integration_tests::{LIMIT, Stage, read, runs_alone, say};
use serde_json::json;

/// From the signed keys of a patient's first device until it has read what was held.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_patient_who_signs_in_later_reads_what_was_written_before() {
    let stage = Stage::open().await;
    let (murphy, ben) = (stage.sign_in("murphy").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "held", "two-way", &[], &["ben", "cara"]).await;
    let words = ["first", "second", "third"];
    let mut times = Vec::new();
    for words in words {
        say(&murphy, &talk.hub(), words).await;
        times.push(read(&murphy, &talk.hub(), words).await.sent_at);
        // Whoever can read it does not wait for who cannot.
        read(&ben, &talk.spoke(stage.person("ben")), words).await;
    }
    let stage = stage.reopen().await;
    let cara = stage.sign_in("cara").await;
    let (signed_in, spoke) = (Instant::now(), talk.spoke(stage.person("cara")));
    read(&cara, &spoke, "third").await;
    let took = signed_in.elapsed();
    println!("what was held is read {:.1} s after signing in", took.as_secs_f64());
    // Beside other tests the time says nothing.
    assert!(!runs_alone() || took < RELEASED_WITHIN, "{took:?}");
    let seen = cara.messages(&spoke).await.expect("messages");
    assert_eq!(seen.iter().map(|message| &*message.body).collect::<Vec<_>>(), words);
    assert!(seen.iter().all(|message| message.is_readable()));
    assert_eq!(seen.iter().map(|message| message.sent_at).collect::<Vec<_>>(), times);
    say(&cara, &spoke, "here I am").await;
    read(&murphy, &talk.hub(), "here I am").await;
    for client in [murphy, ben, cara] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_held_is_never_sent() {
    let stage = Stage::open().await;
    let (murphy, ben) = (stage.sign_in("murphy").await, stage.sign_in("ben").await);
    let alone = stage.begin(&murphy, "alone", "two-way", &[], &["cara"]).await;
    let both = stage.begin(&murphy, "both", "two-way", &[], &["ben", "cara"]).await;
    let mut redactions = Vec::new();
    for talk in [&alone, &both] {
        for words in ["before", "a mistake", "after"] {
            let event = say(&murphy, &talk.hub(), words).await;
            if words == "a mistake" {
                redactions.push((talk.hub(), event));
            }
        }
    }
    read(&ben, &both.spoke(stage.person("ben")), "after").await;
    for (hub, event) in &redactions {
        murphy.send_raw(hub, "m.room.redaction", json!({ "redacts": event })).await.expect("deleted");
    }
    // Ben has it no longer, and Cara does not get it.
    let bens = both.spoke(stage.person("ben"));
    let gone =
        |seen: &[Message]| seen.iter().any(|message| message.reading == Reading::Redacted).then_some(());
    ben.wait_until(&bens, LIMIT, gone).await.expect("it disappears");
    let cara = stage.sign_in("cara").await;
    for talk in [&alone, &both] {
        let spoke = talk.spoke(stage.person("cara"));
        read(&cara, &spoke, "after").await;
        let seen = cara.messages(&spoke).await.expect("messages");
        assert_eq!(seen.iter().map(|message| &*message.body).collect::<Vec<_>>(), ["before", "after"]);
    }
    for talk in [&alone, &both] {
        let seen = murphy.messages(&talk.hub()).await.expect("messages");
        assert!(!seen.iter().any(|message| message.msgtype == "m.notice"), "{seen:?}");
    }
    for client in [murphy, ben, cara] {
        client.stop().await;
    }
    stage.close().await;
}
