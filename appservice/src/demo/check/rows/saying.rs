//! What people say besides messages: edits, reactions, deletions.

use reqwest::Method;
use ruma::{EventId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::super::{
    super::client::{Client, ClientError, Message, Reading},
    scene::{Evidence, LIMIT, Scene, Talk, Trouble, read, room_path, say},
};

const LOOK: Duration = Duration::from_millis(50);

/// A conversation of Dr Murphy and Kim with Ann and Ben.
async fn group(scene: &Scene, name: &str) -> Result<Talk, String> {
    let patients = [scene.ann.user_id(), scene.ben.user_id()];
    let staff = [scene.kim.user_id()];
    scene.begin(json!({ "name": name, "mode": "two-way", "staff": staff, "patients": patients })).await
}

fn edit_of(event: &EventId, words: &str) -> Value {
    json!({
        "msgtype": "m.text", "body": format!("* {words}"),
        "m.new_content": { "msgtype": "m.text", "body": words },
        "m.relates_to": { "rel_type": "m.replace", "event_id": event },
    })
}

/// Waits until somebody reads these words in the place of a message.
async fn reads_edit(
    client: &Client,
    room: &RoomId,
    of: &EventId,
    words: &str,
) -> Result<Message, ClientError> {
    let wanted = |message: &Message| {
        message.replaces.as_deref() == Some(of) && message.content["m.new_content"]["body"] == words
    };
    client.wait_for(room, LIMIT, wanted).await
}

/// Dr Murphy changes a message, and both patients read the new words; Ann changes it as well, by a client that lets her: she
/// is told that it is not hers, and nobody else reads it.
pub(super) async fn edited(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let talk = group(scene, "S17 edits").await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    let own = say(murphy, &talk.hub, "S17 come at four").await?;
    let at_anns = read(ann, &anns, "S17 come at four").await?.event_id;
    let at_bens = read(ben, &bens, "S17 come at four").await?.event_id;
    murphy.send_raw(&talk.hub, "m.room.message", edit_of(&own, "S17 come at five")).await?;
    let edit = reads_edit(ann, &anns, &at_anns, "S17 come at five").await?;
    reads_edit(ben, &bens, &at_bens, "S17 come at five").await?;
    let others = ann.send_raw(&anns, "m.room.message", edit_of(&at_anns, "S17 do not come")).await?;
    let told = |message: &Message| message.in_reply_to.as_ref() == Some(&others);
    say(ann, &anns, "S17 that is all").await?;
    read(murphy, &talk.hub, "S17 that is all").await?;
    if murphy.messages(&talk.hub).await?.iter().any(|m| m.content.to_string().contains("do not come")) {
        return Err("staff read what another hand has made of it".to_owned().into());
    }
    let notice = ann.wait_for(&anns, LIMIT, told).await?;
    if !notice.body.contains("(EDIT-1)") {
        return Err(format!("who changed another's words was told {:?}", notice.body).into());
    }
    Ok(format!(
        "{own} changed by {} in both rooms; another's {others} was answered {:?}",
        edit.event_id, notice.body
    ))
}

/// Who has reacted to an event in somebody's room, by the homeserver.
async fn reactions(client: &Client, room: &RoomId, to: &EventId) -> Result<Vec<Value>, ClientError> {
    let path = room_path(room, &format!("relations/{to}/m.annotation")).replace("/v3/", "/v1/");
    let (_, found) = client.http().call(Method::GET, &path, None).await?;
    Ok(found["chunk"].as_array().cloned().unwrap_or_default())
}

async fn has_reactions(
    client: &Client,
    room: &RoomId,
    to: &EventId,
    wanted: usize,
) -> Result<Vec<Value>, Trouble> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = reactions(client, room, to).await?;
        if found.len() == wanted {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("{to} has {} reactions instead of {wanted}", found.len()).into());
        }
        sleep(LOOK).await;
    }
}

/// Dr Murphy reacts to what Ann says: Ann sees it, and Ben's room has nothing. Ben reacts with the id of Ann's event, as a
/// client may that has heard of it: the homeserver itself refuses it.
pub(super) async fn reacted(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let talk = group(scene, "S17 reactions").await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    let asked = say(ann, &anns, "S17 may I come?").await?;
    let at_hub = read(murphy, &talk.hub, "S17 may I come?").await?.event_id;
    let thumb =
        |to: &EventId| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": to, "key": "👍" } });
    murphy.send_raw(&talk.hub, "m.reaction", thumb(&at_hub)).await?;
    let found = has_reactions(ann, &anns, &asked, 1).await?;
    ben.wait_for_room(LIMIT, |found| found.room_id == bens).await?;
    let path = room_path(&bens, "send/m.reaction/s17");
    let (status, answer) = ben.http().call(Method::PUT, &path, Some(thumb(&asked))).await?;
    if status != 400 {
        return Err(format!("a reaction to another room's event was answered {status} {answer}").into());
    }
    has_reactions(ann, &anns, &asked, 1).await?;
    has_reactions(murphy, &talk.hub, &at_hub, 1).await?;
    let path = room_path(&bens, "messages?dir=b&limit=100");
    let (_, page) = ben.http().call(Method::GET, &path, None).await?;
    let events = page["chunk"].as_array().map_or(&[][..], Vec::as_slice);
    let others = events
        .iter()
        .filter(|event| event["type"] == "m.reaction" && event["sender"] != ben.user_id().as_str());
    match others.count() {
        0 => Ok(format!(
            "{} stands under {asked} and in no other room; one by its id from another room: {status}",
            found[0]["event_id"].as_str().unwrap_or_default()
        )),
        strays => Err(format!("{strays} reactions stand in another patient's room").into()),
    }
}

async fn gone(client: &Client, room: &RoomId, event: &EventId) -> Result<(), ClientError> {
    let is_gone = |seen: &[Message]| {
        seen.iter()
            .any(|message| message.event_id == event && message.reading == Reading::Redacted)
            .then_some(())
    };
    client.wait_until(room, LIMIT, is_gone).await
}

/// Dr Murphy deletes a message by their own client, and it disappears from both patients' rooms; Ann tries to delete what is
/// not hers, by raw HTTP and by the practice API; a manager deletes hers, and has to say why.
pub(super) async fn deleted(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let talk = group(scene, "S18 deleted").await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    let own = say(murphy, &talk.hub, "S18 to the wrong people").await?;
    let at_anns = read(ann, &anns, "S18 to the wrong people").await?.event_id;
    let at_bens = read(ben, &bens, "S18 to the wrong people").await?.event_id;
    let path = room_path(&anns, &format!("redact/{at_anns}/s18"));
    let (status, answer) = ann.http().call(Method::PUT, &path, Some(json!({}))).await?;
    if (status, &answer["errcode"]) != (403, &json!("M_FORBIDDEN")) {
        return Err(format!("a patient's deletion of staff's words was answered {status}").into());
    }
    let delete = async |who: &Client, event: &EventId, body: Value| {
        let path = format!("/conversations/{}/messages/{event}", talk.id);
        scene.api(who, Method::DELETE, &path, Some(&body)).await.map(|(status, _)| status)
    };
    let why = || json!({ "reason": "S18 not for others" });
    let annas = say(ann, &anns, "S18 my own words").await?;
    let at_hub = read(murphy, &talk.hub, "S18 my own words").await?.event_id;
    let tried = [
        delete(ann, &at_anns, why()).await?,
        delete(ben, &annas, why()).await?,
        delete(murphy, &at_hub, json!({})).await?,
    ];
    if tried != [403, 404, 400] {
        return Err(
            format!("another's, one out of sight, and one without a reason were answered {tried:?}").into()
        );
    }
    murphy
        .send_raw(&talk.hub, "m.room.redaction", json!({ "redacts": own, "reason": "S18 a mistake" }))
        .await?;
    gone(ann, &anns, &at_anns).await?;
    gone(ben, &bens, &at_bens).await?;
    let kept = format!("/conversations/{}/messages/{own}/status", talk.id);
    let (_, kept) = scene.api(murphy, Method::GET, &kept, None).await?;
    if !kept["deleted_at"].is_i64() || kept["people"].as_array().is_none_or(Vec::is_empty) {
        return Err(format!("of the deleted message the record tells {kept}").into());
    }
    let status = delete(murphy, &at_hub, why()).await?;
    gone(ann, &anns, &annas).await?;
    gone(murphy, &talk.hub, &at_hub).await?;
    Ok(format!(
        "{own} is gone from {at_anns} and {at_bens}, and the record tells of it; a manager's deletion of {at_hub}: {status}, and it is gone; a patient's \
         of staff's words: 403 M_FORBIDDEN"
    ))
}
