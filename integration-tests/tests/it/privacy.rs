//! A patient reads nothing of, and learns nothing about, another patient of the same conversation (S17).

use parlour::demo::client::Client;
use parlour_integration_tests::{Stage, read, room_path, say};
use reqwest::Method;
use serde_json::{Value, json};

/// What a person's own client may ask the homeserver for.
async fn ask(client: &Client, path: &str) -> Value {
    let (status, body) = client.http().call(Method::GET, path, None).await.expect("an answer");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patient_learns_nothing_of_another() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let name = "wombat of Ann and Ben";
    let talk = stage.begin(&murphy, name, "two-way", &["kim"], &["ann", "ben"]).await;
    let (hub, anns, bens) = (talk.hub(), talk.spoke(stage.person("ann")), talk.spoke(stage.person("ben")));
    say(&murphy, &hub, "to everybody").await;
    read(&ann, &anns, "to everybody").await;
    let before = ask(&ann, "/_matrix/client/v3/sync").await;
    let since = before["next_batch"].as_str().expect("a place").to_owned();

    // Ben does all that can be done, and staff answer him.
    say(&ben, &bens, "numbat one").await;
    let one = read(&murphy, &hub, "numbat one").await;
    let answer = murphy.reply(&hub, &one.event_id, "numbat two").await.expect("sent");
    let two = read(&ben, &bens, "numbat two").await;
    ben.read(&bens, &two.event_id).await.expect("read");
    for staff in [&murphy, &kim] {
        staff.read(&hub, &one.event_id).await.expect("read");
    }
    let second = stage.device("ben", "second", false).await;
    say(&second, &bens, "numbat three").await;
    read(&murphy, &hub, "numbat three").await;
    say(&murphy, &hub, "to everybody again").await;
    let again = read(&ann, &anns, "to everybody again").await;
    ann.read(&anns, &again.event_id).await.expect("read");

    let person = stage.person("ben");
    let device = |client: &Client| client.matrix().device_id().expect("a device").to_string();
    let secrets = [
        person.name.clone(),
        person.user_id.localpart().to_owned(),
        person.id.to_string(),
        bens.to_string(),
        hub.to_string(),
        name.to_owned(),
        "numbat".to_owned(),
        device(&ben),
        device(&second),
        one.event_id.to_string(),
        two.event_id.to_string(),
        answer.to_string(),
    ];
    let mut all = before.to_string();
    let sync = ask(&ann, &format!("/_matrix/client/v3/sync?since={since}")).await;
    let whole = ask(&ann, "/_matrix/client/v3/sync?full_state=true").await;
    let next = sync["next_batch"].as_str().expect("a place");
    all.push_str(&sync.to_string());
    all.push_str(&whole.to_string());
    all.push_str(
        &ask(&ann, &format!("/_matrix/client/v3/keys/changes?from={since}&to={next}")).await.to_string(),
    );
    let event = format!("event/{}", again.event_id);
    let context = format!("context/{}", again.event_id);
    for path in ["state", "members", "joined_members", "messages?dir=b&limit=500", &event, &context] {
        all.push_str(&ask(&ann, &room_path(&anns, path)).await.to_string());
    }
    all.push_str(&ask(&ann, "/_matrix/client/v3/joined_rooms").await.to_string());
    for message in ann.messages(&anns).await.expect("messages") {
        all.push_str(&message.content.to_string());
    }
    for secret in &secrets {
        assert!(!all.contains(secret), "{secret:?} reaches another patient");
    }
    // Devices that changed meanwhile: none but those of people whom the patient shares a room with.
    let changed = sync["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
    assert!(changed.iter().all(|user| user != person.user_id.as_str()), "{changed:?}");
    // Receipts in the patient's room are of whoever is in it.
    let receipts = whole["rooms"]["join"][anns.as_str()]["ephemeral"].to_string();
    assert!(!receipts.contains(person.user_id.as_str()), "{receipts}");

    // What the patient asks for by its exact name is refused.
    for path in [
        room_path(&bens, "state"),
        room_path(&bens, "messages?dir=b"),
        room_path(&bens, &format!("event/{}", two.event_id)),
        room_path(&hub, "state"),
        room_path(&hub, "messages?dir=b"),
        room_path(&anns, &format!("event/{}", one.event_id)),
        format!("/_matrix/client/v3/profile/{}", person.user_id),
    ] {
        let (status, body) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
        assert!(matches!(status, 403 | 404), "{path} was answered {status} {body}");
        assert!(!body.to_string().contains(&person.name), "{path}: {body}");
    }
    let search = json!({ "search_term": "Ben" });
    let path = "/_matrix/client/v3/user_directory/search";
    let (_, found) = ann.http().call(Method::POST, path, Some(search)).await.expect("an answer");
    assert!(!found.to_string().contains(person.user_id.localpart()), "{found}");
    for client in [murphy, kim, ann, ben, second] {
        client.stop().await;
    }
    stage.close().await;
}
