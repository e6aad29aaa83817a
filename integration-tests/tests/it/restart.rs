//! Restarts: what was said stays, what was said meanwhile arrives.

use std::sync::Arc;

use parlour_integration_tests::{Stage, read, say};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_parlour_is_down_arrives_once_and_in_order() {
    let mut stage = Stage::open().await;
    let clients = Arc::new((stage.sign_in("murphy").await, stage.sign_in("ann").await));
    let (murphy, ann) = (&clients.0, &clients.1);
    let talk = stage.begin(murphy, "restart", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(murphy, &hub, "before").await;
    let before = read(ann, &spoke, "before").await;

    stage = stage
        .without_parlour(async {
            for words in ["one", "two", "three"] {
                say(murphy, &hub, words).await;
                say(ann, &spoke, &format!("{words} from Ann")).await;
            }
        })
        .await;
    for words in ["one", "two", "three"] {
        read(ann, &spoke, words).await;
        read(murphy, &hub, &format!("{words} from Ann")).await;
    }
    let order = |messages: Vec<parlour::demo::client::Message>, mine: &str| {
        let others = messages.into_iter().filter(|m| m.body.contains("Ann") == (mine == "hub"));
        others.map(|m| m.body).collect::<Vec<_>>()
    };
    let in_spoke = order(ann.messages(&spoke).await.expect("messages"), "spoke");
    assert_eq!(in_spoke, ["before", "one", "two", "three"]);
    let in_hub = order(murphy.messages(&hub).await.expect("messages"), "hub");
    assert_eq!(in_hub, ["one from Ann", "two from Ann", "three from Ann"]);

    // The homeserver goes as well, and what was said before is still known.
    let stage = stage.reopen().await;
    ann.reply(&spoke, &before.event_id, "I remember").await.expect("sent");
    let answer = read(murphy, &hub, "I remember").await;
    let asked = read(murphy, &hub, "before").await;
    assert_eq!(answer.in_reply_to, Some(asked.event_id));
    if let Some((murphy, ann)) = Arc::into_inner(clients) {
        murphy.stop().await;
        ann.stop().await;
    }
    stage.close().await;
}
