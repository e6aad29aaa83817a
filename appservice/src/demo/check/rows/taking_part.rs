//! Who takes part.

use reqwest::Method;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::{
    super::client::Client,
    scene::{Evidence, LIMIT, LOOK, Scene, Talk, Trouble, read, room_path, say},
};

/// Staff who are included see the whole hub, a patient sees what follows; and who is excluded neither reads nor writes any more,
/// nor lets themselves in again.
pub(super) async fn comes_and_goes(scene: &Scene) -> Evidence {
    let (murphy, kim, ann, ben) = (&scene.murphy, &scene.kim, &scene.ann, &scene.ben);
    let wanted = json!({ "name": "S3 people", "mode": "two-way", "staff": [], "patients": [ann.user_id()] });
    let talk = scene.begin(wanted).await?;
    let anns = talk.spoke(ann)?;
    say(ann, &anns, "S3 before the others").await?;
    read(murphy, &talk.hub, "S3 before the others").await?;
    taking_part(scene, murphy, &talk, Method::PUT, kim.user_id()).await?;
    kim.accept(&talk.hub, LIMIT).await?;
    kim.history(&talk.hub, 100).await?;
    read(kim, &talk.hub, "S3 before the others").await?;
    taking_part(scene, murphy, &talk, Method::PUT, ben.user_id()).await?;
    let bens = rooms_own(scene, ben, &talk).await?;
    say(murphy, &talk.hub, "S3 for both").await?;
    read(ben, &bens, "S3 for both").await?;
    let seen = ben.history(&bens, 100).await?;
    if let Some(early) = seen.iter().find(|message| message.body.contains("before the others")) {
        return Err(format!("{} is older than the patient's part in it", early.event_id).into());
    }

    for (whom, room) in [(kim, &talk.hub), (ben, &bens)] {
        taking_part(scene, murphy, &talk, Method::DELETE, whom.user_id()).await?;
        let path = room_path(room, "send/m.room.encrypted/s3");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let (status, answer) = whom.http().call(Method::PUT, &path, Some(body)).await?;
        if (status, &answer["errcode"]) != (403, &json!("M_FORBIDDEN")) {
            return Err(format!("excluded, {}'s PUT was answered {status}", whom.user_id()).into());
        }
        let path = format!("/conversations/{}/participants/{}", talk.id, whom.user_id());
        let (status, _) = scene.api(whom, Method::PUT, &path, None).await?;
        if status < 400 {
            return Err(format!("{} let themselves in again", whom.user_id()).into());
        }
    }
    say(murphy, &talk.hub, "S3 after they went").await?;
    let after = read(ann, &anns, "S3 after they went").await?;
    for (client, room) in [(kim, &talk.hub), (ben, &bens)] {
        let (_, page) =
            client.http().call(Method::GET, &room_path(room, "messages?dir=b&limit=5"), None).await?;
        let events = page["chunk"].as_array().map_or(&[][..], Vec::as_slice);
        let sent_at = |event: &serde_json::Value| event["origin_server_ts"].as_u64().unwrap_or_default();
        if events.iter().any(|event| {
            event["type"] == "m.room.encrypted" && sent_at(event) >= u64::from(after.sent_at.get())
        }) {
            return Err(format!("{} can fetch what was said after they went", client.user_id()).into());
        }
    }
    Ok(format!(
        "a colleague read what was written before, the patient only what came after; excluded, both got 403 M_FORBIDDEN, \
         and {} went to those who are left",
        after.event_id
    ))
}

/// The practice API includes or excludes somebody.
async fn taking_part(
    scene: &Scene,
    by: &Client,
    talk: &Talk,
    method: Method,
    whom: &UserId,
) -> Result<(), Trouble> {
    let path = format!("/conversations/{}/participants/{whom}", talk.id);
    match scene.api(by, method, &path, None).await? {
        (200 | 202, _) => Ok(()),
        (status, answer) => Err(format!("{path} was answered {status} {}", answer["errcode"]).into()),
    }
}

/// The room of a patient's own, as the practice API tells them.
async fn rooms_own(scene: &Scene, patient: &Client, talk: &Talk) -> Result<OwnedRoomId, Trouble> {
    let path = format!("/conversations/{}", talk.id);
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, told) = scene.api(patient, Method::GET, &path, None).await?;
        if let Some(Ok(room_id)) = told["room_id"].as_str().map(RoomId::parse) {
            return Ok(room_id);
        }
        if Instant::now() > deadline {
            return Err(Trouble::Broken("the patient is told of no room".to_owned()));
        }
        sleep(LOOK).await;
    }
}
