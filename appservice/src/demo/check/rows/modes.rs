//! One-way and two-way.

use reqwest::Method;
use serde_json::json;

use super::super::scene::{Evidence, Scene, read, room_path, say};

/// Everybody else reads: the homeserver itself refuses what a patient sends, whatever their client.
pub(super) async fn one_way(scene: &Scene) -> Evidence {
    let (murphy, ben) = (&scene.murphy, &scene.ben);
    let wanted = json!({ "name": "S8 one-way", "mode": "one-way", "staff": [], "patients": [ben.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(ben)?;
    say(murphy, &talk.hub, "S8 please read this").await?;
    let message = read(ben, &spoke, "S8 please read this").await?;
    let path = room_path(&spoke, "send/m.room.encrypted/s8");
    let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let (status, answer) = ben.http().call(Method::PUT, &path, Some(body)).await?;
    if (status, &answer["errcode"]) != (403, &json!("M_FORBIDDEN")) {
        return Err(format!("the patient's PUT was answered {status} {}", answer["errcode"]).into());
    }
    ben.read(&spoke, &message.event_id).await?;
    Ok(format!("{} was read, and marked so; the patient's own PUT: {status} M_FORBIDDEN", message.event_id))
}

/// Responses are switched off and on again: the homeserver itself takes the patient's `PUT`, refuses it, and takes it again.
pub(super) async fn switched(scene: &Scene) -> Evidence {
    let (murphy, ben) = (&scene.murphy, &scene.ben);
    let wanted =
        json!({ "name": "S16 switched", "mode": "two-way", "staff": [], "patients": [ben.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(ben)?;
    let path = format!("/conversations/{}", talk.id);
    let switch =
        async |mode: &str| scene.api(murphy, Method::PATCH, &path, Some(&json!({ "mode": mode }))).await;
    let (status, answer) = scene.api(ben, Method::PATCH, &path, Some(&json!({ "mode": "one-way" }))).await?;
    if status != 403 {
        return Err(format!("the patient's own switch was answered {status} {answer}").into());
    }
    say(ben, &spoke, "S16 may I answer?").await?;
    read(murphy, &talk.hub, "S16 may I answer?").await?;
    switch("one-way").await?;
    let put = room_path(&spoke, "send/m.room.encrypted/s16");
    let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let (status, answer) = ben.http().call(Method::PUT, &put, Some(body)).await?;
    if (status, &answer["errcode"]) != (403, &json!("M_FORBIDDEN")) {
        return Err(
            format!("switched off, the patient's PUT was answered {status} {}", answer["errcode"]).into()
        );
    }
    say(murphy, &talk.hub, "S16 only I write").await?;
    let message = read(ben, &spoke, "S16 only I write").await?;
    ben.read(&spoke, &message.event_id).await?;
    switch("two-way").await?;
    say(ben, &spoke, "S16 thank you").await?;
    let answer = read(murphy, &talk.hub, "S16 thank you").await?;
    Ok(format!("off: {status} M_FORBIDDEN for the patient's own PUT; on again: {} came", answer.event_id))
}

/// The patient answers, staff answer that, and both answers point at the right message of their own room.
pub(super) async fn two_way(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let both = [ann.user_id(), ben.user_id()];
    let wanted = json!({ "name": "S14 two-way", "mode": "two-way", "staff": [], "patients": both });
    let talk = scene.begin(wanted).await?;
    let (spoke, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    let asked = say(murphy, &talk.hub, "S14 how are you?").await?;
    let question = read(ann, &spoke, "S14 how are you?").await?;
    let answered = ann.reply(&spoke, &question.event_id, "S14 better, thank you").await?;
    let answer = read(murphy, &talk.hub, "S14 better, thank you").await?;
    if answer.in_reply_to.as_ref() != Some(&asked) {
        return Err(
            format!("the patient's answer answers {:?} instead of {asked}", answer.in_reply_to).into()
        );
    }
    murphy.reply(&talk.hub, &answer.event_id, "S14 good to hear").await?;
    let last = read(ann, &spoke, "S14 good to hear").await?;
    if last.in_reply_to.as_ref() != Some(&answered) {
        return Err(format!("the staff's answer answers {:?} instead of {answered}", last.in_reply_to).into());
    }
    // Another patient answers her answer, whose id they cannot know: to staff it answers nothing, and to her it is not there.
    let stranger = json!({
        "msgtype": "m.text", "body": "S14 to a stranger", "m.relates_to": { "m.in_reply_to": { "event_id": answered } },
    });
    ben.send_raw(&bens, "m.room.message", stranger).await?;
    let came = read(murphy, &talk.hub, "S14 to a stranger").await?;
    if came.in_reply_to.is_some() {
        return Err(format!("an answer to another's message answers {:?}", came.in_reply_to).into());
    }
    say(murphy, &talk.hub, "S14 goodbye").await?;
    read(ann, &spoke, "S14 goodbye").await?;
    if ann.messages(&spoke).await?.iter().any(|message| message.body.contains("stranger")) {
        return Err("an answer to another's message reaches them".to_owned().into());
    }
    Ok(format!(
        "{asked} answered by {} answered by {}; an answer to another's message reaches staff alone, and answers nothing",
        answer.event_id, last.event_id
    ))
}
