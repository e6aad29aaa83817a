//! What is told to people's phones by itself (Matrix v1.19 push gateway §Homeserver behaviour; client-server §Push rules: the
//! predefined ones). It is kept for each of them, and goes nowhere.

use serde_json::{Value, json};

use super::{
    Answer, Asker, BAD, Call, NOT_FOUND,
    rooms::{Event, House},
};

/// What is to be told to a phone.
#[derive(Default)]
pub(super) struct Phone {
    pusher: Value,
    told: Vec<Value>,
}

impl House {
    /// Everything under `/pushers`.
    pub(super) fn pushers(&mut self, asker: &Asker, call: &Call<'_>) -> Answer {
        let user = self.users.get_mut(&asker.user).ok_or(NOT_FOUND)?;
        match (call.method, &call.path[3..]) {
            ("GET", ["pushers"]) => {
                let pushers: Vec<_> = user.phone.iter().map(|phone| phone.pusher.clone()).collect();
                Ok(json!({ "pushers": pushers }))
            }
            ("POST", ["pushers", "set"]) => {
                let pusher = call.json();
                if pusher["kind"] != "http" || !pusher["data"]["url"].is_string() {
                    return Err(BAD);
                }
                user.phone = Some(Phone { pusher, told: Vec::new() });
                Ok(json!({}))
            }
            _ => self.does_not_know(call),
        }
    }

    /// What somebody's phone was told since this was asked last.
    pub(super) fn pushed(&mut self, user: &str) -> Vec<Value> {
        let phone = self.users.get_mut(user).and_then(|user| user.phone.as_mut());
        phone.map(|phone| std::mem::take(&mut phone.told)).unwrap_or_default()
    }

    /// Tells the phones of a room's members of an event: what is encrypted may be anything, but for what replaces another.
    pub(super) fn pushes(&mut self, room: &str, event: &Event) {
        let replaces = event.content["m.relates_to"]["rel_type"] == "m.replace";
        let Some(place) = self.rooms.get(room) else { return };
        if event.kind != "m.room.encrypted" || replaces {
            return;
        }
        let text = |kind: &str, key: &str, field: &str| {
            place.state(kind, key, event.at).map(|state| state.content[field].clone()).unwrap_or_default()
        };
        let mut told = json!({
            "id": event.id, "event_id": event.id, "room_id": room, "type": event.kind, "sender": event.sender,
            "prio": "high", "content": event.content,
        });
        for (field, text) in [
            ("room_name", text("m.room.name", "", "name")),
            ("sender_display_name", text("m.room.member", &event.sender, "displayname")),
        ] {
            if text.is_string() {
                told[field] = text;
            }
        }
        let members: Vec<String> = place.members().map(str::to_owned).collect();
        for member in members.into_iter().filter(|member| *member != event.sender) {
            if let Some(phone) = self.users.get_mut(&member).and_then(|user| user.phone.as_mut()) {
                phone.told.push(json!({ "notification": told }));
            }
        }
    }
}
