//! What reached somebody of a case: searched for what they must not know, and told in a way that is the same whenever the same
//! has happened to them.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use parlour_domain::Timestamp;
use reqwest::Method;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::person::Person;
pub use super::person::Seen;
use crate::room_path;

/// Where a secret was found, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What it is.
    pub what: String,
    /// What stands around it.
    pub around: String,
}

/// So much is shown of what stands around a leak.
const AROUND: usize = 120;
/// A number from here on is a time.
const A_TIME: i64 = 1_000_000_000_000;

/// Asks for what [`view`] tells of beside what came by itself.
///
/// # Panics
/// When something that must be there is refused.
pub async fn asks_for_the_view(person: &mut Person, room: &RoomId, conversation: &str) {
    let (status, told) = person.ask(Method::GET, &room_path(room, "state"), None).await;
    assert_eq!(status, 200, "{told}");
    person.ask_practice(Method::GET, "/conversations", None).await;
    person.ask_practice(Method::GET, &format!("/conversations/{conversation}"), None).await;
    person.fetches_files(room).await;
    let events: Vec<_> = person.timeline(room).iter().map(|seen| seen.id().to_owned()).collect();
    for event in events {
        // Of what is no message there is no status.
        let path = format!("/conversations/{conversation}/messages/{event}/status");
        person.ask_practice(Method::GET, &path, None).await;
    }
}

/// Asks for all that a patient's client can ask for about a conversation, by what it knows: the room, its events, whom it sees in
/// it; and for others by name.
///
/// # Panics
/// When something that must be there is refused.
pub async fn asks_for_everything(person: &mut Person, room: &RoomId, conversation: &str, names: &[String]) {
    let events: Vec<_> = person.timeline(room).iter().map(|seen| seen.id().to_owned()).collect();
    let mut paths: Vec<_> = ["state", "members", "joined_members", "messages?dir=b&limit=500"]
        .map(|rest| room_path(room, rest))
        .into();
    for event in &events {
        paths.push(room_path(room, &format!("context/{event}?limit=20")));
        paths.push(room_path(room, &format!("event/{event}")));
        paths.push(room_path(room, &format!("relations/{event}")).replace("/v3/", "/v1/"));
    }
    let members: BTreeSet<_> = person
        .timeline(room)
        .iter()
        .filter_map(|seen| seen.event["sender"].as_str().map(str::to_owned))
        .collect();
    paths.extend(members.iter().map(|user| format!("/_matrix/client/v3/profile/{user}")));
    for path in paths {
        let (status, told) = person.ask(Method::GET, &path, None).await;
        assert_eq!(status, 200, "{path}: {told}");
    }
    for path in ["sync", "joined_rooms", "notifications", "pushers"] {
        let (status, told) = person.ask(Method::GET, &format!("/_matrix/client/v3/{path}"), None).await;
        assert_eq!(status, 200, "{path}: {told}");
    }
    let devices: BTreeMap<_, _> = members.iter().map(|user| (user, json!([]))).collect();
    let query = json!({ "device_keys": devices });
    person.ask(Method::POST, "/_matrix/client/v3/keys/query", Some(&query)).await;
    for name in names {
        let directory = json!({ "search_term": name });
        let found =
            person.ask(Method::POST, "/_matrix/client/v3/user_directory/search", Some(&directory)).await.1;
        assert_eq!(found["results"], json!([]), "somebody is found by name: {found}");
        let search = json!({ "search_categories": { "room_events": { "search_term": name } } });
        let found = person.ask(Method::POST, "/_matrix/client/v3/search", Some(&search)).await.1;
        // It may be switched off.
        let results = &found["search_categories"]["room_events"]["results"];
        assert!(results.as_array().is_none_or(Vec::is_empty), "somebody is found by name: {found}");
    }
    person.ask_practice(Method::GET, "/practice", None).await;
    person.ask_practice(Method::GET, "/status", None).await;
    for path in ["/teams".to_owned(), format!("/conversations/{conversation}/events")] {
        let (status, told) = person.ask_practice(Method::GET, &path, None).await;
        assert!([403, 404].contains(&status), "{path}: {status} {told}");
    }
    asks_for_the_view(person, room, conversation).await;
}

/// Every secret that stands in what reached somebody: as it is, as JSON or a path writes it, or in base64.
pub fn leaks(got: &[Value], secrets: &[(String, String)]) -> Vec<Leak> {
    // What the patient has asked by, they knew.
    let got = got.iter().cloned().map(|mut got| {
        got["asked"] = Value::Null;
        got
    });
    // The same is told again and again.
    let texts: BTreeSet<String> = got.flat_map(|got| pieces(&got)).collect();
    let text: String = texts.into_iter().collect::<Vec<_>>().join("\n");
    let mut leaks = Vec::new();
    for (what, secret) in secrets {
        for (how, form) in forms(secret) {
            if let Some(place) = memmem::find(text.as_bytes(), form.as_bytes()) {
                let from = text.floor_char_boundary(place.saturating_sub(AROUND));
                let until = text.ceil_char_boundary((place + form.len() + AROUND).min(text.len()));
                leaks.push(Leak { what: format!("{what}, {how}"), around: text[from..until].to_owned() });
                break;
            }
        }
    }
    leaks
}

/// What told somebody that a ghost is writing: nobody hears of it across the bridge.
pub fn typing_ghosts(person: &Person) -> Option<Leak> {
    let joined = person.got.iter().filter_map(|got| got["body"]["rooms"]["join"].as_object()).flatten();
    let mut edus = joined.filter_map(|(_, news)| news["ephemeral"]["events"].as_array()).flatten();
    let told = edus.find(|edu| edu["type"] == "m.typing" && edu.to_string().contains(NAMESPACE))?;
    Some(Leak { what: "that a ghost is writing".to_owned(), around: told.to_string() })
}

/// How the accounts of ghosts begin.
const NAMESPACE: &str = "@_parlour_";

/// A text of all that stands in a value, in pieces that are often the same: events, of which answers are full.
fn pieces(value: &Value) -> Vec<String> {
    let mut texts = Vec::new();
    let rest = without_events(value, &mut texts);
    texts.push(rest.to_string());
    texts
}

fn without_events(value: &Value, events: &mut Vec<String>) -> Value {
    match value {
        Value::Object(fields) if fields.contains_key("event_id") && fields.contains_key("type") => {
            events.push(value.to_string());
            Value::Null
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), without_events(value, events)));
            Value::Object(fields.collect())
        }
        Value::Array(list) => list.iter().map(|value| without_events(value, events)).collect(),
        other => other.clone(),
    }
}

/// A secret as it may be written.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
    let escaped = Value::from(secret).to_string();
    let percent: String = secret
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    let mut forms = vec![
        ("raw", secret.to_owned()),
        ("escaped", escaped.trim_matches('"').to_owned()),
        ("percent-encoded", percent),
    ];
    // In base64 it depends on how many bytes stand before; what its neighbours decide is cut off.
    for before in 0..3_usize {
        let padded = [&b"\0\0\0"[..before], secret.as_bytes()].concat();
        let encoded = base64(&padded);
        let from = (before * 8).div_ceil(6);
        let until = padded.len() * 8 / 6;
        forms.push(("in base64", encoded[from..until].to_owned()));
        forms.push(("in base64 for URLs", encoded[from..until].replace('+', "-").replace('/', "_")));
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    matrix_sdk_crypto::vodozemac::base64_encode(bytes)
}

/// What is the same whenever the same has happened to somebody: ids by what they stand for, times by how long after the
/// beginning, no ciphertexts.
pub struct Names {
    /// By what they are in fact.
    pub of: BTreeMap<String, String>,
    /// When it began, where time is told in steps.
    pub begun: Option<Timestamp>,
}

impl Names {
    fn told(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let mut text = text.clone();
                for (id, name) in self.of.iter().rev() {
                    // Most texts name nobody, and this is found out sooner.
                    if memmem::find(text.as_bytes(), id.as_bytes()).is_some() {
                        text = text.replace(id.as_str(), name);
                    }
                }
                text.into()
            }
            Value::Number(number) if number.as_i64().is_some_and(|number| number > A_TIME) => {
                let after = self.begun.zip(number.as_i64()).map(|(begun, at)| at - begun.millis());
                match after {
                    Some(after) if after >= 0 => format!("<after {after} ms>").into(),
                    Some(_) => "<before>".into(),
                    None => "<time>".into(),
                }
            }
            Value::Array(list) => list.iter().map(|value| self.told(value)).collect(),
            Value::Object(fields) => {
                let name = |key: &String| match self.told(&Value::from(key.as_str())) {
                    Value::String(name) => name,
                    _ => key.clone(),
                };
                let fields = fields.iter().map(|(key, value)| (name(key), self.told(value)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }
}

/// What looks told beside the conversation's room: of other rooms, and of whose devices have changed, each once. Where it stands
/// among the rest is the homeserver's matter.
fn aside(person: &Person, room: &RoomId, names: &Names) -> BTreeSet<String> {
    let looks =
        person.got.iter().filter(|got| got["asked"].as_str().is_some_and(|asked| asked.contains("since=")));
    let mut told = BTreeSet::new();
    for body in looks.map(|got| &got["body"]) {
        let mut adds = |line: Value| told.insert(names.told(&line).to_string());
        // A real homeserver tells of all these at other times.
        if names.begun.is_some() {
            for (part, told) in body.as_object().into_iter().flatten() {
                if told.as_object().is_some_and(|told| !told.is_empty()) {
                    adds(json!(["told of", part]));
                }
            }
            for kind in ["changed", "left"] {
                for user in body["device_lists"][kind].as_array().into_iter().flatten() {
                    adds(json!(["devices", kind, user]));
                }
            }
        }
        for (kind, rooms) in body["rooms"].as_object().into_iter().flatten() {
            let others = rooms.as_object().into_iter().flatten().filter(|(id, _)| *id != room.as_str());
            for (_, news) in others {
                for part in ["state", "timeline", "ephemeral", "invite_state"] {
                    for event in news[part]["events"].as_array().into_iter().flatten() {
                        adds(json!(["elsewhere", kind, part, event["type"], event["sender"]]));
                    }
                }
            }
        }
    }
    told
}

/// What happened in a room since somebody came into it.
pub fn since_they_came<'a>(person: &'a Person, room: &RoomId) -> impl Iterator<Item = &'a Seen> {
    let came = |seen: &&Seen| {
        seen.event["type"] == "m.room.member"
            && seen.event["state_key"] == person.user_id.as_str()
            && seen.event["content"]["membership"] == "join"
    };
    person.timeline(room).iter().skip_while(move |seen| !came(seen))
}

/// Whether somebody's phone is told of an event (Matrix v1.19 client-server §Push rules: the predefined ones).
pub fn is_pushed(event: &Value, user: &str) -> bool {
    let replaces = event["content"]["m.relates_to"]["rel_type"] == "m.replace";
    event["type"] == "m.room.encrypted" && event["sender"] != user && !replaces
}

/// What the phone was told of a room's events, but for how much is unread elsewhere as well.
fn pushes(person: &Person, room: &RoomId, names: &Names) -> Vec<String> {
    let pushed = person.got.iter().map(|got| &got["pushed"]["notification"]);
    let pushed =
        pushed.filter(|pushed| pushed["room_id"] == room.as_str() && pushed["type"] == "m.room.encrypted");
    let told = pushed.map(|pushed| {
        let mut pushed = pushed.clone();
        if let Some(fields) = pushed.as_object_mut() {
            fields.retain(|key, _| !["counts", "devices"].contains(&key.as_str()));
            let content = fields.get("content").and_then(Value::as_object).into_iter().flatten();
            fields["content"] = content.map(|(key, _)| key.as_str()).collect();
        }
        names.told(&json!(["a push", pushed])).to_string()
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}

/// What somebody's client shows of a conversation, line by line.
pub fn view(person: &Person, room: &OwnedRoomId, conversation: &str, names: &mut Names) -> Vec<String> {
    // How a room comes about is the homeserver's matter.
    let timeline: Vec<_> = since_they_came(person, room).collect();
    assert!(!timeline.is_empty(), "they were never there");
    // What is said and what is set are each in order; which of them is first when both happen at once is nobody's doing.
    let (set, said): (Vec<&Seen>, Vec<&Seen>) =
        timeline.into_iter().partition(|seen| seen.event["state_key"].is_string());
    let places =
        said.iter().enumerate().map(|(place, seen)| (seen.id().to_owned(), format!("<event {place}>")));
    let places: BTreeMap<_, _> = places.collect();
    names.of.extend(places.clone());
    let mut lines = Vec::new();
    for seen in said.into_iter().chain(set) {
        let event = &seen.event;
        let mut plain = match &seen.plain {
            Some((kind, content)) => json!({ "type": kind, "content": content }),
            None => json!("cannot be read"),
        };
        if let Some(content) = plain.get_mut("content").and_then(Value::as_object_mut) {
            content.retain(|key, _| !key.starts_with("io.parlour.leg"));
            // Its place and its keys are chance.
            if let Some(file) = content.get_mut("file").and_then(Value::as_object_mut) {
                file.values_mut().for_each(|value| *value = Value::Null);
            }
        }
        let fields: Vec<_> =
            event["content"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
        let at = &event["origin_server_ts"];
        let line = json!([event["sender"], event["type"], event["state_key"], at, fields, plain]);
        lines.push(names.told(&line).to_string());
    }
    // In the order in which they came.
    let mut others = Vec::new();
    let looks =
        person.got.iter().filter(|got| got["asked"].as_str().is_some_and(|asked| asked.contains("since=")));
    for got in looks {
        let body = &got["body"];
        let joined = &body["rooms"]["join"][room.as_str()];
        for edu in joined["ephemeral"]["events"].as_array().into_iter().flatten() {
            for (event, kinds) in
                edu["content"].as_object().into_iter().flatten().filter(|_| edu["type"] == "m.receipt")
            {
                for (kind, readers) in kinds.as_object().into_iter().flatten() {
                    for (reader, receipt) in readers.as_object().into_iter().flatten() {
                        others.push(
                            names.told(&json!(["a receipt", kind, reader, event, receipt])).to_string(),
                        );
                    }
                }
            }
            if edu["type"] != "m.receipt" {
                others.push(names.told(&json!(["ephemeral", edu])).to_string());
            }
        }
    }
    lines.extend(others);
    // Keys, and whatever else came to the device alone.
    let of_which = |got: &Value| got["content"]["room_id"].as_str().map(|of| of == room.as_str());
    let mut to_the_device: Vec<_> = person
        .got
        .iter()
        .filter(|got| got["to_a_device"] == true)
        .map(|got| {
            names.told(&json!(["to the device", got["type"], got["sender"], of_which(got)])).to_string()
        })
        .collect();
    to_the_device.sort();
    lines.extend(to_the_device);
    lines.extend(pushes(person, room, names));
    lines.extend(aside(person, room, names));
    // Of what was asked for, the last answers.
    let state = person.got.iter().rev().map(|got| &got["body"]).find(|body| {
        body.as_array().is_some_and(|events| events.iter().any(|event| event["type"] == "m.room.create"))
    });
    let mut state: Vec<_> = state
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|event| {
            names.told(&json!(["state", event["type"], event["state_key"], event["content"]])).to_string()
        })
        .collect();
    state.sort();
    lines.extend(state);
    let mut told: BTreeSet<String> = BTreeSet::new();
    for file in person.got.iter().filter(|got| got["file_of"].is_string()) {
        told.insert(names.told(&json!(["a file", file["file_of"], file["body"]])).to_string());
    }
    for body in person.got.iter().map(|got| &got["body"]) {
        if body["id"] == conversation {
            told.insert(names.told(&json!(["the practice", body])).to_string());
        }
        for entry in
            body["conversations"].as_array().into_iter().flatten().filter(|entry| entry["id"] == conversation)
        {
            told.insert(names.told(&json!(["in the list", entry])).to_string());
        }
    }
    for (event, name) in &places {
        let of = |got: &&Value| {
            got["asked"].as_str().is_some_and(|asked| asked.ends_with(&format!("/messages/{event}/status")))
        };
        let last = person.got.iter().rev().find(of).cloned().unwrap_or_default();
        let mut status = last["body"].clone();
        status["message"] = Value::Null;
        told.insert(names.told(&json!(["a status", name, last["status"], status])).to_string());
    }
    lines.extend(told);
    lines
}
