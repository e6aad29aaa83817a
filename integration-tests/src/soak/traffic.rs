//! Who writes: one person after another thing, as fast as the run allows, and a client in each room that looks on.

use std::{sync::Arc, time::Duration};

use matrix_sdk::{HttpError, Room};
use parlour::demo::client::Client;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId,
    events::room::message::{MessageType, OriginalSyncRoomMessageEvent},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    model::{Answerable, Model, Participation, body, managers_may_delete, may_be_deleted, number},
    plan::{CHANGED, MANAGER, PEOPLE, TALKS, rng},
};
use crate::{crowd::Caller, token};

/// What the writers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// They may write until so many legs have been accepted.
    pub legs: usize,
    /// Whether the homeserver answers.
    pub homeserver: bool,
    /// Whether they are to stop.
    pub stop: bool,
}

/// More legs than these at once are not written.
const MOST_IN_FLIGHT: usize = 60;
/// The same where it is measured how soon messages travel again: not how long a homeserver takes that cannot keep up.
const MOST_IN_FLIGHT_WHILE_MEASURED: usize = 16;
const LONGEST_THOUGHT: u64 = 500;
/// How long a client tries one message: far longer than anything is away.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a conversation stays as it is, in milliseconds.
const FEWEST_BETWEEN_SWITCHES: u64 = 1_000;
const MOST_BETWEEN_SWITCHES: u64 = 5_000;
const AFTER_AN_ERROR: Duration = Duration::from_millis(300);
const WORDS: [&str; 8] = [
    "yes",
    "can I come at four?",
    "the surgery is closed on Monday",
    "grüße, ça va? 🌼",
    "thank you",
    "please bring the letter from the hospital with you, and the list of what you take",
    "one line\nand another",
    "no",
];

/// A person who writes.
pub struct Writer {
    /// Which of the people.
    pub person: usize,
    /// Their client.
    pub client: Arc<Client>,
    /// What must happen.
    pub model: Arc<Model>,
    /// What they are told.
    pub orders: watch::Receiver<Orders>,
    /// Whether they only write: where something is broken on purpose, what they say of it would be refused.
    plain: bool,
    /// Whether something is broken on purpose.
    broken: bool,
    /// The practice API, as they ask it.
    caller: Caller,
    rng: StdRng,
}

impl Writer {
    /// A person and their chance.
    pub fn new(
        person: usize,
        client: Arc<Client>,
        model: Arc<Model>,
        orders: watch::Receiver<Orders>,
        public_url: &str,
        (seed, broken, plain): (u64, bool, bool),
    ) -> Self {
        let rng = rng(seed, PEOPLE[person]);
        let caller = Caller::new(public_url, &token(&client));
        Self { person, client, model, orders, plain, broken, caller, rng }
    }

    /// Writes until told to stop.
    pub async fn write(mut self) {
        let name = PEOPLE[self.person];
        // Nothing is measured of what is broken on purpose.
        let most = if self.broken { MOST_IN_FLIGHT } else { MOST_IN_FLIGHT_WHILE_MEASURED };
        loop {
            sleep(Duration::from_millis(self.rng.random_range(0..LONGEST_THOUGHT))).await;
            loop {
                let orders = *self.orders.borrow();
                if orders.stop {
                    return;
                }
                let may_write = |orders: &Orders, legs: usize, in_flight: usize| {
                    orders.homeserver && legs < orders.legs && in_flight < most
                };
                let progress = self.model.progress();
                if may_write(&orders, progress.legs, progress.in_flight) {
                    break;
                }
                tokio::select! {
                    _ = self.orders.changed() => {}
                    () = self.model.wait_until(|now| may_write(&orders, now.legs, now.in_flight)),
                        if orders.homeserver => {}
                }
            }
            let (talk, room, targets, answered) = self.choose(name);
            let words = *WORDS.choose(&mut self.rng).unwrap_or(&"yes");
            match self.rng.random_range(0..100) {
                _ if self.plain => self.say(talk, room, targets, answered, words).await,
                0..15 => self.edit(talk, room, words).await,
                15..30 => self.react(room).await,
                30..40 => self.delete(room).await,
                40..60 if name == MANAGER => self.delete_by_api(talk, room).await,
                _ => self.say(talk, room, targets, answered, words).await,
            }
        }
    }

    fn choose(&mut self, name: &str) -> (usize, OwnedRoomId, Vec<OwnedRoomId>, Option<Answerable>) {
        let own: Vec<_> = (0..TALKS.len())
            .filter(|talk| TALKS[*talk].staff.contains(&name) || TALKS[*talk].patients.contains(&name))
            .collect();
        let talk = *own.choose(&mut self.rng).unwrap_or(&0);
        let (room, everybody) = place(&self.model, talk, name);
        // An answer to whoever has gone would be refused.
        let answers = self.rng.random_bool(0.5) && talk != CHANGED;
        let which: f64 = self.rng.random();
        let answerable = self.model.answerable(&room);
        if answers && !answerable.is_empty() {
            let answered = answerable[(which * answerable.len() as f64) as usize].clone();
            return (talk, room, answered.lane.clone(), Some(answered));
        }
        (talk, room, everybody, None)
    }

    /// Writes one message.
    pub async fn say(
        &mut self,
        talk: usize,
        room: OwnedRoomId,
        targets: Vec<OwnedRoomId>,
        answered: Option<Answerable>,
        words: &str,
    ) {
        let number = self.model.write(talk, &room, self.person, targets, None);
        let mut content = json!({ "msgtype": "m.text", "body": body(number, PEOPLE[self.person], words) });
        if let Some(answered) = answered {
            content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": answered.event_id } });
        }
        self.send(number, &room, &content).await;
    }

    /// Says other words for a message of theirs.
    async fn edit(&mut self, talk: usize, room: OwnedRoomId, words: &str) {
        let mut own = self.model.own(&room, self.person);
        own.retain(|number| !managers_may_delete(*number));
        let Some(edited) = own.choose(&mut self.rng).copied() else { return };
        let Some((event_id, targets)) = self.model.sent_as(edited) else { return };
        let number = self.model.write(talk, &room, self.person, targets, Some(edited));
        let words = body(number, PEOPLE[self.person], words);
        let content = json!({
            "msgtype": "m.text", "body": format!("* {words}"),
            "m.new_content": { "msgtype": "m.text", "body": words },
            "m.relates_to": { "rel_type": "m.replace", "event_id": event_id },
        });
        self.send(number, &room, &content).await;
    }

    /// Reacts to something that they have not reacted to before.
    async fn react(&mut self, room: OwnedRoomId) {
        let mut all = self.model.answerable(&room);
        all.retain(|answerable| {
            // What concerns nobody but whoever may have gone would be refused.
            let may_go = may_be_deleted(answerable.number) || managers_may_delete(answerable.number);
            !may_go && answerable.lane != [self.model.changing().clone()]
        });
        let Some(to) = all.choose(&mut self.rng).cloned() else { return };
        if !self.model.reacts(self.person, to.number) {
            return;
        }
        let relation = json!({ "rel_type": "m.annotation", "event_id": to.event_id, "key": "👍" });
        let content = json!({ "m.relates_to": relation });
        let id = format!("soak-reaction{}-{}", self.person, to.number).into();
        match self.persist(&room, "m.reaction", &content, &id).await {
            Tried::Done(_) => self.model.reacted(to.number, to.lane),
            Tried::Forbidden => {}
            // It may have come before its writer was put out.
            Tried::Unknown => self.model.perhaps_reacted(to.number, to.lane),
        }
    }

    /// Deletes a message of theirs.
    async fn delete(&mut self, room: OwnedRoomId) {
        let mut own = self.model.own(&room, self.person);
        own.retain(|number| may_be_deleted(*number));
        let Some(number) = own.choose(&mut self.rng).copied() else { return };
        let Some((event_id, _)) = self.model.sent_as(number) else { return };
        let content = json!({ "redacts": event_id });
        match self
            .persist(&room, "m.room.redaction", &content, &format!("soak-deletion{number}").into())
            .await
        {
            Tried::Done(_) => self.model.deleted(number),
            tried => panic!("{}'s deletion: {tried:?}", PEOPLE[self.person]),
        }
    }

    /// Deletes somebody's message by the practice API.
    async fn delete_by_api(&mut self, talk: usize, room: OwnedRoomId) {
        let mut all = self.model.answerable(&room);
        all.retain(|answerable| managers_may_delete(answerable.number));
        let Some(found) = all.choose(&mut self.rng).cloned() else { return };
        let conversation = self.model.talks[talk].id.clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.caller.delete(&conversation, &found.event_id).await {
                Some(200) => break,
                // While something is killed, nobody answers.
                answer => assert!(Instant::now() < deadline, "#{} is deleted: {answer:?}", found.number),
            }
            sleep(AFTER_AN_ERROR).await;
        }
        self.model.deleted_by_api(found.number);
    }

    async fn send(&mut self, number: usize, room: &OwnedRoomId, content: &Value) {
        match self.persist(room, "m.room.message", content, &format!("soak{number}").into()).await {
            Tried::Done(event_id) => self.model.accepted(number, event_id),
            Tried::Forbidden => self.model.forbidden(number),
            Tried::Unknown => self.model.unknown(number),
        }
    }

    /// Tries until the client has an event id. Each attempt has the same transaction id, as a client's own queue would do it.
    async fn persist(
        &mut self,
        room: &OwnedRoomId,
        event_type: &str,
        content: &Value,
        transaction_id: &OwnedTransactionId,
    ) -> Tried {
        let deadline = Instant::now() + PATIENCE;
        let mut first = true;
        loop {
            match self.attempt(room, event_type, content, transaction_id).await {
                Ok(event_id) => return Tried::Done(event_id),
                Err(403) if first => return Tried::Forbidden,
                // An earlier attempt may have come in time.
                Err(403) => return Tried::Unknown,
                Err(_) if Instant::now() > deadline => return Tried::Unknown,
                Err(_) => sleep(AFTER_AN_ERROR).await,
            }
            first = false;
            if self.orders.wait_for(|orders| orders.homeserver).await.is_err() {
                return Tried::Unknown;
            }
        }
    }

    /// The event id, or the status of the answer, 0 when there was none.
    async fn attempt(
        &self,
        room: &OwnedRoomId,
        event_type: &str,
        content: &Value,
        transaction_id: &OwnedTransactionId,
    ) -> Result<OwnedEventId, u16> {
        let room = self.client.matrix().get_room(room).ok_or(0_u16)?;
        if let Some(redacted) = content["redacts"].as_str() {
            let redacted = OwnedEventId::try_from(redacted).expect("an event id");
            let answer = room.redact(&redacted, None, Some(transaction_id.clone())).await;
            let status =
                |error: HttpError| error.as_client_api_error().map_or(0, |error| error.status_code.as_u16());
            return answer.map(|answer| answer.event_id).map_err(status);
        }
        let sending = room.send_raw(event_type, content.clone()).with_transaction_id(transaction_id);
        let status = |error: matrix_sdk::Error| {
            error.as_client_api_error().map_or(0, |error| error.status_code.as_u16())
        };
        sending.await.map(|sent| sent.response.event_id).map_err(status)
    }
}

/// What became of an attempt to send something.
#[derive(Debug)]
enum Tried {
    /// It stands in the room.
    Done(OwnedEventId),
    /// The homeserver did not take it, at the first attempt.
    Forbidden,
    /// It may stand there.
    Unknown,
}

/// Switches a conversation to one-way and back again, for as long as the run lasts.
pub struct Switcher {
    /// Who owns it.
    pub caller: Caller,
    /// Its id.
    pub conversation: String,
    /// What everybody is told.
    pub orders: watch::Receiver<Orders>,
}

impl Switcher {
    /// Switches until told to stop, and leaves it two-way. How often it was switched.
    pub async fn switch(mut self, seed: u64) -> usize {
        let mut rng = rng(seed, "switches");
        let mut switched = 0;
        loop {
            let pause =
                Duration::from_millis(rng.random_range(FEWEST_BETWEEN_SWITCHES..MOST_BETWEEN_SWITCHES));
            let stops = timeout(pause, self.orders.wait_for(|orders| orders.stop)).await.is_ok();
            if stops && switched % 2 == 0 {
                return switched;
            }
            let mode = if switched % 2 == 0 { "one-way" } else { "two-way" };
            // While something is killed, nobody answers.
            while !matches!(self.caller.switch(&self.conversation, mode).await, Some((200, _))) {
                sleep(AFTER_AN_ERROR).await;
            }
            switched += 1;
        }
    }
}

/// Excludes a patient and includes them again, for as long as the run lasts.
pub struct Changer {
    /// Who owns the conversation.
    pub caller: Caller,
    /// Its id.
    pub conversation: String,
    /// The patient.
    pub whom: OwnedUserId,
    /// What must happen.
    pub model: Arc<Model>,
    /// What everybody is told.
    pub orders: watch::Receiver<Orders>,
}

impl Changer {
    /// Goes on until told to stop, and leaves them included. How often they were excluded.
    pub async fn change(mut self, seed: u64) -> usize {
        let mut rng = rng(seed, "participants");
        let mut excluded = 0;
        loop {
            for participation in [Participation::Out, Participation::In] {
                let pause =
                    Duration::from_millis(rng.random_range(FEWEST_BETWEEN_SWITCHES..MOST_BETWEEN_SWITCHES));
                let stops = timeout(pause, self.orders.wait_for(|orders| orders.stop)).await.is_ok();
                if stops && participation == Participation::Out {
                    return excluded;
                }
                self.model.participation_is(Participation::Between);
                if participation == Participation::Out {
                    // What was written before reaches them only if it was handled before.
                    self.model.nothing_is_on_its_way_to_the_changing().await;
                }
                // While something is killed, nobody answers.
                while !self.is_asked(participation).await {
                    sleep(AFTER_AN_ERROR).await;
                }
                self.model.participation_is(participation);
            }
            excluded += 1;
        }
    }

    async fn is_asked(&self, participation: Participation) -> bool {
        let (conversation, whom) = (&self.conversation, &self.whom);
        let asked = match participation {
            Participation::Out => self.caller.exclude(conversation, whom).await,
            _ => self.caller.include(conversation, whom).await,
        };
        matches!(asked, Some((200, _)))
    }
}

/// Where somebody writes in a conversation, and where it arrives unless it answers somebody.
pub fn place(model: &Model, talk: usize, name: &str) -> (OwnedRoomId, Vec<OwnedRoomId>) {
    let rooms = &model.talks[talk];
    match TALKS[talk].patients.iter().position(|patient| *patient == name) {
        Some(own) => (rooms.spokes[own].clone(), vec![rooms.hub.clone()]),
        None => (rooms.hub.clone(), rooms.spokes.clone()),
    }
}

/// Has a client look on in some rooms, for as long as it lives; `name` is the run's.
pub fn look_on(client: &Client, model: &Arc<Model>, rooms: Vec<OwnedRoomId>, name: &str) {
    let (model, name) = (Arc::clone(model), name.to_owned());
    client.matrix().add_event_handler(move |event: OriginalSyncRoomMessageEvent, room: Room| {
        let (model, name) = (Arc::clone(&model), name.clone());
        let looked_at = rooms.iter().any(|looked_at| looked_at == room.room_id());
        async move {
            let body = event.content.body();
            match (&event.content.msgtype, number(body)) {
                _ if !looked_at => {}
                (MessageType::Notice(_), _) if body.starts_with("Not delivered") => {
                    eprintln!("{name}: {} was told: {body}", room.room_id());
                    model.refused();
                }
                (_, Some(number)) => model.seen(number, room.room_id(), event.event_id),
                _ => {}
            }
        }
    });
}
