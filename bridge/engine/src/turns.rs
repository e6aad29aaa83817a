//! Turns: how many requests the homeserver has from us at once, and whose is next.
//!
//! What makes many requests at once (a message to five hundred patients, a conversation with all of them) asks for a turn
//! for each. A turn that is free goes to the party that has the fewest requests under way, so that a message to one patient
//! overtakes one to all. What stands before it in the same portal goes as soon: in a portal nothing overtakes anything. How
//! many turns there are follows from how the homeserver answers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use parlour_domain::{ConversationId, MessageId, PortalId};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::homeserver::HomeserverError;

/// Few enough for any homeserver, enough to go on.
const FEWEST: f64 = 4.0;
/// More than this at once no homeserver answers any sooner: its events are made one after the other.
pub(crate) const MOST_TURNS: usize = 50;
const MOST: f64 = MOST_TURNS as f64;
const AT_FIRST: f64 = MOST;
/// What is asked of a homeserver that is not overrun is answered within this time, with all turns taken.
const SLOW: Duration = Duration::from_secs(2);
/// After an answer that was slow, and after one that said that it was too much.
const LESS: f64 = 0.8;
const MUCH_LESS: f64 = 0.5;
/// How many turns the conversations that are being made may have together: making a room is twenty times the work of a
/// message, and whoever writes meanwhile waits for what the homeserver has begun, in proportion. With fewer, Synapse looks
/// more often for what it has to do about new events: measured for 51 rooms, with 8 turns 170 times, with 16 107, and with
/// 32 90 times, a dozen statements each time.
pub(crate) const MAKING: usize = 16;

/// The part of all turns that rooms may have that are set to what they are to be like. There can be hundreds of
/// conversations of them at once, each a party of its own with hardly a request under way: the rest is for what is said.
const FOR_SETTING: f64 = 2.0 / 3.0;

/// On whose behalf a request is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// A message's legs.
    Message(MessageId),
    /// What is said in one portal and is no message.
    Portal(PortalId),
    /// A conversation that is being made.
    Making(ConversationId),
    /// A conversation whose rooms are set to what they are to be like: an event or two for each, as for a message.
    Setting(ConversationId),
}

impl Party {
    fn makes(&self) -> bool {
        matches!(self, Self::Making(_))
    }

    fn sets(&self) -> bool {
        matches!(self, Self::Setting(_))
    }
}

/// With more requests under way than this, or with rooms in the making, the homeserver has much to do.
const FEW: usize = 8;

/// The turns at the homeserver. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Whether the homeserver has much to do for us.
    crowded: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    under_way: usize,
    /// How many of those make conversations.
    making: usize,
    /// How many of those set rooms.
    setting: usize,
    parties: HashMap<Party, Queue>,
    /// Portals whose next turn is hurried.
    hurried: HashSet<PortalId>,
    served: u64,
    lowered: Option<Instant>,
}

/// So many portals are hurried before they ask, at most.
const MOST_HURRIED: usize = 1000;

/// Somebody who waits for a turn.
#[derive(Debug)]
struct Waiting {
    portal: Option<PortalId>,
    given: oneshot::Sender<Turn>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    under_way: usize,
    /// When it was served last, or began to wait, in turns.
    served: u64,
}

/// A turn that was given; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Turn {
    /// None when its end is counted already.
    turns: Option<Turns>,
    party: Party,
    begun: Instant,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let state = State {
            limit: AT_FIRST,
            under_way: 0,
            making: 0,
            setting: 0,
            parties: HashMap::new(),
            hurried: HashSet::new(),
            served: 0,
            lowered: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), crowded: watch::Sender::new(false) }))
    }

    /// Tells whether the homeserver has much to do for us just now.
    pub(crate) fn crowded(&self) -> watch::Receiver<bool> {
        self.0.crowded.subscribe()
    }

    /// Does this when it is its party's turn.
    pub(crate) async fn take<T>(
        &self,
        party: &Party,
        work: impl Future<Output = Result<T, HomeserverError>>,
    ) -> Result<T, HomeserverError> {
        self.take_in(party, None, work).await
    }

    /// As [`Turns::take`], for what is said in a portal.
    pub(crate) async fn take_in<T>(
        &self,
        party: &Party,
        portal: Option<&PortalId>,
        work: impl Future<Output = Result<T, HomeserverError>>,
    ) -> Result<T, HomeserverError> {
        let turn = self.turn(party, portal).await;
        let outcome = work.await;
        // To make a room takes long also where nothing else is asked.
        if !party.makes() || outcome.is_err() {
            self.state().learn(turn.begun, turn.begun.elapsed(), outcome.as_ref().err());
        }
        outcome
    }

    /// A turn, for requests that tell nothing of how much the homeserver bears. Whoever holds one must not wait for another.
    pub(crate) async fn turn(&self, party: &Party, portal: Option<&PortalId>) -> Turn {
        let (given, mine) = oneshot::channel();
        {
            let mut state = self.state();
            let party = match portal {
                Some(portal) if state.hurried.remove(portal) => Party::Portal(portal.clone()),
                _ => party.clone(),
            };
            let waiting = Waiting { portal: portal.cloned(), given };
            state.queue(party).waiting.push_back(waiting);
            self.give(&mut state);
        }
        match mine.await {
            Ok(turn) => turn,
            // Nobody drops what waits.
            Err(_) => Turn { turns: None, party: party.clone(), begun: Instant::now() },
        }
    }

    /// What is said next in a portal goes as soon as if it were said there alone: a message to few waits behind it.
    pub(crate) fn hurry(&self, portal: &PortalId) {
        let mut state = self.state();
        let taken = state.parties.iter_mut().find_map(|(party, queue)| {
            let place = queue.waiting.iter().position(|waiting| waiting.portal.as_ref() == Some(portal))?;
            Some((party.clone(), queue.waiting.remove(place)?))
        });
        match taken {
            Some((party, waiting)) => {
                state.leave_if_empty(&party);
                state.queue(Party::Portal(portal.clone())).waiting.push_back(waiting);
                self.give(&mut state);
            }
            None if state.hurried.len() < MOST_HURRIED => drop(state.hurried.insert(portal.clone())),
            None => {}
        }
    }

    /// Gives the turns that are free, and tells how much there is to do.
    fn give(&self, state: &mut State) {
        self.give_free(state);
        let crowded = state.making > 0 || state.under_way > FEW;
        self.0.crowded.send_if_modified(|before| std::mem::replace(before, crowded) != crowded);
    }

    fn give_free(&self, state: &mut State) {
        while (state.under_way as f64) < state.limit {
            let may_make = state.making < MAKING;
            let may_set = (state.setting as f64) < (state.limit * FOR_SETTING).floor();
            let next = state
                .parties
                .iter_mut()
                .filter(|(_, queue)| !queue.waiting.is_empty())
                .filter(|(party, _)| (may_make || !party.makes()) && (may_set || !party.sets()))
                .min_by_key(|(_, queue)| (queue.under_way, queue.served));
            let Some((party, queue)) = next else { return };
            let Some(waiting) = queue.waiting.pop_front() else { return };
            let turn = Turn { turns: Some(self.clone()), party: party.clone(), begun: Instant::now() };
            state.making += usize::from(party.makes());
            state.setting += usize::from(party.sets());
            state.served += 1;
            queue.served = state.served;
            queue.under_way += 1;
            state.under_way += 1;
            if let Err(mut turn) = waiting.given.send(turn) {
                // Whoever waited does not any more. Its end is counted here, where the state is held already.
                turn.turns = None;
                state.ended(&turn.party);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else { return };
        let mut state = turns.state();
        state.ended(&self.party);
        turns.give(&mut state);
    }
}

impl State {
    /// The queue of a party. One that has none yet waits behind those that have been waiting for as long as it has no request
    /// under way.
    fn queue(&mut self, party: Party) -> &mut Queue {
        let served = self.served;
        self.parties.entry(party).or_insert_with(|| Queue { served, ..Queue::default() })
    }

    fn ended(&mut self, party: &Party) {
        self.under_way = self.under_way.saturating_sub(1);
        self.making = self.making.saturating_sub(usize::from(party.makes()));
        self.setting = self.setting.saturating_sub(usize::from(party.sets()));
        if let Some(queue) = self.parties.get_mut(party) {
            queue.under_way = queue.under_way.saturating_sub(1);
        }
        self.leave_if_empty(party);
    }

    fn leave_if_empty(&mut self, party: &Party) {
        if self.parties.get(party).is_some_and(|queue| queue.under_way == 0 && queue.waiting.is_empty()) {
            self.parties.remove(party);
        }
    }

    /// What an answer tells about how many turns there should be.
    fn learn(&mut self, begun: Instant, took: Duration, error: Option<&HomeserverError>) {
        let too_much = match error {
            Some(HomeserverError::Unreachable(_)) => true,
            Some(HomeserverError::Refused { status, .. }) => *status == 429 || *status >= 500,
            _ => false,
        };
        let factor = match (too_much, took > SLOW) {
            (true, _) => MUCH_LESS,
            (false, true) => LESS,
            (false, false) => {
                // Only when more are wanted is it known that more are borne.
                if (self.under_way as f64) >= self.limit.floor() {
                    self.limit = (self.limit + 1.0 / self.limit).min(MOST);
                }
                return;
            }
        };
        // What was asked before the last step down says nothing about the time after it.
        if self.lowered.is_none_or(|lowered| begun > lowered) {
            self.limit = (self.limit * factor).max(FEWEST);
            self.lowered = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
