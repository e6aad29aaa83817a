//! Who is there to read. When people's devices were seen, Synapse's administrator API tells; what it has told is kept, so
//! that nothing is asked for as long as the answer stands: a device that was seen is live for five days (HOLD-1).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{StreamExt as _, stream};
use parlour_domain::{
    Timestamp,
    rules::{DeviceFacts, is_live},
};
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

use crate::{
    crypto::{CryptoError, Failed, Published},
    engine::Core,
    store::Known,
};

/// How many people are asked for at a time.
const AT_ONCE: usize = 4;
/// For how long an answer is as good as new, in milliseconds.
const DEAD_MILLIS: i64 = 60_000;
/// For how long nobody needs to be asked for whom the list of those who were seen would name, in milliseconds.
const WATCHED_MILLIS: i64 = 150_000;
/// How late Synapse may note that somebody was seen, by far, in milliseconds.
const LATE_MILLIS: i64 = 30_000;
/// With how many people's news one round deals.
const NEWS_A_ROUND: i64 = 250;

/// What is going on about people's devices.
#[derive(Default)]
pub(crate) struct Looks {
    /// Devices may have changed, or somebody has come.
    pub(crate) news: Arc<Notify>,
    /// Who is asked for just now.
    asked: Mutex<HashMap<OwnedUserId, Arc<tokio::sync::Mutex<()>>>>,
    watch: Mutex<Watch>,
    /// Whether the operator was told that the homeserver tells nothing.
    said: AtomicBool,
}

/// The list of those who were seen, read for as long as somebody is waited for.
#[derive(Clone, Copy, Default)]
struct Watch {
    /// Since when whoever was seen was looked at, without a gap, and when that was looked for last.
    since_until: Option<(Timestamp, Timestamp)>,
    /// How many accounts stand before those that were ever seen.
    never: usize,
}

type Devices<'a> = HashMap<OwnedUserId, Vec<&'a Published>>;

/// What came of asking for people's devices.
#[derive(Default)]
struct Answers {
    /// Of whom the homeserver tells nothing.
    untold: HashSet<OwnedUserId>,
    /// For whom it failed in a way that passes.
    failed: HashMap<OwnedUserId, CryptoError>,
}

/// Who is there to read.
pub(crate) struct There {
    live: HashSet<OwnedUserId>,
    failed: HashMap<OwnedUserId, Failed>,
}

impl There {
    /// Whether any of these people has a live device (HOLD-1).
    ///
    /// # Errors
    /// When that is known of none, and could not be asked for one.
    pub(crate) fn is_any(&self, people: &[OwnedUserId]) -> Result<bool, Failed> {
        if people.iter().any(|user_id| self.live.contains(user_id)) {
            return Ok(true);
        }
        people
            .iter()
            .find_map(|user_id| self.failed.get(user_id))
            .map_or(Ok(false), |error| Err(Arc::clone(error)))
    }
}

/// Why people are asked for.
#[derive(Clone, Copy)]
enum Asked<'a> {
    /// Something is to be sent to these devices, which are signed.
    ToSend(&'a Devices<'a>),
    /// Somebody is new, or has these devices now.
    News(&'a Devices<'a>),
    /// They were seen then.
    Seen(&'a HashMap<OwnedUserId, Timestamp>),
}

fn by_user<'a>(devices: impl Iterator<Item = &'a Published>) -> Devices<'a> {
    let mut by_user = Devices::new();
    for device in devices {
        by_user.entry(device.user_id.clone()).or_default().push(device);
    }
    by_user
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a device is live, as far as is known.
fn is_known_live(device: &Published, known: Option<&Known>, now: Timestamp) -> bool {
    let known = known.and_then(|known| known.device(&device.device_id));
    let facts = DeviceFacts {
        signed: device.signed,
        dehydrated: device.dehydrated || known.is_some_and(|known| known.dehydrated),
        // It was there when it was heard of, also where the homeserver does not tell yet.
        seen_at: known.map(|known| known.seen_at.unwrap_or(known.heard_at)),
    };
    is_live(&facts, now)
}

/// When any device of somebody's was seen last, as far as is known.
fn seen_last(known: &Known) -> Option<Timestamp> {
    known.devices.iter().filter_map(|device| device.seen_at).max()
}

/// Whether somebody was asked for so lately that nothing has changed since.
fn was_just_now(looked_at: Option<Timestamp>, now: Timestamp) -> bool {
    looked_at.is_some_and(|at| (0..DEAD_MILLIS).contains(&(now.millis() - at.millis())))
}

impl Core {
    /// Which of these people have a live device (HOLD-1) among those that they have published. The homeserver is asked only
    /// for people of whom nothing live is known, and only when that was not asked just now; whoever asks at the same time
    /// waits for the same answer.
    ///
    /// # Errors
    /// When homeserver or database fail in a way that passes.
    pub(crate) async fn who_is_there(&self, published: &[Published]) -> Result<There, CryptoError> {
        let signed = by_user(published.iter().filter(|device| device.signed));
        let users: Vec<_> = signed.keys().cloned().collect();
        let mut known = self.store.devices_known(&users).await?;
        let why = Asked::ToSend(&signed);
        let to_ask: Vec<_> =
            users.into_iter().filter(|user| self.is_to_be_asked(why, user, known.get(user))).collect();
        let Answers { untold, failed } = self.ask_for(&to_ask, why).await;
        known.extend(self.store.devices_known(&to_ask).await?);
        let now = self.clock.now();
        let is_there = |user: &OwnedUserId, devices: &[&Published]| {
            untold.contains(user) || devices.iter().any(|device| is_known_live(device, known.get(user), now))
        };
        let live = signed.iter().filter(|(user, devices)| is_there(user, devices));
        let live = live.map(|(user, _)| user.clone()).collect();
        Ok(There { live, failed: failed.into_iter().map(|(user, error)| (user, Arc::new(error))).collect() })
    }

    /// Whether the homeserver knows more of somebody than is known here.
    fn is_to_be_asked(&self, why: Asked<'_>, user: &UserId, known: Option<&Known>) -> bool {
        match why {
            Asked::ToSend(signed) => signed.get(user).is_some_and(|signed| self.may_have_come(known, signed)),
            Asked::News(devices) => {
                let Some(known) = known.filter(|known| known.looked_at.is_some()) else { return true };
                let devices = devices.get(user).map_or(&[][..], Vec::as_slice);
                let signed: Vec<_> = devices.iter().copied().filter(|device| device.signed).collect();
                let is_new = |device: &&Published| known.device(&device.device_id).is_none();
                let is_fresh =
                    |device: &&Published| known.device(&device.device_id).is_some_and(|device| device.fresh);
                devices.iter().any(is_new)
                    // When the others were seen decides what is sent again for it.
                    || (signed.iter().any(is_fresh) && !was_just_now(known.looked_at, self.clock.now()))
                    || (!signed.is_empty() && self.may_have_come(Some(known), &signed))
            }
            Asked::Seen(seen) => known
                .and_then(seen_last)
                .is_none_or(|known| seen.get(user).is_some_and(|seen_at| *seen_at > known)),
        }
    }

    /// Whether none of somebody's signed devices is known to be live, and that may have changed.
    fn may_have_come(&self, known: Option<&Known>, signed: &[&Published]) -> bool {
        let Some((known, looked_at)) = known.and_then(|known| Some((known, known.looked_at?))) else {
            return true;
        };
        let now = self.clock.now();
        if signed.iter().any(|device| is_known_live(device, Some(known), now)) {
            return false;
        }
        let is_unknown = |device: &&Published| known.device(&device.device_id).is_none();
        if signed.iter().any(is_unknown) || known.news_at.is_some_and(|news_at| news_at >= looked_at) {
            return true;
        }
        // Whoever was seen since they were asked for would have been noticed.
        let watched = lock(&self.looks.watch).since_until.is_some_and(|(since, until)| {
            since <= looked_at && (0..WATCHED_MILLIS).contains(&(now.millis() - until.millis()))
        });
        !watched && !was_just_now(Some(looked_at), now)
    }

    /// Asks the homeserver for the devices of these people, and keeps what it tells; each only if that is still wanted as
    /// soon as nobody else asks for them. That of one keeps nobody else from being asked for.
    async fn ask_for(&self, users: &[OwnedUserId], why: Asked<'_>) -> Answers {
        let asked = stream::iter(users.to_vec()).map(|user_id| async move {
            let told = self.ask_once(&user_id, why).await;
            (user_id, told)
        });
        let told: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let mut answers = Answers::default();
        for (user_id, told) in told {
            match told {
                Ok(true) => {}
                Ok(false) => drop(answers.untold.insert(user_id)),
                Err(error) => drop(answers.failed.insert(user_id, error)),
            }
        }
        answers
    }

    /// Asks for one person's devices, if that is wanted. Whether the homeserver tells.
    async fn ask_once(&self, user_id: &OwnedUserId, why: Asked<'_>) -> Result<bool, CryptoError> {
        let alone = Arc::clone(lock(&self.looks.asked).entry(user_id.clone()).or_default());
        let outcome = async {
            let _alone = alone.lock().await;
            let known = self.store.devices_known(std::slice::from_ref(user_id)).await?;
            let wanted = self.is_to_be_asked(why, user_id, known.get(user_id));
            if wanted { self.ask_now(user_id).await } else { Ok(true) }
        };
        let outcome = outcome.await;
        let mut asked = lock(&self.looks.asked);
        // The map's, and this one.
        if Arc::strong_count(&alone) == 2 {
            asked.remove(user_id);
        }
        outcome
    }

    async fn ask_now(&self, user_id: &UserId) -> Result<bool, CryptoError> {
        let bot = self.ghosts.bot().await?;
        match self.homeserver.devices(bot.intent(), user_id).await {
            Ok(devices) => {
                self.store.devices_are(user_id, &devices, self.clock.now()).await?;
                self.looks.said.store(false, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.is_passing() => Err(error.into()),
            Err(error) => {
                if !self.looks.said.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        %error,
                        "the homeserver does not tell when devices were seen: all count as seen; is the bot an administrator?"
                    );
                }
                Ok(false)
            }
        }
    }

    /// Deals with what was heard of people's devices, and asks for those of whoever is new in a portal, so that a first
    /// message finds that known. Whether there is more.
    ///
    /// # Errors
    /// When homeserver or database fail; then it is dealt with the next time.
    pub(crate) async fn deal_with_device_news(&self) -> Result<bool, CryptoError> {
        let news = self.ghosts.machines.device_news(NEWS_A_ROUND).await?;
        if news.is_empty() {
            return Ok(false);
        }
        let users: Vec<_> = news.iter().map(|news| news.user_id.clone()).collect();
        let published = self.ghosts.bot().await?.published(&users).await?;
        let devices = by_user(published.iter());
        let of = |user: &UserId| devices.get(user).map_or(&[][..], Vec::as_slice);
        let Answers { untold, failed } = self.ask_for(&users, Asked::News(&devices)).await;
        let known = self.store.devices_known(&users).await?;
        let is_told = |user: &OwnedUserId| !untold.contains(user) && !failed.contains_key(user);
        let mut outcome = Ok(());
        for news in news.iter().filter(|news| is_told(&news.user_id)) {
            let Some(known) = known.get(&news.user_id) else { continue };
            let dealt_with = self.look_for_what_nobody_got(news, known, of(&news.user_id)).await;
            // That of one keeps nobody else's from being dealt with.
            outcome = outcome.and(dealt_with);
        }
        outcome.and(failed.into_values().next().map_or(Ok(()), Err))?;
        Ok(untold.is_empty() && i64::try_from(news.len()).is_ok_and(|count| count == NEWS_A_ROUND))
    }

    /// While legs are held: who was seen since that was looked for last, and is waited for, is asked for, and the senders
    /// look. One request, unless very many were seen.
    ///
    /// # Errors
    /// When homeserver or database fail; the next time goes on where this one stopped.
    pub(crate) async fn look_for_the_waited_for(&self) -> Result<(), CryptoError> {
        let waited_for = self.store.waited_for().await?;
        if waited_for.is_empty() {
            lock(&self.looks.watch).since_until = None;
            return Ok(());
        }
        let now = self.clock.now();
        let Watch { since_until, mut never } = *lock(&self.looks.watch);
        // What seems to lie ahead was before the clock was set back.
        let before = since_until.filter(|(_, until)| *until <= now);
        let since =
            before.map_or(now.plus_millis(-WATCHED_MILLIS), |(_, until)| until.plus_millis(-LATE_MILLIS));
        let bot = self.ghosts.bot().await?;
        let seen = self.homeserver.seen_since(bot.intent(), since, &mut never).await?;
        let seen: HashMap<_, _> = seen.into_iter().collect();
        let users: HashSet<_> = waited_for.iter().map(|(user_id, _)| user_id).collect();
        let back: Vec<_> = users.into_iter().filter(|user_id| seen.contains_key(*user_id)).cloned().collect();
        let Answers { failed, .. } = self.ask_for(&back, Asked::Seen(&seen)).await;
        let portals = waited_for.into_iter().filter(|(user_id, _)| seen.contains_key(user_id));
        self.wake_senders(&portals.map(|(_, portal)| portal).collect::<Vec<_>>());
        if let Some(error) = failed.into_values().next() {
            return Err(error);
        }
        let since_until = Some((before.map_or(since, |(since, _)| since), now));
        *lock(&self.looks.watch) = Watch { since_until, never };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;

    use super::*;
    use crate::store::KnownDevice;

    const A_DAY: i64 = 24 * 60 * 60 * 1000;

    #[test]
    fn a_device_of_which_the_homeserver_does_not_tell_yet_was_there_when_it_was_heard_of() {
        let published = Published {
            user_id: owned_user_id!("@ann:x"),
            device_id: "A".into(),
            signed: true,
            dehydrated: false,
        };
        let now = Timestamp::from_millis(100 * A_DAY);
        let ago = |days: i64| now.plus_millis(-days * A_DAY);
        for (name, heard_at, seen_at, wanted) in [
            ("just heard of, nothing told", ago(0), None, true),
            ("heard of a week ago, nothing told", ago(7), None, false),
            ("just heard of, seen a week ago", ago(0), Some(ago(7)), false),
            ("heard of a week ago, seen now", ago(7), Some(ago(0)), true),
        ] {
            let device = KnownDevice {
                device_id: "A".into(),
                heard_at,
                seen_at,
                dehydrated: false,
                gone: false,
                fresh: false,
            };
            let known = Known { devices: vec![device], ..Known::default() };
            assert_eq!(is_known_live(&published, Some(&known), now), wanted, "{name}");
            assert_eq!(seen_last(&known), seen_at, "{name}: nobody is said to have been seen");
        }
        assert!(!is_known_live(&published, None, now), "not heard of");
    }
}
