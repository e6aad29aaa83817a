//! The intake: bad input is answered as the specification says; nothing is lost by it, nothing crashes.

use parlour_integration_tests::{Stage, read, refusal, say};
use reqwest::Method;
use ruma::event_id;
use serde_json::json;

const TRANSACTION: &str = "/_matrix/app/v1/transactions/1";

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_and_loses_nothing() {
    let stage = Stage::open().await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "intake", "two-way", &[], &["ann"]).await;
    let spoke = talk.spoke(stage.person("ann"));
    let token = stage.world.config.homeserver.hs_token.reveal().to_owned();
    let right = Some(&*token);
    let large = format!(r#"{{"events":["{}"]}}"#, "x".repeat(10_000_000));
    for (name, method, path, token, body, status, errcode) in [
        ("no token", Method::PUT, TRANSACTION, None, "{}", 401, "M_MISSING_TOKEN"),
        ("a wrong token", Method::PUT, TRANSACTION, Some("wrong"), "{}", 403, "M_FORBIDDEN"),
        ("malformed JSON", Method::PUT, TRANSACTION, right, r#"{"events":["#, 400, "M_NOT_JSON"),
        ("not UTF-8's JSON", Method::PUT, TRANSACTION, right, "\u{0}", 400, "M_NOT_JSON"),
        ("no events", Method::PUT, TRANSACTION, right, "{}", 400, "M_BAD_JSON"),
        ("10 MB", Method::PUT, TRANSACTION, right, &large, 413, "M_TOO_LARGE"),
        ("10 MB, wrong token", Method::PUT, TRANSACTION, Some("wrong"), &large, 403, "M_FORBIDDEN"),
        ("an unknown path", Method::PUT, "/_matrix/app/v1/elsewhere", right, "{}", 404, "M_UNRECOGNIZED"),
        ("the legacy path", Method::PUT, "/transactions/1", right, "{}", 404, "M_UNRECOGNIZED"),
        ("an unknown method", Method::POST, TRANSACTION, right, "{}", 405, "M_UNRECOGNIZED"),
        ("an unknown user", Method::GET, "/_matrix/app/v1/users/@x:y", right, "", 404, "M_NOT_FOUND"),
        ("an unknown alias", Method::GET, "/_matrix/app/v1/rooms/%23x:y", right, "", 404, "M_NOT_FOUND"),
    ] {
        let (found, answer) = stage.internal(method, path, token, Some(body.to_owned())).await;
        assert_eq!((found, &answer["errcode"]), (status, &json!(errcode)), "{name}: {answer}");
    }
    let (status, answer) =
        stage.internal(Method::PUT, TRANSACTION, right, Some(r#"{"events":[]}"#.into())).await;
    assert_eq!((status, answer), (200, json!({})), "an empty transaction");
    say(&murphy, &talk.hub(), "still there").await;
    read(&ann, &spoke, "still there").await;

    // One bad event among good ones, and the same transaction again: the good ones are handled, once.
    let event = |id: &str, sender: &str| {
        json!({
            "event_id": id, "room_id": spoke, "sender": sender, "type": "m.room.message",
            "origin_server_ts": 1, "content": { "msgtype": "m.text", "body": "in the clear" },
        })
    };
    let anns = stage.person("ann").user_id.as_str();
    let bad = [json!(7), json!({ "event_id": "no id" }), json!({ "room_id": [] }), event("no id", anns)];
    let mut events = bad.to_vec();
    events.insert(1, event("$first", anns));
    events.push(event("$last", anns));
    let body = json!({ "events": events, "ephemeral": "what is this", "to_device": 3 }).to_string();
    for id in ["2", "2", "3"] {
        let path = format!("/_matrix/app/v1/transactions/{id}");
        let (status, answer) = stage.internal(Method::PUT, &path, right, Some(body.clone())).await;
        assert_eq!((status, answer), (200, json!({})));
    }
    for id in [event_id!("$first"), event_id!("$last")] {
        assert!(refusal(&ann, &spoke, id).await.contains("ENC-1"));
    }
    say(&ann, &spoke, "and on it goes").await;
    read(&murphy, &talk.hub(), "and on it goes").await;
    say(&murphy, &talk.hub(), "to the end").await;
    read(&ann, &spoke, "to the end").await;
    let seen = ann.messages(&spoke).await.expect("messages");
    let notices = seen.iter().filter(|message| message.body.contains("ENC-1")).count();
    assert_eq!(notices, 2, "each refused once, however often it came");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
