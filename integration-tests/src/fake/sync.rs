//! What is new for somebody since they looked last (Matrix v1.19 client-server §Syncing).

use serde_json::{Map, Value, json};

use super::{
    Asker, Call,
    rooms::{House, Room},
};

impl House {
    /// The answer, and whether there is anything in it.
    pub(super) fn sync(&mut self, asker: &Asker, call: &Call<'_>) -> (Value, bool) {
        let since = (call.query)("since").and_then(|place| place_of(&place));
        let filter: Value = (call.query)("filter")
            .and_then(|filter| serde_json::from_str(&filter).ok())
            .unwrap_or(Value::Null);
        let from = since.unwrap_or(0);
        let user = asker.user.as_str();
        let takes = |part: &str| {
            filter["room"][part]["not_types"] != json!(["*"]) && filter["room"][part]["types"] != json!([])
        };
        let no_rooms = filter["room"]["rooms"] == json!([]);
        let (timeline, state, ephemeral) = (takes("timeline"), takes("state"), takes("ephemeral"));
        let limit = filter["room"]["timeline"]["limit"]
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(10);
        let (mut joined, mut invited, mut left) = (Map::new(), Map::new(), Map::new());
        for (id, room) in self.rooms.iter().filter(|(_, room)| !no_rooms && room.moved_at > from) {
            match room.membership(user, u64::MAX) {
                "join" => {
                    let news = room.news(user, from, (timeline, state, ephemeral), limit);
                    joined.extend(news.map(|news| (id.clone(), news)));
                }
                "invite" => {
                    let state = room.state_at(u64::MAX).into_iter().filter(|event| {
                        matches!(
                            &*event.kind,
                            "m.room.create" | "m.room.name" | "m.room.encryption" | "m.room.join_rules"
                        ) || event.state_key.as_deref() == Some(user)
                    });
                    let state: Vec<_> = state.map(|event| event.to_json(None)).collect();
                    invited.insert(id.clone(), json!({ "invite_state": { "events": state } }));
                }
                _ => {
                    let until = room.seen_by(user);
                    if since.is_some() && until > from {
                        let events = room.events.iter().filter(|event| event.at > from && event.at <= until);
                        let events: Vec<_> = events.map(|event| event.to_json(None)).collect();
                        left.insert(
                            id.clone(),
                            json!({ "timeline": { "events": events, "limited": false } }),
                        );
                    }
                }
            }
        }
        let changed: Vec<_> = self.changed_devices(user, since);
        let mut answer = json!({ "next_batch": format!("s{}_1", self.at), "device_lists": { "changed": changed, "left": [] } });
        let mut news = !joined.is_empty() || !invited.is_empty() || !left.is_empty() || !changed.is_empty();
        answer["rooms"] = json!({ "join": joined, "invite": invited, "leave": left });
        let device = asker.device.as_deref();
        if let Some(device) = device.and_then(|id| self.users.get_mut(user)?.devices.get_mut(id)) {
            // What was read is gone.
            device.inbox.retain(|(at, _)| *at > from);
            let events: Vec<_> = device.inbox.iter().map(|(_, event)| event).collect();
            news |= !events.is_empty();
            answer["to_device"] = json!({ "events": events });
            answer["device_one_time_keys_count"] = device.counts();
            answer["device_unused_fallback_key_types"] = json!(device.unused_fallback());
        }
        (answer, news || since.is_none())
    }

    /// Whose devices have changed, of those whom one shares a room with; and who shares one now and did not.
    fn changed_devices(&self, user: &str, since: Option<u64>) -> Vec<&str> {
        let Some(since) = since else { return Vec::new() };
        let moved: Vec<_> = self
            .users
            .iter()
            .filter(|(_, known)| known.devices_at > since)
            .map(|(id, _)| id.as_str())
            .collect();
        let shares = |other: &&str| self.rooms.values().any(|room| room.has(user) && room.has(other));
        let mut changed: Vec<_> = moved.into_iter().filter(shares).collect();
        for room in self.rooms.values().filter(|room| room.moved_at > since && room.has(user)) {
            let all_are_new = room.membership(user, since) != "join";
            for member in room.members() {
                if member != user
                    && (all_are_new || room.membership(member, since) != "join")
                    && !changed.contains(&member)
                {
                    changed.push(member);
                }
            }
        }
        changed
    }
}

impl Room {
    /// What is new for somebody who is in it.
    fn news(
        &self,
        user: &str,
        from: u64,
        (timeline, state, ephemeral): (bool, bool, bool),
        limit: usize,
    ) -> Option<Value> {
        let is_new = self.membership(user, from) != "join";
        let from = if is_new { 0 } else { from };
        let events: Vec<_> = self.events.iter().filter(|event| timeline && event.at > from).collect();
        let shown = &events[events.len().saturating_sub(limit)..];
        let limited = shown.len() < events.len();
        let mut receipts = json!({});
        for ((reader, kind), receipt) in &self.receipts {
            if receipt.at > from && (kind != "m.read.private" || reader == user) {
                receipts[&receipt.event][kind][reader] = json!({ "ts": receipt.sent_at });
            }
        }
        let mut told = Vec::new();
        if ephemeral && receipts != json!({}) {
            told.push(json!({ "type": "m.receipt", "content": receipts }));
        }
        if ephemeral && self.typing_at > from {
            told.push(json!({ "type": "m.typing", "content": { "user_ids": self.typing } }));
        }
        let before = shown.first().filter(|_| is_new || limited).map_or(0, |event| event.at - 1);
        let state: Vec<_> = if state && before > 0 { self.state_at(before) } else { Vec::new() };
        if shown.is_empty() && told.is_empty() && state.is_empty() {
            return None;
        }
        let as_json = |events: &[&super::rooms::Event]| {
            events.iter().map(|event| event.to_json(None)).collect::<Vec<_>>()
        };
        Some(json!({
            "timeline": {
                "events": as_json(shown), "limited": limited,
                "prev_batch": format!("t{}", shown.first().map_or(self.moved_at, |event| event.at)),
            },
            "state": { "events": as_json(&state) },
            "ephemeral": { "events": told },
        }))
    }
}

/// The place in everything that happened that a token of ours stands for.
fn place_of(token: &str) -> Option<u64> {
    token.strip_prefix('s')?.split('_').next()?.parse().ok()
}
