//! The sender: every portal's legs in order, those of different portals side by side. What one user of ours says in many
//! portals is encrypted together; each leg is sent when its message has a turn at the homeserver; and what has landed
//! meanwhile is written down together.

mod delivery;
mod times;
mod wording;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use parlour_domain::{LegId, MessageId, PersonId, PortalId};
use ruma::{OwnedEventId, OwnedUserId};
use tokio::{
    sync::{Mutex, mpsc},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use self::{
    delivery::{LONGEST_PAUSE, Prepared},
    times::Times,
};
#[cfg(feature = "faults")]
use crate::faults::faulty;
use crate::{
    crypto::{CryptoError, Failed},
    engine::Core,
    store::{Leg, LegContent, Portal, StoreError},
};

const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
const AFTER_A_PANIC: Duration = Duration::from_secs(5);
/// How long after the last look at a leg that nobody can read there is another. News of a device is what ends the waiting.
const HELD: Duration = Duration::from_secs(600);
/// How many legs are encrypted together.
const MOST_TOGETHER: usize = 250;
/// How many legs a message has that is encrypted before those that have more.
const FEW: usize = 8;
/// From so many on, legs are encrypted in two steps: a part of them, and then the others while the homeserver takes in those.
const MANY: usize = 16;
/// Which part: by far the most of the time that a leg takes is the homeserver's.
const FIRST_PART: usize = 4;

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Speaker {
    Bot,
    Ghost(PersonId),
    User(OwnedUserId),
}

impl Speaker {
    fn of(leg: &Leg) -> Self {
        match &leg.content {
            LegContent::Message { sender, .. } => Self::Ghost(sender.clone()),
            LegContent::Notice { .. } => Self::Bot,
            LegContent::Redaction { by, .. } | LegContent::Deletion { by: Some(by), .. } => {
                Self::User(by.clone())
            }
            LegContent::Deletion { by: None, sender, .. } => Self::Ghost(sender.clone()),
        }
    }
}

/// The sender of an engine; dropping it ends all its work.
pub(crate) struct Sender(Mutex<Option<Running>>);

struct Running {
    wakes: mpsc::UnboundedSender<Vec<PortalId>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Has it look at these portals, now or as soon as it is done with what it does there.
    pub(crate) async fn wake(&self, core: &Arc<Core>, portals: Vec<PortalId>) {
        let mut running = self.0.lock().await;
        // It ends by itself only when it panics: whatever waits is looked for once a minute.
        drop(running.take_if(|running| running.task.is_finished()));
        let running = running.get_or_insert_with(|| {
            let (wakes, woken) = mpsc::unbounded_channel();
            Running { wakes, task: tokio::spawn(Dispatch::new(Arc::clone(core)).run(woken)) }
        });
        // It listens for as long as it is there.
        let _ = running.wakes.send(portals);
    }

    /// Ends all its work, and waits until it has ended.
    pub(crate) async fn stop(&self) {
        let Some(mut running) = self.0.lock().await.take() else { return };
        let (nobody, _) = mpsc::unbounded_channel();
        // Told by the end of the channel.
        drop(std::mem::replace(&mut running.wakes, nobody));
        let _ = (&mut running.task).await;
    }
}

/// Something that was begun and has ended.
enum Done {
    /// Legs were to be encrypted; others follow at once.
    Prepared { speaker: Speaker, legs: Vec<Leg>, outcomes: Vec<Result<Prepared, Failed>>, others: Vec<Leg> },
    /// A leg was sent; none stands in its room already, or is not to be sent.
    Delivered { portal: Portal, leg: LegId, event: Option<OwnedEventId> },
    /// These portals are to be looked at again, after this time.
    Again(Vec<PortalId>, Duration),
    /// What has landed in these portals is written down.
    Kept(Vec<PortalId>),
    /// It panicked.
    Panicked(Work, Vec<PortalId>),
}

/// A leg stands in its room as this event.
struct Landed {
    portal: Portal,
    leg: LegId,
    event: OwnedEventId,
}

/// What kind of thing was begun.
#[derive(Clone)]
enum Work {
    Sealing(Speaker),
    Delivering,
    Keeping,
}

struct Dispatch {
    core: Arc<Core>,
    /// Where something is under way; and whether it was woken meanwhile.
    busy: HashMap<PortalId, bool>,
    times: Times,
    /// Who encrypts just now.
    sealing: HashSet<Speaker>,
    /// What waits to be encrypted.
    waiting: HashMap<Speaker, Vec<Leg>>,
    /// What is encrypted before that, all of it together: the other part of what was begun.
    begun: HashMap<Speaker, Vec<Leg>>,
    /// What has landed and is not written down.
    landed: Vec<Landed>,
    keeping: bool,
    tasks: JoinSet<Done>,
}

impl Dispatch {
    fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            busy: HashMap::new(),
            times: Times::default(),
            sealing: HashSet::new(),
            waiting: HashMap::new(),
            begun: HashMap::new(),
            landed: Vec::new(),
            keeping: false,
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, mut woken: mpsc::UnboundedReceiver<Vec<PortalId>>) {
        loop {
            let next = self.times.next();
            let mut portals = HashSet::new();
            tokio::select! {
                wake = woken.recv() => match wake {
                    Some(wake) => portals.extend(wake),
                    None => break,
                },
                Some(done) = self.tasks.join_next() => portals.extend(self.done(done.ok())),
                () = until(next) => {}
            }
            // Whatever else has happened by now is looked at together.
            while let Ok(wake) = woken.try_recv() {
                portals.extend(wake);
            }
            while let Some(done) = self.tasks.try_join_next() {
                portals.extend(self.done(done.ok()));
            }
            self.keep_what_landed();
            portals.extend(self.times.due(Instant::now()));
            self.look(portals).await;
            self.seal_what_waits();
        }
        self.tasks.shutdown().await;
    }

    fn later(&mut self, portal: PortalId, after: Duration) {
        self.times.add(portal, Instant::now() + after);
    }

    /// Begins what is to be done in these portals.
    async fn look(&mut self, portals: HashSet<PortalId>) {
        let mut free = Vec::with_capacity(portals.len());
        for portal in portals {
            self.times.is_done(&portal);
            match self.busy.get_mut(&portal) {
                Some(woken) => *woken = true,
                None => free.push(portal),
            }
        }
        // When that ends, everybody is woken.
        if free.is_empty() || !self.core.may_work() {
            return;
        }
        let legs = match self.next_legs(&free).await {
            Ok(legs) => legs,
            Err(error) => {
                tracing::error!(%error, "the outbox could not be read");
                free.into_iter().for_each(|portal| self.later(portal, AFTER_AN_ERROR));
                return;
            }
        };
        for (portal, leg) in legs {
            match leg {
                Ok(leg) => match self.too_early(&leg) {
                    Some(early) => self.later(portal, early),
                    None => self.begin(leg),
                },
                Err(error) => {
                    tracing::error!(%portal, %error, "the outbox could not be read");
                    self.later(portal, AFTER_AN_ERROR);
                }
            }
        }
    }

    async fn next_legs(
        &self,
        portals: &[PortalId],
    ) -> Result<Vec<(PortalId, Result<Leg, StoreError>)>, StoreError> {
        #[cfg(feature = "faults")]
        if faulty!(self.core.settings, Unordered) {
            return self.core.store.newest_legs(portals).await;
        }
        self.core.store.next_legs(portals).await
    }

    /// How long a leg that was put off still waits. Nothing is put off for longer than the longest pause: what seems to
    /// be was put off before the clock was set back, and is due.
    fn too_early(&self, leg: &Leg) -> Option<Duration> {
        let early = u64::try_from(leg.next_attempt_at.millis() - self.core.clock.now().millis()).ok()?;
        Some(Duration::from_millis(early)).filter(|early| !early.is_zero() && *early <= LONGEST_PAUSE)
    }

    fn begin(&mut self, leg: Leg) {
        self.busy.insert(leg.portal.id.clone(), false);
        let speaker = Speaker::of(&leg);
        let speaks = matches!(leg.content, LegContent::Message { .. } | LegContent::Notice { .. });
        if leg.sealed.is_none() && speaks && !leg.content.is_void() {
            self.waiting.entry(speaker).or_default().push(leg);
            return;
        }
        let core = Arc::clone(&self.core);
        self.spawn(Work::Delivering, vec![leg.portal.id.clone()], async move {
            match core.resume(&leg).await {
                Ok(event) => Done::Delivered { portal: leg.portal, leg: leg.id, event },
                Err(error) => core.again(&leg, &error).await,
            }
        });
    }

    /// Has everybody encrypt who does not just now: one batch each.
    fn seal_what_waits(&mut self) {
        // When that ends, everybody is woken.
        if !self.core.may_work() {
            return;
        }
        let speakers: HashSet<_> = self.waiting.keys().chain(self.begun.keys()).cloned().collect();
        for speaker in speakers {
            if self.sealing.contains(&speaker) {
                continue;
            }
            let Some((legs, others)) = self.part_of(&speaker) else { continue };
            self.sealing.insert(speaker.clone());
            let core = Arc::clone(&self.core);
            let portals = legs.iter().chain(&others).map(|leg| leg.portal.id.clone()).collect();
            self.spawn(Work::Sealing(speaker.clone()), portals, async move {
                let outcomes = core.prepare(&speaker, &legs, &others).await;
                Done::Prepared { speaker, legs, outcomes, others }
            });
        }
    }

    /// What somebody encrypts next, and what of theirs follows at once.
    fn part_of(&mut self, speaker: &Speaker) -> Option<(Vec<Leg>, Vec<Leg>)> {
        if let Some(begun) = self.begun.remove(speaker) {
            return Some((begun, Vec::new()));
        }
        let (mut batch, rest) = batch(self.waiting.remove(speaker)?);
        if !rest.is_empty() {
            self.waiting.insert(speaker.clone(), rest);
        }
        let first = if batch.len() < MANY { batch.len() } else { batch.len().div_ceil(FIRST_PART) };
        let others = batch.split_off(first);
        Some((batch, others))
    }

    /// What follows from something that has ended: where to look again at once.
    fn done(&mut self, done: Option<Done>) -> Vec<PortalId> {
        match done {
            Some(Done::Prepared { speaker, legs, outcomes, others }) => {
                self.sealing.remove(&speaker);
                if !others.is_empty() {
                    self.begun.insert(speaker, others);
                }
                let conversations: HashSet<_> =
                    legs.iter().map(|leg| leg.portal.conversation.clone()).collect();
                conversations.iter().for_each(|conversation| self.core.changed(conversation));
                let again = legs.into_iter().zip(outcomes).map(|(leg, outcome)| self.prepared(leg, outcome));
                again.flatten().collect()
            }
            Some(Done::Delivered { portal, leg, event: Some(event) }) => {
                self.landed.push(Landed { portal, leg, event });
                Vec::new()
            }
            Some(Done::Delivered { portal, event: None, .. }) => self.freed(vec![portal.id], Duration::ZERO),
            Some(Done::Again(portals, after)) => self.freed(portals, after),
            Some(Done::Kept(portals)) => {
                self.keeping = false;
                self.freed(portals, Duration::ZERO)
            }
            Some(Done::Panicked(work, portals)) => {
                tracing::error!("sending panicked");
                match work {
                    Work::Sealing(speaker) => drop(self.sealing.remove(&speaker)),
                    Work::Keeping => self.keeping = false,
                    Work::Delivering => {}
                }
                self.freed(portals, AFTER_A_PANIC)
            }
            None => Vec::new(),
        }
    }

    /// What follows when a leg was to be encrypted.
    fn prepared(&mut self, leg: Leg, outcome: Result<Prepared, Failed>) -> Vec<PortalId> {
        let (core, portal) = (Arc::clone(&self.core), leg.portal.id.clone());
        match outcome {
            Ok(Prepared::Ready { intent, ciphertext }) => {
                self.spawn(Work::Delivering, vec![portal], async move {
                    match core.put(&leg, &intent, ciphertext, false).await {
                        Ok(event) => Done::Delivered { portal: leg.portal, leg: leg.id, event },
                        Err(error) => core.again(&leg, &error).await,
                    }
                });
                Vec::new()
            }
            Ok(Prepared::NotIn(machine)) => {
                self.spawn(Work::Delivering, vec![portal.clone()], async move {
                    match core.joined(&leg, &machine.intent().user_id).await {
                        Ok(()) => Done::Again(vec![portal], Duration::ZERO),
                        Err(error) => core.again(&leg, &error).await,
                    }
                });
                Vec::new()
            }
            Ok(Prepared::Held) => self.freed(vec![portal], HELD),
            Ok(Prepared::Gone) => self.freed(vec![portal], Duration::ZERO),
            Err(error) => {
                self.spawn(Work::Delivering, vec![portal], async move { core.again(&leg, &error).await });
                Vec::new()
            }
        }
    }

    /// Nothing is under way in these portals any more. Those to be looked at at once: all, or those that were woken.
    fn freed(&mut self, portals: Vec<PortalId>, after: Duration) -> Vec<PortalId> {
        let mut at_once = Vec::new();
        for portal in portals {
            let woken = self.busy.remove(&portal).unwrap_or(false);
            if woken || after.is_zero() {
                at_once.push(portal);
            } else {
                self.later(portal, after);
            }
        }
        at_once
    }

    /// Writes down what has landed, unless that is being done just now: then together with what lands meanwhile.
    fn keep_what_landed(&mut self) {
        if self.keeping || self.landed.is_empty() {
            return;
        }
        self.keeping = true;
        let (mut portals, mut legs, mut conversations) = (Vec::new(), Vec::new(), HashSet::new());
        for Landed { portal, leg, event } in self.landed.drain(..) {
            portals.push(portal.id);
            legs.push((leg, event));
            conversations.insert(portal.conversation);
        }
        let core = Arc::clone(&self.core);
        self.spawn(Work::Keeping, portals.clone(), async move {
            if let Err(error) = core.store.legs_have_landed(&legs, core.clock.now()).await {
                // They stand in their rooms, where they are found.
                tracing::error!(%error, "the outbox could not be written");
            }
            conversations.iter().for_each(|conversation| core.changed(conversation));
            Done::Kept(portals)
        });
    }

    fn spawn<F>(&mut self, work: Work, portals: Vec<PortalId>, doing: F)
    where
        F: Future<Output = Done> + Send + 'static,
    {
        self.tasks.spawn(async move {
            // A panic must not end all later looks at these portals: nobody else would ever do it.
            let done = AssertUnwindSafe(doing).catch_unwind().await;
            done.unwrap_or(Done::Panicked(work, portals))
        });
    }
}

impl Core {
    /// Sending a leg failed.
    async fn again(&self, leg: &Leg, error: &CryptoError) -> Done {
        Done::Again(vec![leg.portal.id.clone()], self.has_failed(leg, error).await)
    }
}

/// What is encrypted next of what waits, and the rest. A message to few does not wait for one to many to be encrypted.
fn batch(mut waiting: Vec<Leg>) -> (Vec<Leg>, Vec<Leg>) {
    let mut sizes: HashMap<Option<MessageId>, usize> = HashMap::new();
    for leg in &waiting {
        *sizes.entry(leg.message.clone()).or_default() += 1;
    }
    let size = |leg: &Leg| sizes.get(&leg.message).copied().unwrap_or_default();
    waiting.sort_by_key(|leg| (size(leg), leg.seq));
    let small = waiting.iter().take_while(|leg| size(leg) <= FEW).count();
    let rest = waiting.split_off(if small > 0 { small } else { waiting.len() }.min(MOST_TOGETHER));
    (waiting, rest)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
