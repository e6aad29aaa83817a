//! The engine as a whole: what it is given, what runs in it, and what the listeners ask of it.

mod beginning;
mod rounds;
mod settings;
mod taking_part;

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use parlour_domain::{Chance, Clock, ConversationId, EmergencyWords, PortalId, TakingPartError, Timestamp};
use ruma::UserId;
use tokio::{
    sync::{Mutex, Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

#[cfg(feature = "faults")]
use crate::faults::faulty;
pub use settings::Settings;

use crate::{
    catch_up::{Sequence, Verdict},
    changes::Changes,
    counts::Counts,
    crypto::{CryptoError, Machines},
    ghosts::{Ghosts, Turn},
    homeserver::{Homeserver, HomeserverError, Intent},
    intake::{IntakeError, parse_transaction},
    keyed::Keyed,
    notices::LegIds,
    relay::Tries,
    secret::Secret,
    seen::Looks,
    sender::Sender,
    store::{Figures, MasterKey, Store, StoreError},
    turns::Turns,
};

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("the data folder cannot be used: {0}")]
    Data(#[from] std::io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The homeserver cannot be spoken to.
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
}

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The body of a transaction makes no sense.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys, homeserver or crypto store failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// An earlier transaction may be missing.
    #[error("an earlier transaction may be missing; send the oldest again")]
    OutOfOrder,
    /// Who takes part may not be changed so.
    #[error(transparent)]
    TakingPart(#[from] TakingPartError),
    /// A request of the same caller's for something else had this key.
    #[error("this key was used for another request")]
    OtherRequest,
    /// What was said during a break is not known yet.
    #[error("what was said before this is asked for; try again")]
    CatchingUp,
}

/// Whose worker is to look.
enum Wake {
    Relay(ConversationId),
    Maker(ConversationId),
    Senders(Vec<PortalId>),
}

/// What all parts of the engine share.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) homeserver: Homeserver,
    pub(crate) turns: Turns,
    pub(crate) ghosts: Ghosts,
    pub(crate) leg_ids: Arc<LegIds>,
    /// Whether the topics of spokes say something, or have said it.
    pub(crate) sets_topics: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tries: Tries,
    pub(crate) counts: Counts,
    /// So many files are looked at at the same time: each may be large.
    pub(crate) looking_at_files: Semaphore,
    /// Until when the scanner is not asked again, in milliseconds: it was away.
    pub(crate) scanner_away_until: AtomicI64,
    /// How often people's devices may have changed, and up to which of those times a conversation was looked at.
    device_news: std::sync::Mutex<(u64, HashMap<ConversationId, u64>)>,
    pub(crate) looks: Looks,
    changes: Changes,
    wakes: mpsc::UnboundedSender<Wake>,
    receiving: watch::Sender<Option<Timestamp>>,
    /// Whether transactions are refused because the database takes nothing.
    stalled: watch::Sender<bool>,
    sequence: std::sync::Mutex<Sequence>,
    /// Whether transactions are taken: not from a break until what was said meanwhile is known.
    open: AtomicBool,
    pub(crate) catching_up: Mutex<()>,
    /// Something may have been missed.
    trouble: Notify,
    /// Something is to be sent again.
    pub(crate) repairs: Notify,
    /// Receipts have come, or can be shown.
    pub(crate) receipts: Arc<Notify>,
    /// Whether all is known that was said before the start; nothing is read, sent or made until it is.
    up_to_date: AtomicBool,
    /// How often all rooms were read back in vain.
    pub(crate) looks_back: AtomicU32,
}

impl Core {
    /// Since when the bot has received without a break; none while it does not.
    pub(crate) fn receiving_since(&self) -> Option<Timestamp> {
        *self.receiving.borrow()
    }

    /// Whether all is known that was said before the start.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.up_to_date.load(Ordering::Relaxed)
    }

    /// Whether messages are read and sent: not before the start, nor after a break, until it is known what was said and how
    /// the homeserver stands.
    pub(crate) fn may_work(&self) -> bool {
        self.is_up_to_date() && self.receiving_since().is_some()
    }

    /// The bot does not receive: the next look into its inbox begins as after a break.
    pub(crate) fn nothing_is_received(&self) {
        self.receiving.send_replace(None);
        self.open.store(false, Ordering::Relaxed);
    }

    fn sequence(&self) -> std::sync::MutexGuard<'_, Sequence> {
        self.sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these portals' senders look.
    pub(crate) fn wake_senders(&self, portals: &[PortalId]) {
        if !portals.is_empty() {
            self.wake(Wake::Senders(portals.to_vec()));
        }
    }

    /// People's devices may have changed: what was kept because of one may be passed on.
    pub(crate) fn devices_may_have_changed(&self) {
        self.device_news.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    }

    /// The news of devices, if what is kept in a conversation was not looked at since they came.
    pub(crate) fn news_of_devices(&self, conversation: &ConversationId) -> Option<u64> {
        let news = self.device_news.lock().unwrap_or_else(PoisonError::into_inner);
        Some(news.0).filter(|now| news.1.get(conversation) != Some(now))
    }

    /// What is kept in a conversation was looked at with these news.
    pub(crate) fn news_are_known(&self, conversation: &ConversationId, known: u64) {
        self.device_news.lock().unwrap_or_else(PoisonError::into_inner).1.insert(conversation.clone(), known);
    }

    /// Has these conversations' relays look.
    pub(crate) fn wake_relays(&self, conversations: Vec<ConversationId>) {
        conversations.into_iter().for_each(|conversation| self.wake(Wake::Relay(conversation)));
    }

    /// Has the worker look that makes a conversation's rooms, and sets them to what they are to be like.
    pub(crate) fn wake_maker(&self, conversation: &ConversationId) {
        self.wake(Wake::Maker(conversation.clone()));
    }

    fn wake(&self, wake: Wake) {
        // Nobody listens only while the engine stops; what waits is looked for at the next start.
        let _ = self.wakes.send(wake);
    }
}

/// The running engine.
pub struct Engine {
    core: Arc<Core>,
    relays: Keyed<ConversationId>,
    sender: Sender,
    makers: Keyed<ConversationId>,
    tasks: Mutex<JoinSet<()>>,
}

/// The setting that keeps which emergency words the rooms have.
const EMERGENCY: &str = "emergency-words";
const A_MOMENT: Duration = Duration::from_millis(200);
/// How many files are looked at at the same time.
const FILES_AT_ONCE: usize = 2;

impl Engine {
    /// Opens the store and starts; does not wait for the homeserver, which may come later.
    ///
    /// # Errors
    /// When the data folder or the database cannot be used.
    pub async fn start(
        settings: Settings,
        homeserver: Homeserver,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Arc<Self>, StartError> {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.data).await?;
        tokio::fs::set_permissions(&settings.data, std::fs::Permissions::from_mode(0o700)).await?;
        let store = Store::open(&settings.database, &settings.master_key, Arc::clone(&chance)).await?;
        let fresh = Secret::new(MasterKey::fresh(&*chance).to_hex().to_string());
        let leg_ids = Arc::new(LegIds::new(store.secret_or("leg-id-key", fresh).await?));
        // The words in the topics of rooms that stand are to be these.
        let words = settings.emergency.as_ref().map_or("", EmergencyWords::as_str);
        let had_words = store.remembers(EMERGENCY).await?;
        if had_words.as_deref().unwrap_or_default() != words {
            store.all_are_to_be_set(clock.now()).await?;
            store.remember(EMERGENCY, words).await?;
        }
        // Once there were any, a room may still have them that was not set since.
        let sets_topics = !words.is_empty() || had_words.is_some();
        let machines = Machines::new(
            homeserver.clone(),
            store.clone(),
            Arc::clone(&clock),
            settings.allow_unsigned_clients,
        );
        // They were awake when the process before this one ended, and may have something in their inboxes.
        let spoke_last = store.spoke_last(settings.idle).await?;
        let looks = Looks::default();
        let receipts = Arc::new(Notify::new());
        let ghosts = Ghosts {
            spoke_first: Arc::clone(&receipts),
            server_name: settings.server_name.clone(),
            practice: settings.practice.clone(),
            store: store.clone(),
            homeserver: homeserver.clone(),
            machines,
            turn: Mutex::new(Turn::beginning_with(spoke_last, &*chance)),
            came: Arc::clone(&looks.news),
            chance,
        };
        let (wakes, mut woken) = mpsc::unbounded_channel();
        let receiving = watch::Sender::new(None);
        let core = Arc::new(Core {
            settings,
            store,
            homeserver,
            turns: Turns::new(),
            ghosts,
            leg_ids,
            sets_topics,
            clock,
            tries: Tries::default(),
            counts: Counts::default(),
            looking_at_files: Semaphore::new(FILES_AT_ONCE),
            scanner_away_until: AtomicI64::new(0),
            device_news: std::sync::Mutex::new((1, HashMap::new())),
            looks,
            changes: Changes::default(),
            wakes,
            receiving,
            stalled: watch::Sender::new(false),
            sequence: std::sync::Mutex::default(),
            open: AtomicBool::new(false),
            catching_up: Mutex::default(),
            trouble: Notify::new(),
            repairs: Notify::new(),
            receipts,
            up_to_date: AtomicBool::new(false),
            looks_back: AtomicU32::new(0),
        });
        *core.sequence() = Sequence::after(core.store.last_transaction().await?);
        let engine = Arc::new(Self {
            core,
            relays: Keyed::new(),
            sender: Sender::new(),
            makers: Keyed::new(),
            tasks: Mutex::default(),
        });
        let mut tasks = engine.tasks.lock().await;
        let weak = Arc::downgrade(&engine);
        tasks.spawn(async move {
            while let (Some(wake), Some(engine)) = (woken.recv().await, weak.upgrade()) {
                match wake {
                    Wake::Relay(conversation) => engine.wake_relay(&conversation).await,
                    Wake::Maker(conversation) => engine.wake_maker(&conversation).await,
                    Wake::Senders(portals) => engine.sender.wake(&engine.core, portals).await,
                }
            }
        });
        rounds::begin(&mut tasks, &engine);
        drop(tasks);
        Ok(engine)
    }

    /// Ends all work; what waits is gone on with at the next start.
    pub async fn stop(&self) {
        self.tasks.lock().await.shutdown().await;
        self.relays.stop().await;
        self.sender.stop().await;
        self.makers.stop().await;
        self.core.store.close().await;
    }

    /// How full the queues are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn figures(&self) -> Result<Figures, StoreError> {
        self.core.store.figures().await
    }

    /// How many Olm machines are awake.
    pub async fn machines_awake(&self) -> usize {
        self.core.ghosts.machines.awake().await
    }

    /// What has been counted since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.core.counts
    }

    /// The store, to be read.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.core.store
    }

    /// The homeserver.
    #[must_use]
    pub fn homeserver(&self) -> &Homeserver {
        &self.core.homeserver
    }

    /// Since when the bot has received without a break, none while it does not; changes are told.
    #[must_use]
    pub fn receiving(&self) -> watch::Receiver<Option<Timestamp>> {
        self.core.receiving.subscribe()
    }

    /// As the bot, who is an administrator of the homeserver.
    #[must_use]
    pub fn bot(&self) -> Option<Intent> {
        crate::ghosts::bot_user_id(&self.core.settings.server_name).map(|user_id| Intent::user(&user_id))
    }

    /// Takes a transaction in: all its events are kept when this returns well, and handled afterwards.
    ///
    /// # Errors
    /// [`EngineError::Intake`] for a body that makes no sense; else the homeserver is to send it again.
    pub async fn accept(self: &Arc<Self>, transaction: &str, body: &[u8]) -> Result<(), EngineError> {
        if !self.core.open.load(Ordering::Relaxed) {
            // What came now would stand before what was said earlier and is not known yet.
            return Err(EngineError::CatchingUp);
        }
        let ours = |user_id: &UserId| self.core.ghosts.is_ours(user_id);
        #[cfg_attr(not(feature = "faults"), expect(unused_mut, reason = "only a fault changes them"))]
        let mut events = parse_transaction(body, ours)?;
        #[cfg(feature = "faults")]
        if self.spoil(&mut events).await {
            return Ok(());
        }
        let number = transaction.parse().ok();
        if let Some(number) = number
            && self.core.sequence().judge(number) == Verdict::Refuse
        {
            tracing::info!(number, "a transaction waits for an earlier one that may be missing");
            self.core.trouble.notify_one();
            self.ping_soon();
            return Err(EngineError::OutOfOrder);
        }
        let kept = self.core.take_in_numbered(&events, number).await;
        match &kept {
            Ok(()) => {
                if let Some(number) = number {
                    self.core.sequence().taken(number);
                }
            }
            Err(error) => {
                if !self.core.stalled.send_replace(true) {
                    tracing::error!(
                        %error,
                        "nothing can be kept: messages wait at the homeserver until the database takes them"
                    );
                }
            }
        }
        Ok(kept?)
    }

    /// Has the homeserver call us once it has taken note of a refusal: what it then succeeds with it goes on with at once,
    /// and by itself it would wait for two seconds.
    fn ping_soon(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(A_MOMENT).await;
            if let Some(engine) = weak.upgrade()
                && let Some(bot) = engine.bot()
            {
                // It tries by itself too.
                let _ = engine.core.homeserver.ping(&bot.user_id).await;
            }
        });
    }

    /// Whether messages travel: the bot receives, and what the homeserver sends is kept.
    #[must_use]
    pub fn travels(&self) -> bool {
        self.core.receiving_since().is_some() && !*self.core.stalled.borrow()
    }

    /// The faults of taking in. Whether there is nothing more to be done.
    #[cfg(feature = "faults")]
    async fn spoil(self: &Arc<Self>, events: &mut Vec<crate::store::Arrived>) -> bool {
        if faulty!(self.core.settings, NoDedup) {
            for event in events.iter_mut() {
                event
                    .dedup_key
                    .push_str(&self.core.ghosts.chance.bytes().map(|b| format!("{b:02x}")).concat());
            }
        }
        if faulty!(self.core.settings, NoEcho) {
            events.iter_mut().for_each(|event| event.echo = None);
        }
        if !faulty!(self.core.settings, AnswerFirst) {
            return false;
        }
        let (engine, events) = (Arc::clone(self), std::mem::take(events));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = engine.core.take_in(&events).await;
        });
        true
    }

    /// Has every worker look that may have something to do.
    async fn look_everywhere(&self) -> Result<(), StoreError> {
        self.core.wake_relays(self.core.store.conversations_waiting().await?);
        self.core.wake_senders(&self.core.store.portals_waiting().await?);
        Ok(())
    }

    async fn wake_relay(&self, conversation: &ConversationId) {
        let core = Arc::clone(&self.core);
        let work = move |conversation| {
            let core = Arc::clone(&core);
            async move { core.relay(&conversation).await }
        };
        self.relays.wake(conversation, work).await;
    }
}
