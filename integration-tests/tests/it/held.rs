//! Held legs: who has no device yet reads everything once they have one, in order, with the times it was written.

use parlour_integration_tests::{Stage, read, say};

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
    let spoke = talk.spoke(stage.person("cara"));
    read(&cara, &spoke, "third").await;
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
