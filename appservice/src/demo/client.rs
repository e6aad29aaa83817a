//! A real Matrix client of one person, on matrix-sdk: the eyes of `demo --check`, `demo chat` and the tests.
//!
//! It knows only what came through the Matrix client API: what it sees, the person's own client would see.

mod error;
mod files;
mod message;
mod raw_http;
mod sign_in;
mod sync;
mod timeline;

use std::{fmt, sync::Arc, time::Duration};

use matrix_sdk::{Client as Sdk, Room, RoomState};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::receipt::create_receipt::v3::ReceiptType, events::receipt::ReceiptThread,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::{
    error::ClientError,
    message::{Message, Reading, Shield},
    raw_http::RawHttp,
    sign_in::{Recovery, SignIn},
};
use self::{
    sync::{Mode, Shared},
    timeline::Unread,
};

/// One person's client on one device: signed in, cross-signed, and syncing until it is paused or stopped.
///
/// It may be shared (`Arc`, or by reference) between tasks. Dropping it ends the syncing without waiting.
pub struct Client {
    shared: Arc<Shared>,
    user_id: OwnedUserId,
    http: RawHttp,
    mode: watch::Sender<Mode>,
    parked: watch::Receiver<bool>,
    syncing: Mutex<Option<JoinHandle<()>>>,
    _keys: AbortOnDropHandle<()>,
}

/// A room this person has joined, as their client shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSummary {
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// The `m.room.name`, if any.
    pub name: Option<String>,
    /// The `m.room.topic`, if any.
    pub topic: Option<String>,
    /// Whether the room is end-to-end encrypted (`m.room.encryption`).
    pub encrypted: bool,
    /// How many users have joined, oneself included.
    pub joined_members: u64,
}

impl Client {
    /// The person's Matrix id.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The SDK's client, for what this type does not offer (accepting an invitation, for instance).
    pub fn matrix(&self) -> &Sdk {
        &self.shared.sdk
    }

    /// Raw HTTP with this person's access token.
    pub fn http(&self) -> RawHttp {
        self.http.clone()
    }

    /// A counter that grows whenever this client has learned something: a sync response, or a room key.
    pub fn updates(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// All joined rooms, in no particular order.
    pub async fn rooms(&self) -> Vec<RoomSummary> {
        self.shared.sdk.joined_rooms().iter().map(summary).collect()
    }

    /// Waits until a room that is `wanted` is joined, encrypted and known to this client.
    ///
    /// # Errors
    /// [`ClientError::NoSuchRoom`] after `limit`.
    pub async fn wait_for_room(
        &self,
        limit: Duration,
        wanted: impl Fn(&RoomSummary) -> bool,
    ) -> Result<RoomSummary, ClientError> {
        let deadline = Instant::now() + limit;
        let mut updates = self.updates();
        loop {
            updates.borrow_and_update();
            let rooms = self.rooms().await;
            let joined = rooms.len();
            if let Some(room) = rooms.into_iter().find(|room| room.encrypted && wanted(room)) {
                return Ok(room);
            }
            if !matches!(timeout_at(deadline, updates.changed()).await, Ok(Ok(()))) {
                let trouble = self.shared.trouble();
                return Err(ClientError::NoSuchRoom { user: self.user_id.clone(), limit, joined, trouble });
            }
        }
    }

    /// Accepts all invitations that have come; the names of the rooms.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn accept_all(&self) -> Result<Vec<String>, ClientError> {
        let mut names = Vec::new();
        for room in self.shared.sdk.invited_rooms() {
            if is_invited(&room).await {
                room.join().await?;
                names.push(room.name().unwrap_or_default());
            }
        }
        Ok(names)
    }

    /// Accepts the invitation into a room, once it has come.
    ///
    /// # Errors
    /// [`ClientError::NoSuchRoom`] after `limit`, or when the homeserver refuses.
    pub async fn accept(&self, room_id: &RoomId, limit: Duration) -> Result<(), ClientError> {
        let deadline = Instant::now() + limit;
        let mut updates = self.updates();
        loop {
            updates.borrow_and_update();
            if let Some(room) = self.shared.sdk.get_room(room_id)
                && is_invited(&room).await
            {
                return Ok(room.join().await?);
            }
            if !matches!(timeout_at(deadline, updates.changed()).await, Ok(Ok(()))) {
                let joined = self.shared.sdk.joined_rooms().len();
                let trouble = self.shared.trouble();
                return Err(ClientError::NoSuchRoom { user: self.user_id.clone(), limit, joined, trouble });
            }
        }
    }

    /// Sends a text, encrypted when the room is.
    ///
    /// # Errors
    /// When the room is not joined, or the homeserver refuses: [`ClientError::status`] tells the HTTP status.
    pub async fn send_text(&self, room: &RoomId, text: &str) -> Result<OwnedEventId, ClientError> {
        self.send_raw(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await
    }

    /// Sends a text that answers a message: `m.in_reply_to`, without a quote in the body (Matrix v1.13
    /// dropped it).
    ///
    /// # Errors
    /// As [`Client::send_text`].
    pub async fn reply(&self, room: &RoomId, to: &EventId, text: &str) -> Result<OwnedEventId, ClientError> {
        let relation = json!({ "m.in_reply_to": { "event_id": to } });
        let content = json!({ "msgtype": "m.text", "body": text, "m.relates_to": relation });
        self.send_raw(room, "m.room.message", content).await
    }

    /// Sends any message-like event, encrypted when the room is.
    ///
    /// Reactions are never encrypted. An `m.room.redaction` (content: `redacts`, perhaps `reason`) goes by
    /// its own endpoint, in clear.
    ///
    /// # Errors
    /// As [`Client::send_text`].
    pub async fn send_raw(
        &self,
        room: &RoomId,
        event_type: &str,
        content: Value,
    ) -> Result<OwnedEventId, ClientError> {
        let room = self.shared.room(room)?;
        if event_type == "m.room.redaction" {
            let target = content["redacts"].as_str().and_then(|id| EventId::parse(id).ok());
            let target = target.ok_or(ClientError::NothingToRedact)?;
            let sent = room.redact(&target, content["reason"].as_str(), None).await;
            return Ok(sent.map_err(matrix_sdk::Error::from)?.event_id);
        }
        Ok(room.send_raw(event_type, content).await?.response.event_id)
    }

    /// Marks a message as read, publicly (`m.read`, unthreaded).
    ///
    /// # Errors
    /// As [`Client::send_text`].
    pub async fn read(&self, room: &RoomId, event: &EventId) -> Result<(), ClientError> {
        let room = self.shared.room(room)?;
        let thread = ReceiptThread::Unthreaded;
        Ok(room.send_single_receipt(ReceiptType::Read, thread, event.to_owned()).await?)
    }

    /// All messages this client has seen in a room since it signed in or [`Client::history`] fetched them, in
    /// timeline order, each as it reads *now*: decrypted if its key has come since, shields by today's trust.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`] when the person has never been in the room.
    pub async fn messages(&self, room: &RoomId) -> Result<Vec<Message>, ClientError> {
        let room = self.shared.room(room)?;
        Ok(self.shared.messages(&room).await)
    }

    /// Waits until a message that is `wanted` can be read. Messages already seen count.
    ///
    /// # Errors
    /// [`ClientError::NoSuchMessage`] after `limit`, with how many were seen and how many could not be read.
    pub async fn wait_for(
        &self,
        room: &RoomId,
        limit: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> Result<Message, ClientError> {
        let legible =
            |message: &&Message| matches!(message.reading, Reading::Readable { .. } | Reading::Plain);
        self.wait_until(room, limit, |seen| seen.iter().filter(legible).find(|m| wanted(m)).cloned()).await
    }

    /// Waits until all messages seen so far, as [`Client::messages`] gives them, make up an `answer`.
    ///
    /// # Errors
    /// As [`Client::wait_for`].
    pub async fn wait_until<T>(
        &self,
        room: &RoomId,
        limit: Duration,
        answer: impl Fn(&[Message]) -> Option<T>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + limit;
        let mut updates = self.updates();
        loop {
            updates.borrow_and_update();
            let seen = match self.shared.room(room) {
                Ok(room) => self.shared.messages(&room).await,
                Err(_) => Vec::new(), // Not joined yet: the wait covers that too.
            };
            if let Some(answer) = answer(&seen) {
                return Ok(answer);
            }
            if !matches!(timeout_at(deadline, updates.changed()).await, Ok(Ok(()))) {
                return Err(self.not_found(room, limit, &seen));
            }
        }
    }

    /// Asks the homeserver for the room's newest `count` events (`/messages`), adds what was not known, and
    /// returns all messages as [`Client::messages`] does. For a client that was away, or has just started.
    ///
    /// Keys that only the key backup has are fetched in the background: use [`Client::wait_for`] for those.
    ///
    /// # Errors
    /// When the room is unknown or the homeserver cannot be asked.
    pub async fn history(&self, room: &RoomId, count: usize) -> Result<Vec<Message>, ClientError> {
        let room = self.shared.room(room)?;
        let older = timeline::page_back(&room, None, count, |_| false).await?;
        self.shared.take_in(room.room_id(), older);
        Ok(self.shared.messages(&room).await)
    }

    /// Signs another person's identity, as comparing emojis would: from now on they are verified to this
    /// person.
    ///
    /// It counts for messages of Megolm sessions whose key comes *after* this; those of a session received
    /// before stay `UnverifiedIdentity` (matrix-sdk-crypto 0.18 never looks at them again). So verify before
    /// the other's first message, or let them start a new session.
    ///
    /// # Errors
    /// [`ClientError::NoIdentity`] when they have no cross-signing identity, [`ClientError::NotVerified`]
    /// when the homeserver did not keep the signature.
    pub async fn verify_identity(&self, user: &UserId) -> Result<(), ClientError> {
        let encryption = self.shared.sdk.encryption();
        let none = || ClientError::NoIdentity { user: user.to_owned() };
        let identity = encryption.request_user_identity(user).await?.ok_or_else(none)?;
        identity.verify().await.map_err(Box::new)?;
        // The signature counts once it has come back from the homeserver.
        let identity = encryption.request_user_identity(user).await?.ok_or_else(none)?;
        if !identity.is_verified() {
            return Err(ClientError::NotVerified { user: user.to_owned() });
        }
        self.shared.tick();
        Ok(())
    }

    /// What a person is called in a room: the display name, or the id where there is none.
    pub async fn display_name(&self, room: &RoomId, user: &UserId) -> String {
        let member = match self.shared.room(room) {
            Ok(room) => room.get_member(user).await.ok().flatten(),
            Err(_) => None,
        };
        let name = member.and_then(|member| member.display_name().map(ToOwned::to_owned));
        name.unwrap_or_else(|| user.to_string())
    }

    /// Stops syncing, like a phone that is off. Returns once nothing more will be received.
    pub async fn pause(&self) {
        self.mode.send_if_modified(|mode| mode.change(Mode::Running, Mode::Paused));
        let mut parked = self.parked.clone();
        // An error means that the task has ended: parked for good.
        let _ended = parked.wait_for(|parked| *parked).await;
    }

    /// Starts syncing again after [`Client::pause`]; what was missed comes with the next response.
    pub async fn resume(&self) {
        self.mode.send_if_modified(|mode| mode.change(Mode::Paused, Mode::Running));
    }

    /// Ends the syncing for good and waits for it. The device stays signed in, for another start from its
    /// store.
    pub async fn stop(self) {
        self.mode.send_replace(Mode::Stopped);
        if let Some(task) = self.syncing.lock().await.take() {
            // A panic in the task was printed by the runtime already.
            let _ended = task.await;
        }
    }

    fn not_found(&self, room: &RoomId, limit: Duration, seen: &[Message]) -> ClientError {
        let unread = Unread::of(seen);
        ClientError::NoSuchMessage {
            user: self.user_id.clone(),
            room: room.to_owned(),
            limit,
            seen: seen.len(),
            undecryptable: unread.count,
            reasons: unread.reasons,
            trouble: self.shared.trouble(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.mode.send_replace(Mode::Stopped);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

fn summary(room: &Room) -> RoomSummary {
    RoomSummary {
        room_id: room.room_id().to_owned(),
        name: room.name().filter(|name| !name.is_empty()),
        topic: room.topic().filter(|topic| !topic.is_empty()),
        encrypted: room.state() == RoomState::Joined && room.encryption_state().is_encrypted(),
        joined_members: room.joined_members_count(),
    }
}

/// Whether somebody is invited, and by whom is known. A room is taken for one of an invitation a moment before the library has
/// kept who invites: whoever joins then is never given its history, for it is taken from nobody else (MSC4268).
async fn is_invited(room: &Room) -> bool {
    room.state() == RoomState::Invited
        && room.invite_details().await.is_ok_and(|details| details.inviter.is_some())
}
