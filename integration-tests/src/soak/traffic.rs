//! Who writes: one person after another thing, as fast as the run allows, and a client in each room that looks on.

use std::{sync::Arc, time::Duration};

use matrix_sdk::Room;
use parlour::demo::client::Client;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::{
    OwnedRoomId, OwnedTransactionId,
    events::room::message::{MessageType, OriginalSyncRoomMessageEvent},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    model::{Answerable, Model, body, number},
    plan::{PEOPLE, TALKS, rng},
};

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
const LONGEST_THOUGHT: u64 = 500;
/// How long a client tries one message: far longer than anything is away.
const PATIENCE: Duration = Duration::from_secs(120);
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
    rng: StdRng,
}

impl Writer {
    /// A person and their chance.
    pub fn new(
        person: usize,
        client: Arc<Client>,
        model: Arc<Model>,
        orders: watch::Receiver<Orders>,
        seed: u64,
    ) -> Self {
        let rng = rng(seed, PEOPLE[person]);
        Self { person, client, model, orders, rng }
    }

    /// Writes until told to stop.
    pub async fn write(mut self) {
        let name = PEOPLE[self.person];
        loop {
            sleep(Duration::from_millis(self.rng.random_range(0..LONGEST_THOUGHT))).await;
            loop {
                let orders = *self.orders.borrow();
                if orders.stop {
                    return;
                }
                let may_write = |orders: &Orders, legs: usize, in_flight: usize| {
                    orders.homeserver && legs < orders.legs && in_flight < MOST_IN_FLIGHT
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
            self.say(talk, room, targets, answered, words).await;
        }
    }

    fn choose(&mut self, name: &str) -> (usize, OwnedRoomId, Vec<OwnedRoomId>, Option<Answerable>) {
        let own: Vec<_> = (0..TALKS.len())
            .filter(|talk| TALKS[*talk].staff.contains(&name) || TALKS[*talk].patients.contains(&name))
            .collect();
        let talk = *own.choose(&mut self.rng).unwrap_or(&0);
        let (room, everybody) = place(&self.model, talk, name);
        let answers = self.rng.random_bool(0.5);
        let which: f64 = self.rng.random();
        let answerable = self.model.answerable(&room);
        if answers && !answerable.is_empty() {
            let answered = answerable[(which * answerable.len() as f64) as usize].clone();
            return (talk, room, answered.lane.clone(), Some(answered));
        }
        (talk, room, everybody, None)
    }

    /// Writes one message and tries until the client has an event id. Each attempt has the same transaction id, as a
    /// client's own queue would do it.
    pub async fn say(
        &mut self,
        talk: usize,
        room: OwnedRoomId,
        targets: Vec<OwnedRoomId>,
        answered: Option<Answerable>,
        words: &str,
    ) {
        let number = self.model.write(talk, &room, self.person, targets);
        let mut content = json!({ "msgtype": "m.text", "body": body(number, PEOPLE[self.person], words) });
        if let Some(answered) = answered {
            content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": answered.event_id } });
        }
        let transaction_id: OwnedTransactionId = format!("soak{number}").into();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.attempt(&room, &content, &transaction_id).await {
                Some(event_id) => return self.model.accepted(number, event_id),
                None if Instant::now() > deadline => return self.model.unknown(number),
                None => sleep(AFTER_AN_ERROR).await,
            }
            if self.orders.wait_for(|orders| orders.homeserver).await.is_err() {
                return self.model.unknown(number);
            }
        }
    }

    async fn attempt(
        &self,
        room: &OwnedRoomId,
        content: &Value,
        transaction_id: &OwnedTransactionId,
    ) -> Option<ruma::OwnedEventId> {
        let room = self.client.matrix().get_room(room)?;
        let sending = room.send_raw("m.room.message", content.clone()).with_transaction_id(transaction_id);
        sending.await.ok().map(|sent| sent.response.event_id)
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

/// Has a client look on in some rooms, for as long as it lives.
pub fn look_on(client: &Client, model: &Arc<Model>, rooms: Vec<OwnedRoomId>) {
    let model = Arc::clone(model);
    client.matrix().add_event_handler(move |event: OriginalSyncRoomMessageEvent, room: Room| {
        let model = Arc::clone(&model);
        let looked_at = rooms.iter().any(|looked_at| looked_at == room.room_id());
        async move {
            let body = event.content.body();
            match (&event.content.msgtype, number(body)) {
                _ if !looked_at => {}
                (MessageType::Notice(_), _) if body.starts_with("Not delivered") => {
                    eprintln!("soak: {} was told: {body}", room.room_id());
                    model.refused();
                }
                (_, Some(number)) => model.seen(number, room.room_id(), event.event_id),
                _ => {}
            }
        }
    });
}
