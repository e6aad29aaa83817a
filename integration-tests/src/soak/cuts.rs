//! Answers that are cut: at random, and where a kill is aimed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng as _, rngs::StdRng};
use tokio::sync::oneshot;

use super::plan::rng;
use crate::proxy::{Fate, Proxy};

/// How often an answer is cut: part of the path, name, out of a thousand.
const RATES: [(&str, &str, u32); 7] = [
    ("/send/m.room.encrypted/", "send", 30),
    ("/sendToDevice/", "sendToDevice", 40),
    ("/keys/claim", "keys/claim", 40),
    ("/keys/query", "keys/query", 30),
    ("/keys/upload", "keys/upload", 30),
    ("/v3/sync", "sync", 8),
    (TRANSACTION, "transaction", 15),
];
const SEND: &str = "/send/m.room.encrypted/";
const TRANSACTION: &str = "/_matrix/app/v1/transactions/";

/// What a kill is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// A leg is being sent; its answer is cut.
    Sending,
    /// A transaction comes in.
    Taking,
}

struct State {
    rng: StdRng,
    cut: BTreeMap<&'static str, usize>,
    aimed: Option<(Aim, oneshot::Sender<()>)>,
}

/// The cuts of a run.
pub struct Cuts {
    state: Mutex<State>,
}

impl Cuts {
    /// None yet.
    pub fn new(seed: u64) -> Arc<Self> {
        let (rng, cut) = (rng(seed, "cuts"), BTreeMap::new());
        Arc::new(Self { state: Mutex::new(State { rng, cut, aimed: None }) })
    }

    /// From now on this proxy cuts.
    pub fn judge(self: &Arc<Self>, proxy: &Proxy) {
        let cuts = Arc::clone(self);
        proxy.judge(move |_, path| cuts.state().fate(path));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request of this kind tells.
    pub fn aim(&self, aim: Aim) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.state().aimed = Some((aim, tell));
        told
    }

    /// How many answers were cut, by kind.
    pub fn counted(&self) -> BTreeMap<&'static str, usize> {
        self.state().cut.clone()
    }
}

impl State {
    fn fate(&mut self, path: &str) -> Fate {
        let found = RATES.iter().find(|(part, ..)| path.contains(part));
        let Some(&(part, name, rate)) = found else { return Fate::Pass };
        let aim = match part {
            SEND => Some(Aim::Sending),
            TRANSACTION => Some(Aim::Taking),
            _ => None,
        };
        let is_aimed_at = self.aimed.as_ref().is_some_and(|(wanted, _)| Some(*wanted) == aim);
        if let Some((_, tell)) = self.aimed.take_if(|_| is_aimed_at) {
            let _nobody_waits_any_more = tell.send(());
        }
        let cut = (is_aimed_at && aim == Some(Aim::Sending)) || self.rng.random_ratio(rate, 1000);
        if !cut {
            return Fate::Pass;
        }
        *self.cut.entry(name).or_default() += 1;
        Fate::CutAnswer
    }
}
