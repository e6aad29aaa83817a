//! The demo's first conversation: real clients of its people begin it and hold it.

use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::Method;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, Recovery, SignIn},
    practice::DemoPerson,
    report::{DemoError, Report},
    world::World,
};

const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether a conversation is made.
const LOOK: Duration = Duration::from_millis(50);

/// Has the demo's people hold their first conversation, unless they have.
///
/// # Errors
/// [`DemoError`], in one sentence.
pub async fn first_conversation(world: &mut World, report: &dyn Report) -> Result<(), DemoError> {
    if world.has_talked() {
        return Ok(());
    }
    report.step("conversation", "Signing people in, and letting them talk.");
    let people: Vec<_> = ["Murphy", "Kim", "Ann", "Ben", "Cara"]
        .iter()
        .filter_map(|name| world.people.iter().find(|person| person.is_meant_by(name)))
        .collect();
    let homeserver_url = world.homeserver_url();
    let clients = try_join_all(people.iter().map(|person| {
        let store = world.client_store(person);
        let homeserver_url = homeserver_url.clone();
        async move { sign_in(&homeserver_url, person, &store).await }
    }))
    .await?;
    let outcome = talk(world, &clients).await;
    for client in clients {
        client.stop().await;
    }
    outcome?;
    world.talked()
}

/// Signs a person in with the client whose store lies in a folder.
///
/// # Errors
/// When that fails.
pub async fn sign_in(
    homeserver_url: &str,
    person: &DemoPerson,
    store: &std::path::Path,
) -> Result<Client, DemoError> {
    let how = SignIn {
        homeserver_url,
        user_id: &person.user_id,
        password: &person.password,
        recovery: Recovery::Password,
        store,
        strict: false,
    };
    Ok(Client::sign_in(how).await?)
}

async fn talk(world: &World, clients: &[Client]) -> Result<(), DemoError> {
    let [murphy, kim, ann, ben, cara] = clients else {
        return Err(DemoError::Conversation("its people are not there".to_owned()));
    };
    let begun = begin_once(
        &world.public_url(),
        murphy,
        &json!({
            "name": "Flu clinic, Thursday",
            "subject": "Flu clinic",
            "mode": "two-way",
            "staff": [kim.user_id()],
            "patients": [ann.user_id(), ben.user_id(), cara.user_id()],
        }),
    )
    .await?;
    let hub = room(&begun["hub_room_id"])?;
    let spoke = |client: &Client| {
        let patients = begun["patients"].as_array().map_or(&[][..], Vec::as_slice);
        let own = patients.iter().find(|patient| patient["user_id"] == client.user_id().as_str());
        room(&own.unwrap_or(&Value::Null)["room_id"])
    };
    say(murphy, &hub, "The flu clinic is on Thursday from 2 to 6. Would you like a place?", None).await?;
    let asked = heard(ann, &spoke(ann)?, "Would you like a place?").await?;
    say(ann, &spoke(ann)?, "Yes please, after 4 if you can.", Some(&asked)).await?;
    let wish = heard(murphy, &hub, "after 4").await?;
    say(murphy, &hub, "You are down for half past four, Ann. See you then.", Some(&wish)).await?;
    heard(ann, &spoke(ann)?, "half past four").await?;
    say(ben, &spoke(ben)?, "I have had mine at work already, thank you.", None).await?;
    let declined = heard(kim, &hub, "at work already").await?;
    say(kim, &hub, "Good to know, Ben. I have put it into your record.", Some(&declined)).await?;
    heard(ben, &spoke(ben)?, "into your record").await.map(drop)
}

/// Begins a conversation unless an earlier start did, which was stopped half way.
async fn begin_once(public_url: &str, client: &Client, wanted: &Value) -> Result<Value, DemoError> {
    let listed = ask(public_url, client, Method::GET, "", None).await?;
    let all = listed["conversations"].as_array().map_or(&[][..], Vec::as_slice);
    match all.iter().find(|conversation| conversation["name"] == wanted["name"]) {
        Some(begun) => Ok(begun.clone()),
        None => begin(public_url, client, wanted).await,
    }
}

/// Begins a conversation as a member of staff, through the practice API, and waits until it is made; where that takes
/// longer than the limit, as it stands then.
///
/// # Errors
/// When the API refuses, with its own sentence.
pub async fn begin(public_url: &str, client: &Client, wanted: &Value) -> Result<Value, DemoError> {
    let mut told = ask(public_url, client, Method::POST, "", Some(wanted)).await?;
    let deadline = Instant::now() + LIMIT;
    while told["ready"] == false && Instant::now() < deadline {
        sleep(LOOK).await;
        let path = format!("/{}", told["id"].as_str().unwrap_or_default());
        told = ask(public_url, client, Method::GET, &path, None).await?;
    }
    Ok(told)
}

async fn ask(
    public_url: &str,
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, DemoError> {
    let token = client.matrix().access_token().unwrap_or_default();
    let mut request = reqwest::Client::new()
        .request(method, format!("{public_url}/_parlour/v1/conversations{path}"))
        .bearer_auth(token);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer =
        request.send().await.map_err(|_| DemoError::Conversation("Parlour did not answer".to_owned()))?;
    let made = answer.status().is_success();
    let body: Value =
        answer.json().await.map_err(|_| DemoError::Conversation("Parlour answered no JSON".to_owned()))?;
    if made { Ok(body) } else { Err(DemoError::Conversation(body["error"].to_string())) }
}

fn room(value: &Value) -> Result<OwnedRoomId, DemoError> {
    let id = value.as_str().and_then(|id| RoomId::parse(id).ok());
    id.ok_or_else(|| DemoError::Conversation("one of its rooms was not made".to_owned()))
}

async fn say(
    client: &Client,
    room: &RoomId,
    text: &str,
    to: Option<&ruma::EventId>,
) -> Result<(), DemoError> {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await?;
    if client.history(room, 50).await?.iter().any(|message| message.body == text) {
        return Ok(()); // An earlier start, stopped half way, has said it.
    }
    match to {
        Some(to) => client.reply(room, to, text).await?,
        None => client.send_text(room, text).await?,
    };
    Ok(())
}

async fn heard(client: &Client, room: &RoomId, words: &str) -> Result<ruma::OwnedEventId, DemoError> {
    Ok(client.wait_for(room, LIMIT, |message| message.body.contains(words)).await?.event_id)
}
