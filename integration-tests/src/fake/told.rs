//! What rooms tell whoever asks: no more than they could fetch (Matrix v1.19 client-server §Getting events for a room).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    Answer, Call, NOT_FOUND,
    rooms::{Event, House},
};

impl House {
    pub(super) fn told_of_room(
        &self,
        user: &str,
        room: &str,
        rest: &[&str],
        call: &Call<'_>,
    ) -> Option<Answer> {
        let place = self.rooms.get(room)?;
        let until = place.seen_by(user);
        let seen = || place.events.iter().filter(|event| event.at <= until);
        let of = |events: Vec<&Event>| {
            events.into_iter().map(|event| event.to_json(Some(room))).collect::<Vec<_>>()
        };
        let number =
            |name: &str, otherwise| (call.query)(name).and_then(|n| n.parse().ok()).unwrap_or(otherwise);
        Some(match rest {
            ["state"] => Ok(Value::Array(of(place.state_at(until)))),
            ["state", kind, key @ ..] => {
                let key = key.first().copied().unwrap_or_default();
                place.state(kind, key, until).map(|event| event.content.clone()).ok_or(NOT_FOUND)
            }
            ["members"] => {
                let without = (call.query)("not_membership");
                let mut members = place.state_at(until);
                members.retain(|event| {
                    event.kind == "m.room.member"
                        && event.content["membership"].as_str() != without.as_deref()
                });
                Ok(json!({ "chunk": of(members) }))
            }
            ["joined_members"] => {
                let names =
                    |user: &str| json!({ "display_name": self.users.get(user).and_then(|u| u.name.clone()) });
                let joined: Map<_, _> = place.members().map(|user| (user.to_owned(), names(user))).collect();
                Ok(json!({ "joined": joined }))
            }
            ["messages"] => {
                let backward = (call.query)("dir").as_deref() != Some("f");
                let from = (call.query)("from").and_then(|from| from.strip_prefix('t')?.parse::<u64>().ok());
                let mut events: Vec<_> = seen().collect();
                if backward {
                    events.reverse();
                    events.retain(|event| from.is_none_or(|from| event.at < from));
                } else {
                    events.retain(|event| from.is_none_or(|from| event.at > from));
                }
                let limit = usize::try_from(number("limit", 10)).unwrap_or(10);
                let more = events.len() > limit;
                events.truncate(limit);
                let mut page = json!({ "start": "t0" });
                if let Some(last) = events.last().filter(|_| more) {
                    page["end"] = format!("t{}", last.at).into();
                }
                page["chunk"] = of(events).into();
                Ok(page)
            }
            ["event", id] => {
                seen().find(|event| event.id == *id).map(|event| event.to_json(Some(room))).ok_or(NOT_FOUND)
            }
            ["context", id] => {
                let all: Vec<_> = seen().collect();
                let Some(index) = all.iter().position(|event| event.id == *id) else {
                    return Some(Err(NOT_FOUND));
                };
                let around = usize::try_from(number("limit", 10) / 2).unwrap_or(5);
                let before: Vec<_> = all[..index].iter().rev().take(around).copied().collect();
                let after: Vec<_> = all[index + 1..].iter().take(around).copied().collect();
                Ok(json!({
                    "event": all[index].to_json(Some(room)),
                    "events_before": of(before), "events_after": of(after),
                    "state": of(place.state_at(all[index].at)),
                }))
            }
            ["relations", id, ..] => {
                let related = |event: &&Event| event.content["m.relates_to"]["event_id"] == *id;
                Ok(json!({ "chunk": of(seen().filter(related).collect()) }))
            }
            _ => return None,
        })
    }

    /// `POST /user_directory/search` (Matrix v1.19 client-server §User directory): among those whom one shares a room with.
    pub(super) fn directory(&self, user: &str, term: &str) -> Value {
        let term = term.to_lowercase();
        let mut known = BTreeSet::new();
        for room in self.rooms.values().filter(|room| room.has(user)) {
            known.extend(room.members());
        }
        let found = known.into_iter().filter_map(|id| {
            let name = self.users.get(id)?.name.clone();
            let is_meant = id.to_lowercase().contains(&term)
                || name.as_deref().is_some_and(|name| name.to_lowercase().contains(&term));
            is_meant.then(|| json!({ "user_id": id, "display_name": name }))
        });
        json!({ "limited": false, "results": found.collect::<Vec<_>>() })
    }

    /// `POST /search` (Matrix v1.19 client-server §Server Side Search): what can be read of one's own rooms.
    pub(super) fn search(&self, user: &str, term: &str) -> Value {
        let mut results = Vec::new();
        for (id, room) in self.rooms.iter().filter(|(_, room)| room.has(user)) {
            let words =
                |event: &&Event| event.content["body"].as_str().is_some_and(|body| body.contains(term));
            results.extend(
                room.events.iter().filter(words).map(|event| json!({ "result": event.to_json(Some(id)) })),
            );
        }
        json!({ "search_categories": { "room_events": { "count": results.len(), "results": results } } })
    }
}
