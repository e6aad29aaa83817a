//! Both sides of a row that is held against the bare homeserver, round by round.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parlour_engine::CommitPoint;
use ruma::{OwnedEventId, RoomId};

use crate::{
    figures::{Figures, millis},
    practice::{Author, Practice, Used},
    replay::{Amount, IN_FLIGHT, Plan, kept_alive},
    table::Outcome,
    tap::Exchange,
};

/// One round of Parlour's side.
pub struct Round {
    /// The transaction's first byte.
    pub began: Instant,
    /// From the transaction's first byte to the last answer.
    pub wall: Duration,
    /// The processor time that was used from before the message until everything had come to rest.
    pub cpu: Used,
    /// What Parlour asked of the homeserver meanwhile, its bot's polls left out.
    pub asked: Vec<Exchange>,
}

/// What both sides took, round by round.
#[derive(Default)]
pub struct Sides {
    parlour: Figures,
    cpu: Figures,
    homeservers_cpu: Figures,
    bare: BTreeMap<usize, Bare>,
    amounts: Vec<(Amount, Amount)>,
    kinds: BTreeMap<&'static str, usize>,
    legs: usize,
}

/// What the bare side took at one number in flight: the time on the wall, and the homeserver's processor time.
#[derive(Default)]
struct Bare {
    wall: Figures,
    homeservers_cpu: Figures,
}

/// A broadcast may take so long.
const LONGEST: Duration = Duration::from_secs(180);

/// Has somebody write to so many patients, and follows it.
pub async fn broadcast(
    practice: &Practice,
    author: &Author,
    hub: &RoomId,
    legs: usize,
    words: &str,
) -> Round {
    practice.is_alone().await;
    drop((practice.to_homeserver.take(), practice.to_parlour.take()));
    let before = practice.used();
    let event = author.says(hub, words).await;
    let sent = practice.to_homeserver.have_been_sent(legs, LONGEST).await;
    assert!(sent, "{legs} legs are sent: {}", practice.log());
    practice.is_still().await;
    let cpu = practice.used().since(&before);
    round(practice, &event, cpu)
}

/// What went over the wire between a transaction and the last answer.
fn round(practice: &Practice, event: &OwnedEventId, cpu: Used) -> Round {
    let transactions = practice.to_parlour.take();
    let brings =
        |exchange: &&Exchange| String::from_utf8_lossy(&exchange.request.bytes).contains(event.as_str());
    let began = transactions.iter().find(brings).expect("the transaction with the message").request.began;
    let asked = practice.to_homeserver.take();
    let last_send = asked
        .iter()
        .filter(|asked| asked.point == Some(CommitPoint::SendEvent))
        .filter_map(|asked| asked.ended)
        .max()
        .expect("an event was sent");
    let within = |asked: &Exchange| {
        !asked.is_the_bots_poll() && asked.request.began >= began && asked.request.began <= last_send
    };
    let asked: Vec<_> = asked.into_iter().filter(within).collect();
    let ended = asked.iter().filter_map(|asked| asked.ended).max().unwrap_or(last_send);
    Round { began, wall: ended - began, cpu, asked }
}

impl Round {
    /// When the first request of each kind began and the last one was answered, in milliseconds after the transaction.
    pub fn course(&self) -> String {
        let mut spans: Vec<(&'static str, Instant, Instant)> = Vec::new();
        for asked in &self.asked {
            let (Some(point), Some(ended)) = (asked.point, asked.ended) else { continue };
            match spans.iter_mut().find(|(name, ..)| *name == point.name()) {
                Some((_, _, last)) => *last = ended.max(*last),
                None => spans.push((point.name(), asked.request.began, ended)),
            }
        }
        let after = |at: Instant| millis(at.saturating_duration_since(self.began));
        let spans = spans
            .into_iter()
            .map(|(name, began, ended)| format!("{name} {:.0}–{:.0}", after(began), after(ended)));
        format!("the last round's course, in ms: {}", spans.collect::<Vec<_>>().join(", "))
    }
}

impl Sides {
    /// For messages, or whatever, of so many legs.
    pub fn of(legs: usize) -> Self {
        Self { legs, ..Self::default() }
    }

    /// Parlour's side of a round.
    pub fn parlour(&mut self, round: &Round) {
        self.parlour.took(round.wall);
        self.cpu.push(millis(round.cpu.parlour) / self.legs as f64);
        self.homeservers_cpu.took(round.cpu.homeserver);
        let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
        for point in round.asked.iter().filter_map(|asked| asked.point) {
            *kinds.entry(point.name()).or_default() += 1;
        }
        for (name, count) in kinds {
            let most = self.kinds.entry(name).or_default();
            *most = count.max(*most);
        }
    }

    /// The bare side of a round: what Parlour asked in one of its own, at each number in flight, by these plans in turn.
    pub async fn bare<'a>(
        &mut self,
        practice: &Practice,
        plans: impl Fn(usize) -> &'a Plan,
        asked: &[Exchange],
        number: usize,
    ) {
        for turn in 0..IN_FLIGHT.len() {
            let plan = plans(turn);
            let in_flight = IN_FLIGHT[(turn + number) % IN_FLIGHT.len()];
            practice.freeze().await;
            let connections = kept_alive(practice.to_homeserver.port(), in_flight).await;
            practice.is_alone().await;
            drop(practice.to_homeserver.take());
            let before = practice.used();
            let took = plan.run(connections).await;
            let bare = self.bare.entry(in_flight).or_default();
            bare.wall.took(took);
            self.amounts.push((Amount::of(asked), Amount::of(&practice.to_homeserver.take())));
            practice.is_still().await;
            bare.homeservers_cpu.took(practice.used().since(&before).homeserver);
            practice.thaw().await;
        }
    }

    /// What it came to: the wall time against the best of the bare side, Parlour's own processor time a leg.
    pub fn outcome(&self, row: &'static str, what: &str, most: f64, most_cpu: f64) -> Outcome {
        let mut outcome = Outcome::default();
        self.against_bare(&mut outcome, row, what, most);
        outcome.entry(row, "Parlour's own processor time", self.cpu.median(), most_cpu, "ms a leg");
        outcome
    }

    /// The wall time against the best of the bare side.
    pub fn against_bare(&self, outcome: &mut Outcome, row: &'static str, what: &str, most: f64) {
        let best = self.bare.iter().min_by(|a, b| a.1.wall.median().total_cmp(&b.1.wall.median()));
        let (in_flight, best) =
            best.map_or((0, f64::NAN), |(in_flight, took)| (*in_flight, took.wall.median()));
        outcome.entry(row, what, self.parlour.median() / best, most, "× bare");
        let unequal = self.amounts.iter().filter(|(parlour, bare)| parlour != bare).count();
        outcome.entry(row, "rounds in which the sides sent different amounts", unequal as f64, 0.0, "rounds");
        let all = |of: fn(&Bare) -> &Figures| {
            let all = self.bare.iter().map(|(in_flight, took)| format!("{in_flight} in flight {}", of(took)));
            all.collect::<Vec<_>>().join(", ")
        };
        let bare = all(|took| &took.wall);
        outcome.note(format!("Parlour {} ms; bare, best at {in_flight}: {bare} ms", self.parlour));
        outcome.note(format!("own processor time {} ms a leg; {} rounds", self.cpu, self.parlour.count()));
        let bare = all(|took| &took.homeservers_cpu);
        outcome.note(format!("the homeserver's processor time {} ms; bare: {bare} ms", self.homeservers_cpu));
    }

    /// How much each side sent in a round, and what; both must be equal.
    pub fn amounts(&self) -> String {
        let figures = |of: fn(&(Amount, Amount)) -> usize| {
            Figures::from_iter(self.amounts.iter().map(|pair| of(pair) as f64)).median()
        };
        let requests = [figures(|(parlour, _)| parlour.requests), figures(|(_, bare)| bare.requests)];
        let bytes = [figures(|(parlour, _)| parlour.bytes), figures(|(_, bare)| bare.bytes)];
        let equal = self.amounts.iter().all(|(parlour, bare)| parlour == bare);
        let verdict = if equal { "equal in every round" } else { "NOT EQUAL" };
        format!(
            "requests {} and bare {}, bytes {} and bare {} a round: {verdict}",
            requests[0], requests[1], bytes[0], bytes[1]
        )
    }

    /// The most requests of each kind that a round of Parlour's had.
    pub fn most(&self, point: CommitPoint) -> usize {
        self.kinds.get(point.name()).copied().unwrap_or(0)
    }

    /// The same of all kinds.
    pub fn kinds(&self) -> String {
        let all: Vec<_> = self.kinds.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!("requests of a round, at most: {}", all.join(", "))
    }
}
