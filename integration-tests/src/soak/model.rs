//! What must happen, by what people's own clients say: which messages were accepted, where they must arrive, and what has
//! been seen so far. It never asks Parlour.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use tokio::{sync::watch, time::Instant};

use super::plan::CHANGED;

/// The rooms of a conversation.
pub struct Rooms {
    /// Its id.
    pub id: String,
    /// The staff's.
    pub hub: OwnedRoomId,
    /// Each patient's, in the order of the cast.
    pub spokes: Vec<OwnedRoomId>,
}

/// What became of a message in its sender's own client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is being sent.
    Sending,
    /// The client got an event id.
    Accepted(OwnedEventId),
    /// The client gave up: nobody knows whether it stands in the room.
    Unknown,
    /// The homeserver refused it, at the first attempt: responses are switched off.
    Forbidden,
}

/// A reaction that was accepted.
#[derive(Clone, Debug)]
pub struct Reacted {
    /// The message that it is about.
    pub to: usize,
    /// Where it must arrive.
    pub targets: Vec<OwnedRoomId>,
    /// Where it may stand or not: whoever comes and goes may have gone before it was handled.
    pub perhaps: Vec<OwnedRoomId>,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Which conversation.
    pub talk: usize,
    /// Where it was written.
    pub from: OwnedRoomId,
    /// Who wrote it, by the place among the people.
    pub author: usize,
    /// Where it must arrive.
    pub targets: Vec<OwnedRoomId>,
    /// The message that it says other words for.
    pub edits: Option<usize>,
    /// Whether its writer has deleted it: it must stand nowhere.
    pub deleted: bool,
    /// What became of it.
    pub fate: Fate,
    /// When it was begun to be sent.
    pub begun_at: Instant,
    /// When its client got the event id.
    pub accepted_at: Option<Instant>,
    /// Where it may stand or not: it was on its way when somebody was included or excluded.
    pub perhaps: BTreeSet<OwnedRoomId>,
    /// How often whoever comes and goes had come or gone when it was begun.
    changes: usize,
    unseen: BTreeSet<OwnedRoomId>,
}

/// Whether whoever comes and goes takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Participation {
    /// What is written reaches them.
    In,
    /// Nobody knows.
    Between,
    /// What is written does not reach them.
    Out,
}

/// A message that can be answered, or reacted to.
#[derive(Clone)]
pub struct Answerable {
    /// Which one it is.
    pub number: usize,
    /// Its event in the room where the answer is written.
    pub event_id: OwnedEventId,
    /// Where an answer must arrive.
    pub lane: Vec<OwnedRoomId>,
}

/// How far the run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Accepted messages.
    pub accepted: usize,
    /// Their legs.
    pub legs: usize,
    /// Legs that were not seen yet.
    pub in_flight: usize,
    /// Notices of the bot that something was not delivered.
    pub refused: usize,
    /// When a leg was seen last.
    pub last_seen: Instant,
    /// When the youngest of the messages was accepted of which a leg was seen.
    pub youngest_seen: Instant,
}

struct State {
    messages: Vec<Sent>,
    reactions: Vec<Reacted>,
    /// Who has begun to react to what.
    reacting: BTreeSet<(usize, usize)>,
    deleted_by_api: BTreeSet<usize>,
    answerable: HashMap<OwnedRoomId, VecDeque<Answerable>>,
    progress: Progress,
    /// Whoever comes and goes, and how often that has changed.
    participation: (Participation, usize),
}

/// The model.
pub struct Model {
    /// The rooms of each conversation.
    pub talks: Vec<Rooms>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// So many messages of a room can be answered.
const LAST: usize = 12;

impl Model {
    /// Nothing was said yet.
    pub fn new(talks: Vec<Rooms>) -> Self {
        let now = Instant::now();
        let progress =
            Progress { accepted: 0, legs: 0, in_flight: 0, refused: 0, last_seen: now, youngest_seen: now };
        let state = State {
            messages: Vec::new(),
            reactions: Vec::new(),
            reacting: BTreeSet::new(),
            deleted_by_api: BTreeSet::new(),
            answerable: HashMap::new(),
            progress,
            participation: (Participation::In, 0),
        };
        Self { talks, state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.state().progress
    }

    /// Waits until the run is so far.
    pub async fn wait_until(&self, wanted: impl Fn(&Progress) -> bool) {
        let mut changed = self.changed.subscribe();
        while !wanted(&self.progress()) {
            changed.changed().await.unwrap_or(());
        }
    }

    /// All messages, by their numbers.
    pub fn messages(&self) -> Vec<Sent> {
        self.state().messages.clone()
    }

    /// What can be answered in a room.
    pub fn answerable(&self, room: &RoomId) -> Vec<Answerable> {
        self.state().answerable.get(room).map(|last| last.iter().cloned().collect()).unwrap_or_default()
    }

    /// All reactions.
    pub fn reactions(&self) -> Vec<Reacted> {
        self.state().reactions.clone()
    }

    /// What somebody has said in a room that can still be changed or deleted: the messages' numbers.
    pub fn own(&self, room: &RoomId, author: usize) -> Vec<usize> {
        let state = self.state();
        let own = state.messages.iter().enumerate().rev().filter(|(_, sent)| {
            let is_own = sent.author == author && sent.from == room && sent.edits.is_none();
            is_own && !sent.deleted && matches!(sent.fate, Fate::Accepted(_))
        });
        own.map(|(number, _)| number).take(LAST).collect()
    }

    /// The event of a message that was accepted, and where it must arrive.
    pub fn sent_as(&self, number: usize) -> Option<(OwnedEventId, Vec<OwnedRoomId>)> {
        let state = self.state();
        let message = &state.messages[number];
        let Fate::Accepted(event_id) = &message.fate else { return None };
        Some((event_id.clone(), message.targets.clone()))
    }

    /// Somebody is about to react to a message; not, if they have before.
    pub fn reacts(&self, author: usize, to: usize) -> bool {
        self.state().reacting.insert((author, to))
    }

    /// A reaction was accepted.
    pub fn reacted(&self, to: usize, lane: Vec<OwnedRoomId>) {
        let (perhaps, targets) = lane.into_iter().partition(|room| room == self.changing());
        self.state().reactions.push(Reacted { to, targets, perhaps });
    }

    /// Nobody knows whether a reaction was accepted.
    pub fn perhaps_reacted(&self, to: usize, perhaps: Vec<OwnedRoomId>) {
        self.state().reactions.push(Reacted { to, targets: Vec::new(), perhaps });
    }

    /// A manager has deleted a message.
    pub fn deleted_by_api(&self, number: usize) {
        self.state().deleted_by_api.insert(number);
        self.deleted(number);
    }

    /// How many messages a manager has deleted.
    pub fn deletions_by_api(&self) -> usize {
        self.state().deleted_by_api.len()
    }

    /// A message was deleted: nobody needs to see it any more, nor what was said in its place.
    pub fn deleted(&self, number: usize) {
        let mut state = self.state();
        let state = &mut *state;
        let all = state.messages.iter_mut().enumerate();
        for (_, message) in all.filter(|(other, sent)| *other == number || sent.edits == Some(number)) {
            message.deleted = true;
            let unseen = std::mem::take(&mut message.unseen).len();
            if matches!(message.fate, Fate::Accepted(_)) {
                state.progress.in_flight -= unseen;
            }
        }
        self.tick();
    }

    /// The homeserver refused a message.
    pub fn forbidden(&self, number: usize) {
        self.state().messages[number].fate = Fate::Forbidden;
        self.tick();
    }

    /// The room of whoever comes and goes.
    pub fn changing(&self) -> &OwnedRoomId {
        let spokes = &self.talks[CHANGED].spokes;
        &spokes[spokes.len() - 1]
    }

    /// Whoever comes and goes takes part or not from now on.
    pub fn participation_is(&self, participation: Participation) {
        let mut state = self.state();
        state.participation = (participation, state.participation.1 + 1);
        drop(state);
        self.tick();
    }

    /// Waits until everything is seen that was accepted while whoever comes and goes took part.
    pub async fn nothing_is_on_its_way_to_the_changing(&self) {
        let room = self.changing();
        let mut changed = self.changed.subscribe();
        let is_on_its_way = || {
            let state = self.state();
            state
                .messages
                .iter()
                .any(|sent| matches!(sent.fate, Fate::Accepted(_)) && sent.unseen.contains(room))
        };
        while is_on_its_way() {
            changed.changed().await.unwrap_or(());
        }
    }

    /// Somebody is about to write: the message's number.
    pub fn write(
        &self,
        talk: usize,
        from: &RoomId,
        author: usize,
        targets: Vec<OwnedRoomId>,
        edits: Option<usize>,
    ) -> usize {
        let mut state = self.state();
        let unseen = targets.iter().cloned().collect();
        let (from, changes) = (from.to_owned(), state.participation.1);
        // Other words stand where their message does.
        let perhaps = edits.map(|edited| state.messages[edited].perhaps.clone()).unwrap_or_default();
        state.messages.push(Sent {
            talk,
            from,
            author,
            targets,
            edits,
            deleted: false,
            fate: Fate::Sending,
            begun_at: Instant::now(),
            accepted_at: None,
            perhaps,
            changes,
            unseen,
        });
        state.messages.len() - 1
    }

    /// The sender's client got an event id.
    pub fn accepted(&self, number: usize, event_id: OwnedEventId) {
        let mut state = self.state();
        let participation = state.participation;
        let message = &mut state.messages[number];
        message.reaches(self.changing(), participation);
        message.fate = Fate::Accepted(event_id);
        let now = Instant::now();
        message.accepted_at = Some(now);
        let (legs, unseen) = (message.targets.len(), message.unseen.len());
        state.progress.accepted += 1;
        state.progress.legs += legs;
        state.progress.in_flight += unseen;
        if unseen < legs {
            state.progress.youngest_seen = now;
        }
        self.settle(&mut state, number);
        drop(state);
        self.tick();
    }

    /// The sender's client gave up.
    pub fn unknown(&self, number: usize) {
        let mut state = self.state();
        let message = &mut state.messages[number];
        message.reaches(self.changing(), (Participation::Between, message.changes));
        message.fate = Fate::Unknown;
        drop(state);
        self.tick();
    }

    /// A client in the room sees the message.
    pub fn seen(&self, number: usize, room: &RoomId, event_id: OwnedEventId) {
        let mut state = self.state();
        let Some(message) = state.messages.get_mut(number) else { return };
        if !message.unseen.remove(room) {
            return;
        }
        let (lane, accepted_at) = (vec![message.from.clone()], message.accepted_at);
        let is_edit = message.edits.is_some();
        if matches!(message.fate, Fate::Accepted(_)) {
            state.progress.in_flight -= 1;
        }
        state.progress.last_seen = Instant::now();
        state.progress.youngest_seen =
            state.progress.youngest_seen.max(accepted_at.unwrap_or(state.progress.youngest_seen));
        if !is_edit {
            state.can_be_answered(room, Answerable { number, event_id, lane });
        }
        self.settle(&mut state, number);
        drop(state);
        self.tick();
    }

    /// What arrived everywhere can be answered where it was written: not before, for till then Parlour may not know it.
    fn settle(&self, state: &mut State, number: usize) {
        let message = &state.messages[number];
        let settled = message.unseen.is_empty() && message.edits.is_none();
        if let (Fate::Accepted(event_id), true) = (&message.fate, settled) {
            let answer = Answerable { number, event_id: event_id.clone(), lane: message.targets.clone() };
            let from = message.from.clone();
            state.can_be_answered(&from, answer);
        }
    }

    /// The bot said that something was not delivered.
    pub fn refused(&self) {
        self.state().progress.refused += 1;
        self.tick();
    }

    fn tick(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Sent {
    /// Whether it must stand in the room of whoever comes and goes, by what they were all the time while it was sent.
    fn reaches(&mut self, room: &OwnedRoomId, (participation, changes): (Participation, usize)) {
        if !self.targets.contains(room) || (participation == Participation::In && changes == self.changes) {
            return;
        }
        self.targets.retain(|target| target != room);
        self.unseen.remove(room);
        if participation == Participation::Between || changes != self.changes {
            self.perhaps.insert(room.clone());
        }
    }
}

impl State {
    fn can_be_answered(&mut self, room: &RoomId, answer: Answerable) {
        let last = self.answerable.entry(room.to_owned()).or_default();
        last.push_back(answer);
        if last.len() > LAST {
            last.pop_front();
        }
    }
}

/// The words of a message: no two are the same.
pub fn body(number: usize, author: &str, words: &str) -> String {
    format!("#{number} {author}: {words}")
}

/// Whether a message may be deleted, by its writer; nobody reacts to those, for whoever is too late is told so.
pub fn may_be_deleted(number: usize) -> bool {
    number.is_multiple_of(4)
}

/// Whether a manager may delete a message; nobody reacts to those, nor changes them.
pub fn managers_may_delete(number: usize) -> bool {
    number % 4 == 3
}

/// The number of the message that says this.
pub fn number(body: &str) -> Option<usize> {
    let body = body.strip_prefix("* ").unwrap_or(body);
    body.strip_prefix('#')?.split(' ').next()?.parse().ok()
}
