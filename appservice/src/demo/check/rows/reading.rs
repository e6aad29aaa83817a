//! Who has read what.

use reqwest::Method;
use ruma::EventId;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::super::{
    super::client::Client,
    scene::{Evidence, LIMIT, Scene, Talk, read, room_path, say},
};

const LOOK: Duration = Duration::from_millis(50);

async fn status(scene: &Scene, who: &Client, talk: &Talk, event: &EventId) -> Result<(u16, Value), String> {
    scene.api(who, Method::GET, &format!("/conversations/{}/messages/{event}/status", talk.id), None).await
}

/// Ann reads what Dr Murphy wrote to her and to Ben, and Dr Murphy hears of it by her name; Ben's private receipt is heard of by
/// nobody. Ann asks the same: she hears of no other patient, and Ben hears nothing of her room.
pub(super) async fn read_by(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let patients = [ann.user_id(), ben.user_id()];
    let wanted = json!({ "name": "S12 read", "mode": "two-way", "staff": [], "patients": patients });
    let talk = scene.begin(wanted).await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    let own = say(murphy, &talk.hub, "S12 your results are here").await?;
    let at_anns = read(ann, &anns, "S12 your results are here").await?.event_id;
    let at_bens = read(ben, &bens, "S12 your results are here").await?.event_id;
    let path = room_path(&bens, &format!("receipt/m.read.private/{at_bens}"));
    ben.http().call(Method::POST, &path, Some(json!({}))).await?;
    ann.read(&anns, &at_anns).await?;
    let deadline = Instant::now() + LIMIT;
    let told = loop {
        let (code, told) = status(scene, murphy, &talk, &own).await?;
        if code == 200 && told["read"] == 1 {
            break told;
        }
        if Instant::now() > deadline {
            return Err(format!("it is not known that the patient has read it: {code} {told}").into());
        }
        sleep(LOOK).await;
    };
    let people = told["people"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |client: &Client| people.iter().find(|entry| entry["user_id"] == client.user_id().as_str());
    let states = [of(ann), of(ben)].map(|entry| entry.map_or(Value::Null, |entry| entry["status"].clone()));
    if states != ["read", "sent"] {
        return Err(format!("of the two, one of whom has read it, is told: {states:?}").into());
    }
    let (code, to_patient) = status(scene, ann, &talk, &at_anns).await?;
    if code != 200 || !to_patient["people"].is_null() || to_patient.to_string().contains("Carey") {
        return Err(format!("the patient is told {code} {to_patient}").into());
    }
    let (code, _) = status(scene, ben, &talk, &at_anns).await?;
    if code != 404 {
        return Err(format!("another patient's question was answered {code}").into());
    }
    Ok(format!(
        "{own}: read by Ann with {at_anns}, sent to Ben, whose private receipt for {at_bens} is nobody's; another patient's \
         question: {code}"
    ))
}
