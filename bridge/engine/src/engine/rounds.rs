//! The engine's rounds: what it does again and again for as long as it lives.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{task::JoinSet, time::Instant};

use super::{A_MOMENT, Engine, EngineError};
use crate::{
    catch_up::{CaughtUp, Standing},
    crypto::CryptoError,
    store::StoreError,
};

/// How long it takes at least and at most until the bot's inbox is looked into again while the homeserver has much to do for
/// us …
const WHILE_CROWDED: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// … and in between so many times as long as the last look: where rooms are made, each costs the homeserver a look at all
/// that are new.
const PAUSE_A_LOOK: u32 = 10;
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
/// So many connections to the process before this one the homeserver may hold: it keeps few for each address.
const MOST_STALE: u32 = 2;
/// How often it is looked who has come, while somebody is waited for.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);
/// How long the homeserver may take for what it does by itself after a refusal.
const QUIET: Duration = Duration::from_secs(2);
/// How late a message is at most that the homeserver has lost sight of, unless it has much to do. The question costs it some
/// milliseconds, and more for each event that is new.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(10);
const QUESTIONS_A_LOOK: u32 = 6;
/// So many times in a row it is not asked while the homeserver has much to do for us: it would look at every new event again.
const MOST_POSTPONED: u32 = 2;

/// How the bot's inbox is looked into.
#[derive(Default)]
struct Looking {
    /// Whether the last look was given up.
    gave_up: bool,
    /// How long the last one took that did not wait for anything.
    took: Duration,
}

impl Looking {
    /// How long until the next look while the homeserver has much to do for us.
    fn pause(&self) -> Duration {
        (self.took * PAUSE_A_LOOK).clamp(WHILE_CROWDED[0], WHILE_CROWDED[1])
    }
}

/// How often in a row what may have been missed was not asked for.
#[derive(Default)]
struct Postponed(u32);

impl Postponed {
    /// Whether it is left for the next time: not for long, and never when there is reason to ask.
    fn again(&mut self, has_reason: bool, is_crowded: bool) -> bool {
        let again = is_crowded && !has_reason && self.0 < MOST_POSTPONED;
        self.0 = if again { self.0 + 1 } else { 0 };
        again
    }
}

/// Begins all rounds.
pub(super) fn begin(tasks: &mut JoinSet<()>, engine: &Arc<Engine>) {
    tasks.spawn(receive(Arc::downgrade(engine)));
    tasks.spawn(care_for_ghosts(Arc::downgrade(engine)));
    tasks.spawn(mend_stalls(Arc::downgrade(engine)));
    tasks.spawn(catch_up(Arc::downgrade(engine)));
    tasks.spawn(look_who_is_there(Arc::downgrade(engine)));
    tasks.spawn(count_reads(Arc::downgrade(engine)));
}

impl Engine {
    /// Empties the ghosts' inboxes, and sends again what could not be read.
    async fn care(&self) {
        if !self.core.may_work() {
            return;
        }
        if let Err(error) = self.core.ghosts.wake_sleepers().await {
            tracing::warn!(%error, "ghosts that sleep could not be looked after");
        }
        self.core.ghosts.machines.empty_inboxes().await;
        self.repair().await;
    }

    /// Sends again what could not be read.
    async fn repair(&self) {
        if let Err(error) = self.core.repair().await {
            tracing::error!(%error, "what is to be repaired could not be read");
        }
    }

    /// What comes before the first look after a break: the database is ours, and keys that may not be used again are
    /// renewed, or published again.
    async fn after_a_break(&self) -> Result<(), EngineError> {
        let core = &self.core;
        core.store.keep_for_us().await?;
        if !core.is_up_to_date() {
            core.renew_devices().await?;
        }
        let known = core.store.homeserver_is_back().await?;
        let standing = if known { Standing::WentBack } else { core.how_it_stands().await? };
        match standing {
            Standing::GoesOn => {}
            // Boxed, or the whole of it is too deep for the compiler.
            Standing::Lower(place) => core.begin_from(&place).boxed().await?,
            Standing::WentBack => {
                core.up_to_date.store(false, Ordering::Relaxed);
                // What is under way ends; nothing else begins.
                self.relays.stop().await;
                self.sender.stop().await;
                self.makers.stop().await;
                if !known {
                    core.publish_again().await?;
                }
                core.ghosts.machines.put_all_to_sleep().await;
            }
        }
        Ok(())
    }

    /// What comes after the first look after a break: everything that was said meanwhile is taken in, and messages travel.
    async fn come_up_to_date(&self) -> Result<(), EngineError> {
        let core = &self.core;
        let caught_up = async {
            if core.store.restored_at().await?.is_some() || core.store.homeserver_is_back().await? {
                core.recover().await?;
                core.up_to_date.store(true, Ordering::Relaxed);
            }
            core.catch_up().await
        };
        match caught_up.await? {
            // How it stands is asked once more.
            CaughtUp::Lower => return Err(EngineError::CatchingUp),
            CaughtUp::Missed(0) => {}
            CaughtUp::Missed(missed) => tracing::info!(missed, "events of the time before are taken in"),
        }
        self.core.up_to_date.store(true, Ordering::Relaxed);
        self.core.open.store(true, Ordering::Relaxed);
        // Both ways, or messages do not travel. And what the homeserver could not send meanwhile it sends when it has
        // called us.
        self.is_called().await?;
        self.core.receiving.send_replace(Some(self.core.clock.now()));
        self.core.store.nothing_is_put_off().await?;
        // What it makes while it finds us reachable again it may lose sight of: that is asked for soon, too.
        self.core.trouble.notify_one();
        tracing::info!("messages travel");
        Ok(())
    }

    /// Has the homeserver call us. It may still hold a connection to who we were before, and finds out by using it.
    async fn is_called(&self) -> Result<(), CryptoError> {
        let bot = self.core.ghosts.bot().await?;
        let mut stale = 0;
        loop {
            match self.core.homeserver.ping(&bot.intent().user_id).await {
                Err(error) if stale < MOST_STALE && error.is_passing() => stale += 1,
                outcome => return Ok(outcome?),
            }
        }
    }

    /// One look into the bot's inbox, and what follows from it.
    async fn receive_once(&self, looking: &mut Looking) -> Result<(), EngineError> {
        match self.look(looking).await {
            // The next look deals with it.
            Err(EngineError::Crypto(CryptoError::Database(StoreError::Older))) => {
                Ok(self.core.notice_restore().await?)
            }
            outcome => outcome,
        }
    }

    async fn look(&self, looking: &mut Looking) -> Result<(), EngineError> {
        let goes_on = self.core.receiving_since().is_some();
        if !goes_on {
            self.after_a_break().await?;
        }
        let bot = self.core.ghosts.bot().await?;
        let mut crowded = self.core.turns.crowded();
        let is_crowded = goes_on && *crowded.borrow();
        if is_crowded {
            // Keys that come meanwhile are a moment late; whatever else is asked of the homeserver is done sooner.
            let _ = tokio::time::timeout(looking.pause(), crowded.wait_for(|crowded| !*crowded)).await;
        }
        // A look that was given up is made before another one waits.
        let waits = goes_on && !is_crowded && !std::mem::take(&mut looking.gave_up);
        let waits_unless = waits.then_some(crowded);
        let began = Instant::now();
        let news = match bot.receive(Some(&self.core.ghosts.machines), waits_unless).await {
            Err(error) if !error.may_pass() && self.core.store.homeserver_is_back().await? => {
                // It was put back once more meanwhile, to where it does not know the bot's device.
                self.core.publish_again().await?;
                return Err(error.into());
            }
            news => news?,
        };
        if !waits {
            looking.took = began.elapsed();
        }
        if !goes_on {
            self.come_up_to_date().await?;
        }
        looking.gave_up = news.gave_up;
        if news.repairs {
            self.core.repairs.notify_one();
        }
        if !goes_on || !news.devices.is_empty() {
            self.core.looks.news.notify_one();
        }
        if !goes_on || news.receipts {
            self.core.receipts.notify_one();
        }
        // Whoever waits for a key, a signature or a device looks again, also those who begin to wait just now: a
        // wake is kept for a worker that is busy.
        if !goes_on {
            self.make_unfinished().await?;
        }
        if !goes_on || !news.devices.is_empty() {
            self.core.devices_may_have_changed();
            self.look_everywhere().await?;
        } else if news.keys {
            self.core.wake_relays(self.core.store.conversations_waiting().await?);
        }
        Ok(())
    }
}

/// The bot's inbox, looked into for as long as the engine lives.
async fn receive(engine: Weak<Engine>) {
    let (mut said, mut looking) = (false, Looking::default());
    while let Some(engine) = engine.upgrade() {
        let failed = match AssertUnwindSafe(engine.receive_once(&mut looking)).catch_unwind().await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it panicked".to_owned()),
        };
        let Some(error) = failed else {
            said = false;
            continue;
        };
        engine.core.nothing_is_received();
        if !said {
            tracing::warn!(%error, "messages do not travel; trying again each second");
        }
        said = true;
        drop(engine);
        tokio::time::sleep(AFTER_AN_ERROR).await;
    }
}

/// What came by no transaction, asked for now and then, and soon after there was a reason.
async fn catch_up(weak: Weak<Engine>) {
    let mut postponed = Postponed::default();
    for round in 1_u32.. {
        let Some(core) = weak.upgrade().map(|engine| Arc::clone(&engine.core)) else { return };
        let has_reason = tokio::time::timeout(BETWEEN_QUESTIONS, core.trouble.notified()).await.is_ok();
        if has_reason {
            tokio::time::sleep(QUIET).await;
        }
        if core.receiving_since().is_none() || *core.stalled.borrow() {
            // When that ends, it is caught up with.
            continue;
        }
        if round.is_multiple_of(QUESTIONS_A_LOOK)
            && let Some(engine) = weak.upgrade()
        {
            // A commit whose answer was lost has woken nobody.
            let looked = async {
                engine.make_unfinished().await?;
                engine.look_everywhere().await
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "what waits could not be looked for");
            }
        }
        let is_crowded = *core.turns.crowded().borrow();
        if postponed.again(has_reason, is_crowded) {
            continue;
        }
        match AssertUnwindSafe(core.catch_up()).catch_unwind().await {
            // What follows from it is the next look's matter.
            Ok(Ok(CaughtUp::Lower | CaughtUp::Missed(0))) => {}
            Ok(Ok(CaughtUp::Missed(missed))) => {
                tracing::warn!(missed, "the homeserver had lost sight of events: they are taken in now");
            }
            Ok(Err(error)) => tracing::warn!(%error, "what may have been missed could not be asked for"),
            Err(_) => tracing::error!("catching up panicked"),
        }
    }
}

/// When the database took nothing and takes something again, the homeserver is told at once: by itself it would wait for
/// longer and longer.
async fn mend_stalls(weak: Weak<Engine>) {
    let Some(mut stalled) = weak.upgrade().map(|engine| engine.core.stalled.subscribe()) else { return };
    while stalled.wait_for(|stalled| *stalled).await.is_ok() {
        tokio::time::sleep(AFTER_AN_ERROR).await;
        let Some(engine) = weak.upgrade() else { return };
        let Some(bot) = engine.bot() else { return };
        if engine.core.store.takes(engine.core.clock.now()).await.is_err() {
            continue;
        }
        engine.core.stalled.send_replace(false);
        engine.core.trouble.notify_one();
        tracing::info!("the database takes messages again");
        let woken = async {
            engine.core.store.nothing_is_put_off().await?;
            engine.make_unfinished().await?;
            engine.look_everywhere().await
        };
        if let Err(error) = woken.await {
            tracing::warn!(%error, "what waits looks by itself");
        }
        if let Err(error) = engine.core.homeserver.ping(&bot.user_id).await {
            tracing::warn!(%error, "the homeserver could not be told; it tries again by itself");
        }
    }
}

/// The ghosts' own inboxes, emptied now and then for as long as the engine lives; and at once when somebody could not read
/// the bot.
async fn care_for_ghosts(weak: Weak<Engine>) {
    let Some(core) = weak.upgrade().map(|engine| Arc::clone(&engine.core)) else { return };
    let mut next = Instant::now() + core.settings.care;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = core.repairs.notified() => {
                let Some(engine) = weak.upgrade() else { return };
                if core.may_work() && AssertUnwindSafe(engine.repair()).catch_unwind().await.is_err() {
                    tracing::error!("a repair panicked");
                }
                continue;
            }
        }
        let Some(engine) = weak.upgrade() else { return };
        if AssertUnwindSafe(engine.care()).catch_unwind().await.is_err() {
            tracing::error!("emptying the ghosts' inboxes panicked");
        }
        core.ghosts.machines.put_to_sleep(core.settings.idle).await;
        next = Instant::now() + core.settings.care;
    }
}

/// Receipts, dealt with when they have come; and now and then, because a receipt may come before its event.
async fn count_reads(weak: Weak<Engine>) {
    let Some(core) = weak.upgrade().map(|engine| Arc::clone(&engine.core)) else { return };
    loop {
        // More comes at the same time when a message to many is read.
        if tokio::time::timeout(BETWEEN_QUESTIONS, core.receipts.notified()).await.is_ok() {
            tokio::time::sleep(A_MOMENT).await;
        }
        if weak.upgrade().is_none() {
            return;
        }
        if !core.may_work() {
            continue;
        }
        match AssertUnwindSafe(core.deal_with_receipts()).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "receipts are dealt with later"),
            Err(_) => tracing::error!("dealing with receipts panicked"),
        }
    }
}

/// Who is there to read, found out when devices have changed and when somebody is new; and once a minute, while somebody is
/// waited for.
async fn look_who_is_there(weak: Weak<Engine>) {
    let Some(core) = weak.upgrade().map(|engine| Arc::clone(&engine.core)) else { return };
    let (mut next, mut pause) = (Instant::now() + BETWEEN_LOOKS, AFTER_AN_ERROR);
    loop {
        if tokio::time::timeout_at(next, core.looks.news.notified()).await.is_ok() {
            // More comes at the same time when rooms are made.
            tokio::time::sleep(A_MOMENT).await;
        }
        if weak.upgrade().is_none() {
            return;
        }
        let is_time = Instant::now() >= next;
        if is_time {
            next = Instant::now() + BETWEEN_LOOKS;
        }
        if !core.may_work() {
            continue;
        }
        let looked = async {
            let news = async {
                while core.deal_with_device_news().await? {}
                core.share_what_is_due().await
            };
            let news = news.await;
            if is_time { news.and(core.look_for_the_waited_for().await) } else { news }
        };
        match AssertUnwindSafe(looked).catch_unwind().await {
            Ok(Ok(())) => pause = AFTER_AN_ERROR,
            Ok(Err(error)) => {
                tracing::warn!(%error, "who is there to read could not be found out; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BETWEEN_LOOKS);
                core.looks.news.notify_one();
            }
            Err(_) => tracing::error!("looking who is there to read panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Looking, Postponed};

    #[test]
    fn while_the_homeserver_has_much_to_do_a_look_takes_a_tenth_of_the_time() {
        for (took, pause) in [(0, 500), (20, 500), (60, 600), (99, 990), (300, 1000), (60_000, 1000)] {
            let looking = Looking { took: Duration::from_millis(took), ..Looking::default() };
            assert_eq!(looking.pause(), Duration::from_millis(pause), "{took} ms");
        }
    }

    #[test]
    fn what_may_have_been_missed_is_asked_for_in_the_end() {
        let mut postponed = Postponed::default();
        let mut asked = |has_reason, is_crowded| !postponed.again(has_reason, is_crowded);
        let crowded: Vec<_> = (0..7).map(|_| asked(false, true)).collect();
        assert_eq!(crowded, [false, false, true, false, false, true, false], "every third time");
        assert!(asked(true, true), "there is reason to");
        assert!(!asked(false, true));
        assert!(asked(false, false), "there is nothing else to do");
        assert!(!asked(false, true), "it is counted anew");
    }
}
