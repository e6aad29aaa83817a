//! What a client has seen of a room, in timeline order, and how it reads now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use matrix_sdk::{
    Room,
    deserialized_responses::{DecryptedRoomEvent, TimelineEvent, TimelineEventKind, VerificationState},
    room::MessagesOptions,
};
use ruma::{
    EventId, OwnedEventId, OwnedUserId, UInt, UserId, events::room::encrypted::OriginalSyncRoomEncryptedEvent,
};

use super::{
    ClientError,
    message::{Message, Reading, Wire},
};

/// Events a `/messages` request asks for at most.
const PAGE: usize = 100;

/// One event of a timeline; cheap to clone.
#[derive(Clone)]
pub(super) struct Entry {
    id: OwnedEventId,
    event: Arc<TimelineEvent>,
    redacted: bool,
}

/// The events of one room, oldest first, each once.
#[derive(Default)]
pub(super) struct Timeline {
    entries: Vec<Entry>,
}

impl Timeline {
    /// A copy to read without holding the lock.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.clone()
    }

    /// Whether nothing has been seen yet.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The ids of all events seen.
    pub(super) fn ids(&self) -> BTreeSet<OwnedEventId> {
        self.entries.iter().map(|entry| entry.id.clone()).collect()
    }

    /// Adds a contiguous piece of the timeline, oldest first. Events that are known give the others their
    /// place; a piece without a known event is newer than everything.
    pub(super) fn merge(&mut self, piece: Vec<TimelineEvent>) {
        let piece: Vec<_> = piece.into_iter().filter_map(|event| Some((event.event_id()?, event))).collect();
        let overlap = piece.iter().find_map(|(id, _)| self.position(id));
        let mut at = overlap.unwrap_or(self.entries.len());
        for (id, event) in piece {
            if let Some(known) = self.position(&id) {
                at = known + 1;
                continue;
            }
            if let Some(target) = wire(&event).and_then(|wire| wire.redacted()) {
                self.redact(&target);
            }
            self.entries.insert(at, Entry { id, event: Arc::new(event), redacted: false });
            at += 1;
        }
    }

    /// Keeps what could be decrypted meanwhile.
    pub(super) fn replace(&mut self, id: &EventId, event: Arc<TimelineEvent>) {
        if let Some(position) = self.position(id) {
            self.entries[position].event = event;
        }
    }

    fn redact(&mut self, target: &EventId) {
        if let Some(position) = self.position(target) {
            self.entries[position].redacted = true;
        }
    }

    /// Searched from the end: it is the newest events that are asked for again.
    fn position(&self, id: &EventId) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.id == id)
    }
}

impl Entry {
    /// The event's id.
    pub(super) fn id(&self) -> &EventId {
        &self.id
    }

    /// The event as it is stored, or newly decrypted: then `true`, for it should be kept.
    pub(super) async fn decrypted(&self, room: &Room) -> (Arc<TimelineEvent>, bool) {
        if let TimelineEventKind::UnableToDecrypt { event, .. } = &self.event.kind
            && !self.redacted
            && let Ok(again) = room.decrypt_event(event.cast_ref_unchecked(), None).await
        {
            let decrypted = matches!(again.kind, TimelineEventKind::Decrypted(_));
            return (Arc::new(again), decrypted);
        }
        (Arc::clone(&self.event), false)
    }

    /// The message that this event is, if it is one.
    pub(super) async fn message(&self, trust: &mut Trust<'_>, event: &TimelineEvent) -> Option<Message> {
        let mut wire = wire(event).filter(Wire::is_message)?;
        if self.redacted || !wire.unsigned["redacted_because"].is_null() {
            wire.content = serde_json::Value::Null;
            return Some(Message::new(wire, Reading::Redacted));
        }
        let reading = match &event.kind {
            TimelineEventKind::Decrypted(event) => Reading::readable(trust.of(event, &wire.sender).await),
            TimelineEventKind::UnableToDecrypt { utd_info, .. } => {
                Reading::Undecryptable { why: format!("{:?}", utd_info.reason) }
            }
            TimelineEventKind::PlainText { event } if wire.kind == "m.room.encrypted" => {
                let malformed = event.deserialize_as_unchecked::<OriginalSyncRoomEncryptedEvent>().err();
                Reading::Undecryptable { why: format!("malformed: {malformed:?}") }
            }
            TimelineEventKind::PlainText { .. } => Reading::Plain,
        };
        Some(Message::new(wire, reading))
    }
}

/// How far senders are trusted today, not when their message came; looked up once a session.
pub(super) struct Trust<'a> {
    room: &'a Room,
    known: BTreeMap<(String, OwnedUserId), VerificationState>,
}

impl<'a> Trust<'a> {
    pub(super) fn new(room: &'a Room) -> Self {
        Self { room, known: BTreeMap::new() }
    }

    async fn of(&mut self, event: &DecryptedRoomEvent, sender: &UserId) -> VerificationState {
        let then = &event.encryption_info;
        let Some(session) = then.session_id() else { return then.verification_state.clone() };
        let key = (session.to_owned(), sender.to_owned());
        if let Some(state) = self.known.get(&key) {
            return state.clone();
        }
        let now = self.room.get_encryption_info(session, sender).await;
        let state = now.as_ref().unwrap_or(then).verification_state.clone();
        self.known.insert(key, state.clone());
        state
    }
}

/// How many messages cannot be read, and why.
pub(super) struct Unread {
    pub(super) count: usize,
    pub(super) reasons: Option<String>,
}

impl Unread {
    pub(super) fn of(messages: &[Message]) -> Self {
        let reasons = messages.iter().filter_map(|message| match &message.reading {
            Reading::Undecryptable { why } => Some(why.as_str()),
            _ => None,
        });
        let distinct: BTreeSet<_> = reasons.clone().collect();
        let joined = distinct.into_iter().collect::<Vec<_>>().join(", ");
        Self { count: reasons.count(), reasons: Some(joined).filter(|text| !text.is_empty()) }
    }
}

/// Reads back from a pagination token (`None`: the room's newest event) until `count` events have come,
/// one is `known`, or the room begins. Oldest first.
pub(super) async fn page_back(
    room: &Room,
    mut from: Option<String>,
    count: usize,
    known: impl Fn(&EventId) -> bool,
) -> Result<Vec<TimelineEvent>, ClientError> {
    let mut events = Vec::new();
    while events.len() < count {
        let mut options = MessagesOptions::backward().from(from.as_deref());
        options.limit = UInt::new_saturating(u64::try_from(PAGE.min(count - events.len())).unwrap_or(1));
        let page = room.messages(options).await?;
        let met = page.chunk.iter().filter_map(TimelineEvent::event_id).any(|id| known(&id));
        events.extend(page.chunk);
        from = page.end;
        if met || from.is_none() {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

fn wire(event: &TimelineEvent) -> Option<Wire> {
    serde_json::from_str(event.raw().json().get()).ok()
}

#[cfg(test)]
mod tests {
    use matrix_sdk::deserialized_responses::TimelineEvent;
    use ruma::serde::Raw;
    use serde_json::json;

    use super::Timeline;

    fn piece(ids: &str) -> serde_json::Result<Vec<TimelineEvent>> {
        let event = |id| {
            let raw = json!({
                "event_id": id, "sender": "@ann:example.org", "origin_server_ts": 1,
                "type": "m.room.message", "content": { "msgtype": "m.text", "body": "Hello" },
            });
            Ok(TimelineEvent::from_plaintext(Raw::new(&raw)?.cast_unchecked()))
        };
        ids.split(' ').map(event).collect()
    }

    #[test]
    fn pieces_find_their_place() -> serde_json::Result<()> {
        let table = [
            ("in order", vec!["$1 $2", "$3"], "$1 $2 $3"),
            ("repeated", vec!["$1 $2", "$1 $2 $3"], "$1 $2 $3"),
            ("older", vec!["$3 $4", "$1 $2 $3"], "$1 $2 $3 $4"),
            ("a gap filled", vec!["$1", "$4", "$1 $2 $3 $4"], "$1 $2 $3 $4"),
            ("a gap half filled", vec!["$1", "$4", "$3 $4"], "$1 $3 $4"),
        ];
        for (name, pieces, expected) in table {
            let mut timeline = Timeline::default();
            for ids in pieces {
                timeline.merge(piece(ids)?);
            }
            let seen: Vec<_> = timeline.entries.iter().map(|entry| entry.id.as_str()).collect();
            assert_eq!(seen.join(" "), expected, "{name}");
        }
        Ok(())
    }
}
