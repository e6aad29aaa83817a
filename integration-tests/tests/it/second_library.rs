//! A client library that is not the SDK: matrix-js-sdk, in its strict mode, on both sides of a conversation.

use parlour_integration_tests::{
    Stage,
    js::{JsClient, available},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_two_way_conversation_without_a_shield() {
    if !available().await {
        println!("skipped: there is no Node on this machine");
        return;
    }
    let stage = Stage::open().await;
    let murphy = stage.sign_in("murphy").await;
    let url = stage.world.homeserver_url();
    let (kim, ann) = (stage.person("kim"), stage.person("ann"));
    let mut staff = JsClient::sign_in(&url, kim.user_id.as_str(), &kim.password).await;
    let mut patient = JsClient::sign_in(&url, ann.user_id.as_str(), &ann.password).await;
    let talk = stage.begin(&murphy, "two libraries", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(ann));

    staff.ask(json!({ "do": "send", "room_id": hub, "text": "how are you?" })).await;
    let heard = patient.ask(json!({ "do": "wait", "room_id": spoke, "text": "how are you?" })).await;
    assert_eq!((&heard["shield"], &heard["reason"]), (&json!("none"), &json!(null)), "{heard}");
    let reply = json!({ "do": "reply", "room_id": spoke, "to": heard["event_id"], "text": "better" });
    let answered = patient.ask(reply).await;
    let heard = staff.ask(json!({ "do": "wait", "room_id": hub, "text": "better" })).await;
    assert_eq!((&heard["shield"], &heard["reason"]), (&json!("none"), &json!(null)), "{heard}");
    let reply = json!({ "do": "reply", "room_id": hub, "to": heard["event_id"], "text": "good" });
    staff.ask(reply).await;
    let heard = patient.ask(json!({ "do": "wait", "room_id": spoke, "text": "good" })).await;
    assert_eq!((&heard["shield"], &heard["in_reply_to"]), (&json!("none"), &answered["event_id"]), "{heard}");

    staff.stop().await;
    patient.stop().await;
    murphy.stop().await;
    stage.close().await;
}
