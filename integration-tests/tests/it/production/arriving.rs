//! Transactions and events as they come.

use parlour::run::Extras;
use parlour_integration_tests::{LIMIT, Stage, proxy::Fate, put, read, refusal, say, send};
use serde_json::json;

use super::{end, hand_over, heard, raw, reply, swallowed, told};

#[tokio::test(flavor = "multi_thread")]
async fn repeated_transaction_after_a_lost_200() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "repeated", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let mut first = true;
    proxies.to_parlour.seen();
    proxies
        .to_parlour
        .judge(move |_, _| if std::mem::take(&mut first) { Fate::CutAnswer } else { Fate::Pass });
    say(&murphy, &hub, "once").await;
    // Behind the repetition: rooms are in order.
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    // Parlour may have asked for it meanwhile; it comes again all the same.
    let mut seen = Vec::new();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !(1..seen.len()).any(|n| seen[..n].contains(&seen[n])) {
        assert!(tokio::time::Instant::now() < deadline, "it comes again: {seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        seen.extend(proxies.to_parlour.seen().into_iter().filter(|r| r.contains("/transactions/")));
    }
    assert_eq!(heard(&ann, &spoke).await, ["before", "once", "after"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (0, 0));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_event_in_two_transactions() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "twice", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let once = say(&murphy, &hub, "once").await;
    read(&ann, &spoke, "once").await;
    let event = raw(&murphy, &hub, &once).await;
    for (id, events) in [("a", vec![event.clone()]), ("b", vec![event.clone(), event])] {
        hand_over(&stage, id, &events).await;
    }
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    assert_eq!(heard(&ann, &spoke).await, ["once", "after"]);
    assert_eq!(told(&murphy, &hub).await, 0, "it is no copy either");
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_transaction_numbers_begin_anew() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "rebuilt", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    // From here on the ids of transactions are ours to choose: each comes for the second time.
    proxies.to_parlour.judge(|_, _| Fate::Answer(200, "{}"));
    let mut all = Vec::new();
    for words in ["one", "two", "three"] {
        let event = say(&murphy, &hub, words).await;
        all.push(swallowed(&proxies.to_parlour, &event).await);
        // What came before may stand in it as well.
        hand_over(&stage, "1", &all).await;
        read(&ann, &spoke, words).await;
    }
    assert_eq!(heard(&ann, &spoke).await, ["before", "one", "two", "three"]);
    assert_eq!(told(&murphy, &hub).await, 0);
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_event() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "malformed", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &spoke, "before").await;
    let olm = json!({ "algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "x", "ciphertext": {} });
    for (number, (name, content)) in [
        ("nothing in it", json!({})),
        ("an algorithm that is no text", json!({ "algorithm": 7 })),
        ("an unknown algorithm", json!({ "algorithm": "org.example.rot13", "ciphertext": "uryyb" })),
        ("Olm in a room", olm),
        ("no session", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA" })),
    ]
    .into_iter()
    .enumerate()
    {
        let odd = put(&ann, &spoke, &format!("send/m.room.encrypted/{number}"), content).await;
        let words = refusal(&ann, &spoke, &odd).await;
        assert!(words.contains("(KEY-1)"), "{name}: {words}");
    }
    for (name, content) in [
        ("no words", json!({ "msgtype": "m.text" })),
        ("words that are no text", json!({ "msgtype": "m.text", "body": ["secret"] })),
        ("a kind that is no text", json!({ "msgtype": 7, "body": "secret" })),
        (
            "a relation that is no object",
            json!({ "msgtype": "m.text", "body": "secret", "m.relates_to": [] }),
        ),
    ] {
        let odd = send(&ann, &spoke, "m.room.message", content).await;
        let words = refusal(&ann, &spoke, &odd).await;
        assert!(words.contains("(KIND-1)"), "{name}: {words}");
    }
    say(&ann, &spoke, "after").await;
    read(&murphy, &hub, "after").await;
    assert_eq!(heard(&murphy, &hub).await, ["before", "after"]);
    assert_eq!((told(&ann, &spoke).await, told(&murphy, &hub).await), (9, 0), "each once, and to Ann alone");
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_event_in_an_encrypted_room() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "clear", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    for (client, room, after) in [(&murphy, &hub, "from Murphy"), (&ann, &spoke, "from Ann")] {
        let content = json!({ "msgtype": "m.text", "body": "in the clear" });
        let clear = put(client, room, "send/m.room.message/1", content).await;
        let words = refusal(client, room, &clear).await;
        assert!(words.contains("(ENC-1)"), "{words}");
        say(client, room, after).await;
    }
    read(&ann, &spoke, "from Murphy").await;
    read(&murphy, &hub, "from Ann").await;
    assert_eq!(heard(&ann, &spoke).await, ["before", "from Murphy"]);
    assert_eq!(heard(&murphy, &hub).await, ["from Ann"]);
    assert_eq!((told(&murphy, &hub).await, told(&ann, &spoke).await), (1, 1));
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_to_an_unmapped_event() {
    let stage = Stage::open().await;
    let (murphy, ann, ben) =
        (stage.sign_in("murphy").await, stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "unmapped", "two-way", &[], &["ann", "ben"]).await;
    let alone = stage.begin(&murphy, "unmapped, one patient", "two-way", &[], &["ann"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    // A patient's answer arrives, as an answer to nothing that is known there.
    reply(&ann, &anns, "$nowhere", "Ann to nothing").await;
    assert_eq!(read(&murphy, &hub, "Ann to nothing").await.in_reply_to, None);
    // A staff member's might be for one patient, and nobody knows which.
    let unknown = reply(&murphy, &hub, "$nowhere", "secret of somebody").await;
    let words = refusal(&murphy, &hub, &unknown).await;
    assert!(words.contains("(LANE-2)"), "{words}");
    // With one patient it is for that patient.
    let only = alone.spoke(stage.person("ann"));
    reply(&murphy, &alone.hub(), "$nowhere", "for Ann").await;
    assert_eq!(read(&ann, &only, "for Ann").await.in_reply_to, None);
    say(&murphy, &hub, "to all").await;
    for (patient, spoke) in [(&ann, &anns), (&ben, &bens)] {
        read(patient, spoke, "to all").await;
        assert_eq!(heard(patient, spoke).await, ["to all"]);
        assert_eq!(told(patient, spoke).await, 0);
    }
    assert_eq!(told(&murphy, &hub).await, 1);
    end([murphy, ann, ben], stage).await;
}
