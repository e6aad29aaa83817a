//! Kills as planned, and what each came to.

use std::{sync::Arc, time::Duration};

use sqlx::Connection as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    cuts::{Aim, Cuts},
    model::{Model, Progress},
    plan::{Kill, Kind},
    traffic::Orders,
};
use crate::trial::{Metrics, Trial};

/// A kill that has happened.
pub struct Killed {
    /// What died.
    pub kind: Kind,
    /// Accepted legs that nobody had seen at that moment.
    pub in_flight: usize,
    /// How long it took from there until the next Parlour had relayed its first message; none when it did not, or was not
    /// killed.
    pub recovery: Option<Duration>,
    /// Whether something that was accepted after the kill has arrived before the next, or everything that there was.
    pub arrived: bool,
}

/// How long a kill waits for its moment.
const LOOK: Duration = Duration::from_millis(20);
const MOMENT: Duration = Duration::from_secs(10);
/// How long a homeserver may take to answer a request whose answer is cut.
const ANSWER: Duration = Duration::from_secs(3);

/// Who kills.
pub struct Killer<'a> {
    /// What is killed.
    pub trial: &'a mut Trial,
    /// What must happen.
    pub model: &'a Model,
    /// The cuts.
    pub cuts: &'a Arc<Cuts>,
    /// What the writers are told.
    pub orders: &'a watch::Sender<Orders>,
    /// Legs that were accepted before the traffic began.
    pub before: usize,
    /// So many legs may be written between one kill and the next.
    pub share: usize,
    /// How long messages may take to travel again before the next kill comes all the same.
    pub patience: Duration,
}

impl Killer<'_> {
    /// Waits for a kill's moment, kills, and starts again what was killed.
    pub async fn kill(&mut self, kill: &Kill) -> Killed {
        // What is broken on purpose may keep the writers from going on.
        let so_far = self.model.wait_until(|now| now.legs >= self.before + kill.at_legs);
        drop(timeout(self.patience * 4, so_far).await);
        // The moment comes with a message, and so does recovery: the writers have something left, however far ahead they are.
        self.may_write_on();
        let mut cut = self.trial.to_homeserver.answers_cut();
        let sends = matches!(kill.kind, Kind::ParlourSending | Kind::HomeserverForgets | Kind::BothForgets);
        let told = match kill.kind {
            _ if sends => Some(self.cuts.aim(Aim::Sending)),
            Kind::ParlourTaking => Some(self.cuts.aim(Aim::Taking)),
            _ => None,
        };
        // A moment that does not come is no reason not to kill.
        match told {
            Some(told) => drop(timeout(MOMENT, told).await),
            None => drop(timeout(MOMENT, self.model.wait_until(|now| now.in_flight > 0)).await),
        }
        cut.mark_unchanged();
        if !sends {
            sleep(kill.pause).await;
        }
        let in_flight = self.model.progress().in_flight;
        let began = Instant::now();
        if kill.kind.takes_parlour() {
            self.trial.kill_parlour().await;
        }
        if kill.kind.takes_homeserver() {
            if sends {
                // The homeserver is to have taken what Parlour will not hear of.
                drop(timeout(ANSWER, cut.changed()).await);
            }
            self.homeserver_is(false);
            self.trial.kill_homeserver().await;
        }
        if kill.kind.forgets() {
            self.forget().await;
        }
        if kill.kind.takes_parlour() {
            self.trial.spawn_parlour().await;
        }
        if kill.kind.takes_homeserver() {
            self.trial.start_homeserver().await;
            self.homeserver_is(true);
        }
        self.may_write_on();
        let recovery = if kill.kind.takes_parlour() {
            timeout(self.patience, self.relays()).await.ok().map(|()| began.elapsed())
        } else {
            None
        };
        // The next kill comes when what was accepted after this one has arrived; or everything has, and the writers wait.
        let all_well = |now: &Progress| now.youngest_seen > began || now.in_flight == 0;
        let arrived = timeout(self.patience, self.model.wait_until(all_well)).await;
        Killed { kind: kill.kind, in_flight, recovery, arrived: arrived.is_ok() }
    }

    /// Waits until a Parlour that was just started has relayed its first message. This alone is asked of Parlour itself,
    /// and counts for nothing but the time that it takes.
    async fn relays(&self) {
        let sent = |metrics: &Metrics| metrics.get("parlour_legs_sent_total").is_some_and(|sent| *sent > 0.0);
        while !self.trial.metrics().await.is_some_and(|metrics| sent(&metrics)) {
            sleep(LOOK).await;
        }
    }

    fn may_write_on(&self) {
        let legs = self.model.progress().legs + self.share;
        self.orders.send_modify(|orders| orders.legs = orders.legs.max(legs));
    }

    fn homeserver_is(&self, up: bool) {
        self.orders.send_modify(|orders| orders.homeserver = up);
    }

    /// The homeserver forgets our users' transaction ids, as it does after a day. People's own clients are not tried.
    async fn forget(&self) {
        let url = format!("sqlite://{}", self.trial.homeserver_database().display());
        let mut database = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        sqlx::query(r"DELETE FROM event_txn_id_device_id WHERE user_id LIKE '@\_parlour\_%' ESCAPE '\'")
            .execute(&mut database)
            .await
            .expect("forgotten");
        database.close().await.expect("closed");
    }
}
