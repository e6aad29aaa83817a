//! Rooms: what was said in them, what they are like, who may do what (Matrix v1.19 client-server §Rooms, room version 12).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parlour_domain::Clock;
use serde_json::{Value, json};

use super::{Answer, Asker, BAD, Call, FORBIDDEN, NOT_FOUND, Refused, devices::User};

/// An event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Its place in everything that happened.
    pub(super) at: u64,
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) sender: String,
    pub(super) state_key: Option<String>,
    pub(super) content: Value,
    sent_at: u64,
    redacts: Option<String>,
    redacted_because: Option<Value>,
}

/// Up to where somebody has read.
#[derive(Clone, Debug)]
pub(super) struct Receipt {
    pub(super) at: u64,
    pub(super) event: String,
    pub(super) sent_at: u64,
}

#[derive(Default)]
pub(super) struct Room {
    creator: String,
    pub(super) events: Vec<Event>,
    /// By user and kind.
    pub(super) receipts: BTreeMap<(String, String), Receipt>,
    pub(super) typing: BTreeSet<String>,
    /// When that changed.
    pub(super) typing_at: u64,
    /// When anything last happened in it.
    pub(super) moved_at: u64,
}

/// Everything that there is.
pub(super) struct House {
    clock: Arc<dyn Clock>,
    pub(super) server_name: String,
    pub(super) bot: String,
    /// How much has happened.
    pub(super) at: u64,
    pub(super) users: BTreeMap<String, User>,
    pub(super) tokens: HashMap<String, Asker>,
    pub(super) rooms: BTreeMap<String, Room>,
    pub(super) media: HashMap<String, Vec<u8>>,
    /// What was done by which transaction of which device, so that it is not done again.
    done: HashMap<(String, String), String>,
    /// What Parlour is still to hear.
    pub(super) to_parlour: Vec<Value>,
    pub(super) unknown: Vec<String>,
}

impl Event {
    /// As clients get it; those who sent it get their transaction's id as well.
    pub(super) fn to_json(&self, room: Option<&str>) -> Value {
        let mut event = json!({
            "event_id": self.id,
            "type": self.kind,
            "sender": self.sender,
            "origin_server_ts": self.sent_at,
            "content": self.content,
        });
        if let Some(room) = room {
            event["room_id"] = room.into();
        }
        if let Some(key) = &self.state_key {
            event["state_key"] = key.as_str().into();
        }
        if let Some(redacts) = &self.redacts {
            event["redacts"] = redacts.as_str().into();
        }
        if let Some(because) = &self.redacted_because {
            event["unsigned"] = json!({ "redacted_because": because });
        }
        event
    }

    fn is(&self, kind: &str, key: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some(key)
    }
}

impl Room {
    /// A state event as it stood at a place, or stands now.
    pub(super) fn state(&self, kind: &str, key: &str, by: u64) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.at <= by && event.is(kind, key))
    }

    pub(super) fn state_at(&self, by: u64) -> Vec<&Event> {
        let mut state: BTreeMap<(&str, &str), &Event> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.at <= by) {
            if let Some(key) = &event.state_key {
                state.insert((&event.kind, key), event);
            }
        }
        state.into_values().collect()
    }

    pub(super) fn membership(&self, user: &str, by: u64) -> &str {
        let member = self.state("m.room.member", user, by);
        member.and_then(|event| event.content["membership"].as_str()).unwrap_or("leave")
    }

    pub(super) fn has(&self, user: &str) -> bool {
        self.membership(user, u64::MAX) == "join"
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        let members: BTreeSet<&str> = self
            .events
            .iter()
            .filter(|event| event.kind == "m.room.member")
            .filter_map(|event| event.state_key.as_deref())
            .collect();
        members.into_iter().filter(|user| self.has(user))
    }

    /// Up to where somebody sees it: all that was said before they came, and nothing after they have gone.
    pub(super) fn seen_by(&self, user: &str) -> u64 {
        if self.has(user) {
            return u64::MAX;
        }
        let left = self
            .events
            .iter()
            .rev()
            .find(|event| event.is("m.room.member", user) && event.content["membership"] != "join");
        let was_in = |at: u64| self.membership(user, at.saturating_sub(1)) == "join";
        left.filter(|event| was_in(event.at)).map_or(0, |event| event.at)
    }

    fn level(&self, user: &str) -> i64 {
        if user == self.creator {
            return i64::MAX;
        }
        let levels = self.levels();
        levels["users"][user].as_i64().or_else(|| levels["users_default"].as_i64()).unwrap_or(0)
    }

    fn levels(&self) -> &Value {
        self.state("m.room.power_levels", "", u64::MAX).map_or(&Value::Null, |event| &event.content)
    }

    fn may_send(&self, user: &str, kind: &str, is_state: bool) -> bool {
        let levels = self.levels();
        let (otherwise, unsaid) = if is_state { ("state_default", 50) } else { ("events_default", 0) };
        let needed = levels["events"][kind].as_i64().or_else(|| levels[otherwise].as_i64()).unwrap_or(unsaid);
        self.has(user) && self.level(user) >= needed
    }

    fn may(&self, user: &str, what: &str, unsaid: i64) -> bool {
        self.has(user) && self.level(user) >= self.levels()[what].as_i64().unwrap_or(unsaid)
    }

    fn event(&self, id: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.id == id)
    }
}

impl House {
    pub(super) fn new(server_name: &str, bot: &str, clock: Arc<dyn Clock>) -> Self {
        let mut house = Self {
            clock,
            server_name: server_name.to_owned(),
            bot: bot.to_owned(),
            at: 0,
            users: BTreeMap::new(),
            tokens: HashMap::new(),
            rooms: BTreeMap::new(),
            media: HashMap::new(),
            done: HashMap::new(),
            to_parlour: Vec::new(),
            unknown: Vec::new(),
        };
        house.register(bot, None);
        house
    }

    /// In milliseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().millis()).unwrap_or_default()
    }

    pub(super) fn moves(&mut self) -> u64 {
        self.at += 1;
        self.at
    }

    /// A name that nothing else has, and that says nothing.
    pub(super) fn next_id(&mut self, kind: &str) -> String {
        let chance: [u8; 24] = rand::random();
        let hex = chance.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match kind {
            "event" | "room" => hex[..43].to_owned(),
            _ => hex,
        }
    }

    pub(super) fn register(&mut self, user: &str, name: Option<&str>) {
        self.users.entry(user.to_owned()).or_insert_with(|| User::named(name));
    }

    pub(super) fn login(&mut self, body: &Value) -> Answer {
        let user = body["identifier"]["user"].as_str().ok_or(BAD)?.to_owned();
        let device = body["device_id"].as_str().ok_or(BAD)?.to_owned();
        self.users.get_mut(&user).ok_or(FORBIDDEN)?.devices.entry(device.clone()).or_default();
        let token = self.next_id("token");
        let asker = Asker { user: user.clone(), device: Some(device.clone()), sent_at: None };
        self.tokens.insert(token.clone(), asker);
        Ok(json!({ "access_token": token, "user_id": user, "device_id": device }))
    }

    pub(super) fn rename(&mut self, user: &str, name: &str) {
        if let Some(known) = self.users.get_mut(user) {
            known.name = Some(name.to_owned());
        }
        let rooms: Vec<_> =
            self.rooms.iter().filter(|(_, room)| room.has(user)).map(|(id, _)| id.clone()).collect();
        for room in rooms {
            self.is_member(&room, user, user, "join");
        }
    }

    /// Puts an event into a room, of now unless it is of another time: whoever may is asked before.
    fn adds(
        &mut self,
        room: &str,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
        sent_at: Option<u64>,
    ) -> String {
        let id = format!("${}", self.next_id("event"));
        let (at, sent_at) = (self.moves(), sent_at.unwrap_or_else(|| self.now()));
        let redacts =
            (kind == "m.room.redaction").then(|| content["redacts"].as_str().map(str::to_owned)).flatten();
        let event = Event {
            at,
            id: id.clone(),
            kind: kind.to_owned(),
            sender: sender.to_owned(),
            state_key: state_key.map(str::to_owned),
            content,
            sent_at,
            redacts: redacts.clone(),
            redacted_because: None,
        };
        let told = event.to_json(Some(room));
        let place = self.rooms.entry(room.to_owned()).or_default();
        place.moved_at = at;
        if let Some(target) = redacts.and_then(|id| place.events.iter_mut().find(|event| event.id == id)) {
            target.content = json!({});
            target.redacted_because = Some(told.clone());
        }
        place.events.push(event.clone());
        self.pushes(room, &event);
        self.to_parlour.push(told);
        id
    }

    fn is_member(&mut self, room: &str, sender: &str, user: &str, membership: &str) {
        let mut content = json!({ "membership": membership });
        let name = self.users.get(user).and_then(|known| known.name.clone());
        // Whoever invites says nothing of whom they invite.
        if let Some(name) = name.filter(|_| membership == "join") {
            content["displayname"] = name.into();
        }
        self.adds(room, sender, "m.room.member", Some(user), content, None);
    }

    pub(super) fn joins(&mut self, room: &str, user: &str) -> Result<(), Refused> {
        let place = self.rooms.get(room).ok_or(NOT_FOUND)?;
        if place.has(user) {
            return Err(FORBIDDEN);
        }
        // As Synapse's admin does it: an invitation of the administrator's, which is accepted.
        if place.membership(user, u64::MAX) != "invite" {
            let bot = self.bot.clone();
            self.is_member(room, &bot, user, "invite");
        }
        self.is_member(room, user, user, "join");
        Ok(())
    }

    fn create(&mut self, user: &str, wanted: &Value) -> String {
        let room = format!("!{}", self.next_id("room"));
        self.rooms.insert(room.clone(), Room { creator: user.to_owned(), ..Room::default() });
        let mut creation = wanted["creation_content"].clone();
        creation["room_version"] = wanted["room_version"].clone();
        self.adds(&room, user, "m.room.create", Some(""), creation, None);
        self.is_member(&room, user, user, "join");
        let mut levels = json!({
            "users": {}, "users_default": 0,
            "events": {
                "m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
                "m.room.canonical_alias": 50, "m.room.avatar": 50, "m.room.tombstone": 150,
                "m.room.server_acl": 100, "m.room.encryption": 100,
            },
            "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50, "invite": 0, "historical": 100,
        });
        for (key, value) in wanted["power_level_content_override"].as_object().into_iter().flatten() {
            levels[key] = value.clone();
        }
        self.adds(&room, user, "m.room.power_levels", Some(""), levels, None);
        for state in wanted["initial_state"].as_array().into_iter().flatten() {
            let kind = state["type"].as_str().unwrap_or_default();
            self.adds(
                &room,
                user,
                kind,
                Some(state["state_key"].as_str().unwrap_or_default()),
                state["content"].clone(),
                None,
            );
        }
        for field in ["name", "topic"] {
            if let Some(text) = wanted[field].as_str() {
                let mut content = json!({ field: text });
                if field == "topic" {
                    content["m.topic"] = json!({ "m.text": [{ "body": text }] });
                }
                self.adds(&room, user, &format!("m.room.{field}"), Some(""), content, None);
            }
        }
        room
    }

    /// Everything under `/rooms`, and what makes and lists them.
    pub(super) fn in_rooms(&mut self, asker: &Asker, call: &Call<'_>) -> Answer {
        let (user, body) = (asker.user.clone(), call.json());
        let rest = &call.path[3..];
        match (call.method, rest) {
            ("POST", ["createRoom"]) => Ok(json!({ "room_id": self.create(&user, &body) })),
            ("GET", ["joined_rooms"]) => {
                let joined = self.rooms.iter().filter(|(_, room)| room.has(&user)).map(|(id, _)| id);
                Ok(json!({ "joined_rooms": joined.collect::<Vec<_>>() }))
            }
            ("POST", ["join", room] | ["rooms", room, "join"]) => {
                if self.rooms.get(*room).ok_or(NOT_FOUND)?.membership(&user, u64::MAX) == "leave" {
                    return Err(FORBIDDEN);
                }
                self.joins(room, &user)?;
                Ok(json!({ "room_id": room }))
            }
            (method, ["rooms", room, rest @ ..]) => {
                let place = self.rooms.get(*room).ok_or(FORBIDDEN)?;
                if place.seen_by(&user) == 0 && rest != ["leave"] {
                    return Err(FORBIDDEN);
                }
                match method {
                    "GET" => {
                        self.told_of_room(&user, room, rest, call).unwrap_or_else(|| self.does_not_know(call))
                    }
                    _ => self.done_in_room(asker, room, rest, call),
                }
            }
            _ => self.does_not_know(call),
        }
    }

    fn done_in_room(&mut self, asker: &Asker, room: &str, rest: &[&str], call: &Call<'_>) -> Answer {
        let (user, mut body) = (asker.user.clone(), call.json());
        let place = self.rooms.get(room).ok_or(NOT_FOUND)?;
        match (call.method, rest) {
            ("POST", ["leave"]) => {
                self.is_member(room, &user, &user, "leave");
                Ok(json!({}))
            }
            ("POST", ["invite" | "kick"]) => {
                let whom = body["user_id"].as_str().ok_or(BAD)?.to_owned();
                let (what, becomes) =
                    if rest == ["invite"] { ("invite", "invite") } else { ("kick", "leave") };
                let stands = place.membership(&whom, u64::MAX);
                let fits = if what == "invite" { stands != "join" } else { stands != "leave" };
                if !fits || !place.may(&user, what, 50) {
                    return Err(FORBIDDEN);
                }
                self.is_member(room, &user, &whom, becomes);
                Ok(json!({}))
            }
            ("PUT", ["typing", whom]) if *whom == user && place.has(&user) => {
                let at = self.moves();
                let place = self.rooms.get_mut(room).ok_or(NOT_FOUND)?;
                if body["typing"] == true {
                    place.typing.insert(user)
                } else {
                    place.typing.remove(&user)
                };
                (place.typing_at, place.moved_at) = (at, at);
                Ok(json!({}))
            }
            ("POST", ["receipt", kind, event]) if place.has(&user) => {
                let (at, sent_at) = (self.moves(), self.now());
                let place = self.rooms.get_mut(room).ok_or(NOT_FOUND)?;
                let told_at = place.event(event).ok_or(NOT_FOUND)?.at;
                let by = (user, (*kind).to_owned());
                // Who has read further has read this.
                let before =
                    place.receipts.get(&by).and_then(|receipt| Some(place.event(&receipt.event)?.at));
                if before.is_none_or(|before| before < told_at) {
                    place.receipts.insert(by, Receipt { at, event: (*event).to_owned(), sent_at });
                    place.moved_at = at;
                }
                Ok(json!({}))
            }
            ("PUT", ["state", kind, key @ ..]) => {
                let key = key.first().copied().unwrap_or_default();
                if !place.may_send(&user, kind, true) {
                    return Err(FORBIDDEN);
                }
                if let Some(same) = place.state(kind, key, u64::MAX).filter(|event| event.content == body) {
                    return Ok(json!({ "event_id": same.id }));
                }
                Ok(json!({ "event_id": self.adds(room, &user, kind, Some(key), body, None) }))
            }
            ("PUT", ["redact", event, transaction]) => {
                body["redacts"] = (*event).into();
                self.sends(asker, room, "m.room.redaction", transaction, body)
            }
            ("PUT", ["send", kind, transaction]) => self.sends(asker, room, kind, transaction, body),
            _ => self.does_not_know(call),
        }
    }

    fn sends(&mut self, asker: &Asker, room: &str, kind: &str, transaction: &str, content: Value) -> Answer {
        let known = (format!("{} {:?}", asker.user, asker.device), format!("{room} {kind} {transaction}"));
        if let Some(event) = self.done.get(&known) {
            return Ok(json!({ "event_id": event }));
        }
        let (user, place) = (asker.user.clone(), self.rooms.get(room).ok_or(NOT_FOUND)?);
        let target = content["redacts"].as_str().and_then(|id| place.event(id));
        let may = match kind {
            // One's own one may take back wherever one may send it; what others said, by a level of its own.
            "m.room.redaction" => {
                place.may_send(&user, kind, false)
                    && (target.is_some_and(|event| event.sender == user) || place.may(&user, "redact", 50))
            }
            _ => place.may_send(&user, kind, false),
        };
        if !may {
            return Err(FORBIDDEN);
        }
        let is_same = |event: &Event| {
            event.sender == user
                && event.kind == kind
                && event.content["m.relates_to"] == content["m.relates_to"]
        };
        if kind == "m.reaction" && place.events.iter().any(is_same) {
            return Err(Refused(400, "M_DUPLICATE_ANNOTATION"));
        }
        let event = self.adds(room, &user, kind, None, content, asker.sent_at);
        self.done.insert(known, event.clone());
        Ok(json!({ "event_id": event }))
    }
}
