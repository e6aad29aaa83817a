//! The syncing of a client: one task that takes in what the homeserver sends, until it is paused or stopped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use matrix_sdk::{
    Client as Sdk, Room,
    config::SyncSettings,
    deserialized_responses::TimelineEvent,
    sync::{SyncResponse, Timeline as SyncedTimeline},
};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId,
    api::client::{
        filter::{FilterDefinition, LazyLoadOptions},
        sync::sync_events::v3::Filter,
    },
    presence::PresenceState,
    uint,
};
use tokio::{sync::watch, time::sleep};

use super::{
    ClientError,
    message::Message,
    timeline::{self, Timeline, Trust},
};

/// How long the homeserver may hold a `/sync` that has nothing to say.
const LONG_POLL: Duration = Duration::from_secs(30);
/// The longest wait after a failed `/sync`.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Events read back at most when a `/sync` left a gap.
const LARGEST_GAP: usize = 5_000;

/// What the syncing task is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Running,
    Paused,
    Stopped,
}

impl Mode {
    /// Changes one mode into another; any other stays.
    pub(super) fn change(&mut self, from: Self, to: Self) -> bool {
        let changes = *self == from;
        if changes {
            *self = to;
        }
        changes
    }
}

/// What the client's handle and its tasks share.
pub(super) struct Shared {
    pub(super) sdk: Sdk,
    pub(super) user_id: OwnedUserId,
    pub(super) changed: watch::Sender<u64>,
    timelines: Mutex<BTreeMap<OwnedRoomId, Timeline>>,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(sdk: Sdk, user_id: OwnedUserId) -> Self {
        let timelines = Mutex::default();
        let trouble = Mutex::default();
        Self { sdk, user_id, changed: watch::Sender::new(0), timelines, trouble }
    }

    /// Tells everybody who waits that something may be different.
    pub(super) fn tick(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Why syncing fails at present, if it does.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).as_ref().map(|error| format!("syncing fails: {error}"))
    }

    pub(super) fn room(&self, room: &RoomId) -> Result<Room, ClientError> {
        let unknown = || ClientError::UnknownRoom { user: self.user_id.clone(), room: room.to_owned() };
        self.sdk.get_room(room).ok_or_else(unknown)
    }

    /// Adds a contiguous piece of a room's timeline.
    pub(super) fn take_in(&self, room: &RoomId, piece: Vec<TimelineEvent>) {
        lock(&self.timelines).entry(room.to_owned()).or_default().merge(piece);
    }

    /// All messages of a room as they read now.
    pub(super) async fn messages(&self, room: &Room) -> Vec<Message> {
        let entries = lock(&self.timelines).get(room.room_id()).map(Timeline::entries).unwrap_or_default();
        let mut trust = Trust::new(room);
        let mut messages = Vec::with_capacity(entries.len());
        for entry in entries {
            let (event, is_new) = entry.decrypted(room).await;
            messages.extend(entry.message(&mut trust, &event).await);
            if is_new && let Some(timeline) = lock(&self.timelines).get_mut(room.room_id()) {
                timeline.replace(entry.id(), event);
            }
        }
        messages
    }

    /// One `/sync`, waiting up to `wait` for news.
    pub(super) async fn sync(&self, wait: Duration) -> matrix_sdk::Result<()> {
        let settings =
            SyncSettings::new().timeout(wait).set_presence(PresenceState::Offline).filter(filter());
        let response = self.sdk.sync_once(settings).await?;
        // Taken in before anything is awaited: the token has moved on, this response will not come again.
        let gaps = self.take_in_response(response);
        self.tick();
        for (room, from, piece) in gaps {
            self.fill(&room, from, piece).await;
        }
        Ok(())
    }

    /// Takes in all timelines and returns where one left a gap after what was known.
    fn take_in_response(&self, response: SyncResponse) -> Vec<(OwnedRoomId, String, Vec<TimelineEvent>)> {
        let mut gaps = Vec::new();
        let joined = response.rooms.joined.into_iter().map(|(room, update)| (room, update.timeline));
        let left = response.rooms.left.into_iter().map(|(room, update)| (room, update.timeline));
        let mut timelines = lock(&self.timelines);
        for (room, SyncedTimeline { limited, prev_batch, events }) in joined.chain(left) {
            let timeline = timelines.entry(room.clone()).or_default();
            if limited
                && !timeline.is_empty()
                && let Some(from) = prev_batch
            {
                gaps.push((room, from, events.clone()));
            }
            timeline.merge(events);
        }
        gaps
    }

    /// Reads back from a gap's newer side to what is known. What fails here, `history` can still fetch.
    async fn fill(&self, room: &RoomId, from: String, newer: Vec<TimelineEvent>) {
        let Some(room) = self.sdk.get_room(room) else { return };
        let known = lock(&self.timelines).get(room.room_id()).map(Timeline::ids).unwrap_or_default();
        match timeline::page_back(&room, Some(from), LARGEST_GAP, |id| known.contains(id)).await {
            Ok(mut piece) => {
                piece.extend(newer);
                self.take_in(room.room_id(), piece);
                self.tick();
            }
            Err(error) => tracing::warn!(room = %room.room_id(), %error, "a gap in the timeline stays"),
        }
    }
}

/// Syncs until stopped; `parked` says whether it rests.
pub(super) async fn run(shared: Arc<Shared>, mut mode: watch::Receiver<Mode>, parked: watch::Sender<bool>) {
    let mut backoff = Duration::ZERO;
    loop {
        let now = *mode.borrow_and_update();
        parked.send_replace(now != Mode::Running);
        match now {
            Mode::Stopped => return,
            Mode::Paused if mode.changed().await.is_err() => return,
            Mode::Paused => continue,
            Mode::Running => {}
        }
        let attempt = async {
            sleep(backoff).await;
            shared.sync(LONG_POLL).await
        };
        // Cut off in the middle it loses nothing: the token moves on only once a response has been processed.
        tokio::select! {
            biased;
            _ = mode.changed() => backoff = Duration::ZERO,
            outcome = attempt => {
                let failed = outcome.err();
                backoff = match failed {
                    None => Duration::ZERO,
                    Some(_) => (backoff * 2).clamp(Duration::from_millis(250), LONGEST_BACKOFF),
                };
                *lock(&shared.trouble) = failed.map(|error| error.to_string());
            }
        }
    }
}

/// Ticks whenever a room key comes, by whatever way: an event that waited for it can be read now.
pub(super) async fn watch_keys(shared: Arc<Shared>) {
    let Some(keys) = shared.sdk.encryption().room_keys_received_stream().await else { return };
    let mut keys = std::pin::pin!(keys);
    while keys.next().await.is_some() {
        shared.tick();
    }
}

fn filter() -> Filter {
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(uint!(100));
    filter.room.state.lazy_load_options = LazyLoadOptions::Enabled { include_redundant_members: false };
    Filter::FilterDefinition(filter)
}

/// A poisoned lock holds what was last written whole: good enough to go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
