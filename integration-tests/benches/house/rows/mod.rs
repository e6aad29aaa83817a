//! The rows: what is measured.

mod cold;
mod creation;
mod intake;
mod large;
mod latency;
mod memory;
mod readable;
mod sides;
mod warm;

use futures_util::future::LocalBoxFuture;

use self::large::Large;
use crate::table::Outcome;

/// How much of everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rounds of both sides.
    pub rounds: usize,
    /// Spokes of a conversation.
    pub spokes: usize,
    /// Spokes of growing conversations.
    pub growth: [usize; 3],
    /// Messages one after the other.
    pub messages: usize,
    /// Transactions.
    pub transactions: usize,
    /// Broadcasts during which others write.
    pub broadcasts: usize,
    /// Ghosts that are known, and those of them that are awake.
    pub ghosts: (usize, usize),
}

impl Sizes {
    /// As the requirements have them.
    pub fn whole(rounds: usize) -> Self {
        Self {
            rounds,
            spokes: 50,
            growth: [10, 100, 500],
            messages: 300,
            transactions: 150,
            broadcasts: 5,
            ghosts: (1000, 100),
        }
    }

    /// So little that it is soon done.
    pub fn quick() -> Self {
        Self {
            rounds: 2,
            spokes: 6,
            growth: [2, 5, 10],
            messages: 15,
            transactions: 5,
            broadcasts: 1,
            ghosts: (8, 4),
        }
    }
}

/// What rows have in common.
pub struct Context {
    /// How much is measured.
    pub sizes: Sizes,
    large: Option<Large>,
}

impl Context {
    /// Nothing yet.
    pub fn new(sizes: Sizes) -> Self {
        Self { sizes, large: None }
    }

    /// The practice with many patients, made when first needed.
    async fn large(&mut self) -> &Large {
        if self.large.is_none() {
            self.large = Some(Large::open(self.sizes).await);
        }
        self.large.as_ref().expect("it was made just now")
    }

    /// Ends what is left.
    pub async fn close(self) {
        if let Some(large) = self.large {
            large.close().await;
        }
    }
}

type Measure = for<'a> fn(&'a mut Context) -> LocalBoxFuture<'a, Outcome>;

/// A row.
pub struct Row {
    /// What it is asked for by.
    pub name: &'static str,
    /// Measures it.
    pub measure: Measure,
}

/// All rows, in the order in which they are measured.
pub const ALL: &[Row] = &[
    Row { name: "warm", measure: |context| Box::pin(warm::measure(context)) },
    Row { name: "cold", measure: |context| Box::pin(cold::measure(context)) },
    Row { name: "creation", measure: |context| Box::pin(creation::measure(context)) },
    Row { name: "latency", measure: |context| Box::pin(latency::measure(context)) },
    Row { name: "readable", measure: |context| Box::pin(readable::measure(context)) },
    Row { name: "intake", measure: |context| Box::pin(intake::measure(context)) },
    Row { name: "growth", measure: |context| Box::pin(large::growth(context)) },
    Row { name: "reply", measure: |context| Box::pin(large::reply(context)) },
    Row { name: "memory", measure: |context| Box::pin(memory::measure(context)) },
];
