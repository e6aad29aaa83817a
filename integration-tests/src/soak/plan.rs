//! What is to happen, made from the seed alone: who talks with whom, and which process dies when.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// A conversation of the soak.
pub struct Cast {
    /// Its name.
    pub name: &'static str,
    /// Its staff, who begins it first.
    pub staff: &'static [&'static str],
    /// Its patients.
    pub patients: &'static [&'static str],
}

/// Everybody, by a word of the name.
pub const PEOPLE: [&str; 9] = ["murphy", "kim", "doyle", "ann", "ben", "cara", "dan", "eve", "finn"];

/// Of these, the manager.
pub const MANAGER: &str = "murphy";

/// The conversations: with one patient, with three, with six; and with two, of whom one comes and goes.
pub const TALKS: [Cast; 4] = [
    Cast { name: "one", staff: &["murphy", "doyle"], patients: &["ann"] },
    Cast { name: "three", staff: &["kim", "doyle"], patients: &["ben", "cara", "dan"] },
    Cast {
        name: "six",
        staff: &["murphy", "kim", "doyle"],
        patients: &["ann", "ben", "cara", "dan", "eve", "finn"],
    },
    Cast { name: "changing", staff: &["doyle", "murphy"], patients: &["ann", "finn"] },
];

/// Of these, the one that becomes one-way and two-way again all the time.
pub const SWITCHED: usize = 1;

/// Of these, the one whose last patient is excluded and included again all the time.
pub const CHANGED: usize = 3;

/// Which process dies, and at what moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Parlour, while something is on its way.
    Parlour,
    /// Parlour, as it sends a leg: the homeserver does the work, and nobody hears its answer.
    ParlourSending,
    /// Parlour, as a transaction comes in, or a little after.
    ParlourTaking,
    /// The homeserver, while something is on its way.
    Homeserver,
    /// The homeserver, after it took a leg without being heard; meanwhile it forgets all transaction ids of ours.
    HomeserverForgets,
    /// Both, while something is on its way.
    Both,
    /// Both, after the homeserver took a leg without being heard; it forgets all transaction ids of ours.
    BothForgets,
}

impl Kind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Parlour => "Parlour, at random",
            Self::ParlourSending => "Parlour, as it sends",
            Self::ParlourTaking => "Parlour, as it takes in",
            Self::Homeserver => "homeserver, at random",
            Self::HomeserverForgets => "homeserver, which forgets",
            Self::Both => "both, at random",
            Self::BothForgets => "both, and it forgets",
        }
    }

    /// Whether Parlour dies.
    pub fn takes_parlour(self) -> bool {
        !matches!(self, Self::Homeserver | Self::HomeserverForgets)
    }

    /// Whether the homeserver dies.
    pub fn takes_homeserver(self) -> bool {
        !matches!(self, Self::Parlour | Self::ParlourSending | Self::ParlourTaking)
    }

    /// Whether the homeserver forgets transaction ids.
    pub fn forgets(self) -> bool {
        matches!(self, Self::HomeserverForgets | Self::BothForgets)
    }

    /// The same, as far as the run has such kills.
    fn allowed(self, homeserver: HomeserverKills) -> Self {
        match (homeserver, self) {
            (HomeserverKills::None, Self::HomeserverForgets | Self::BothForgets) => Self::ParlourSending,
            (HomeserverKills::None, Self::Homeserver | Self::Both) => Self::Parlour,
            (HomeserverKills::Remembering, Self::HomeserverForgets) => Self::Homeserver,
            (HomeserverKills::Remembering, Self::BothForgets) => Self::Both,
            _ => self,
        }
    }
}

/// How the homeserver fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeserverKills {
    /// It is never killed.
    None,
    /// It is killed, and forgets nothing.
    Remembering,
    /// It is killed, and forgets transaction ids at some kills, as it does when a day has passed.
    Forgetting,
}

/// A kill.
pub struct Kill {
    /// It comes when so many legs have been accepted.
    pub at_legs: usize,
    /// What dies.
    pub kind: Kind,
    /// So long after its moment.
    pub pause: Duration,
}

/// Twelve kills, each kind among them: Parlour three times as often as the homeserver.
const DECK: [Kind; 12] = [
    Kind::Parlour,
    Kind::Parlour,
    Kind::Parlour,
    Kind::ParlourSending,
    Kind::ParlourSending,
    Kind::ParlourSending,
    Kind::ParlourTaking,
    Kind::ParlourTaking,
    Kind::Homeserver,
    Kind::HomeserverForgets,
    Kind::Both,
    Kind::BothForgets,
];

/// The longest pause between a kill's moment and the kill.
const LONGEST_PAUSE: u64 = 350;

/// The kills of a run.
pub fn kills(seed: u64, legs: usize, kills: usize, homeserver: HomeserverKills) -> Vec<Kill> {
    let mut rng = rng(seed, "kills");
    let mut deck = Vec::new();
    (0..kills)
        .map(|number| {
            if deck.is_empty() {
                deck = DECK.to_vec();
                deck.shuffle(&mut rng);
            }
            let kind = deck.pop().unwrap_or(Kind::Parlour);
            Kill {
                at_legs: ((number as f64 + rng.random::<f64>()) * legs as f64 / kills as f64) as usize,
                kind: kind.allowed(homeserver),
                pause: Duration::from_millis(rng.random_range(0..LONGEST_PAUSE)),
            }
        })
        .collect()
}

/// Chance for one part of the run, the same for the same seed.
pub fn rng(seed: u64, part: &str) -> StdRng {
    let part = part.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    StdRng::seed_from_u64(seed ^ part.rotate_left(32))
}
