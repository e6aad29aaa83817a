//! Reading rooms back: what stands in a room and did not come by a transaction is taken in as if it had.
//!
//! It answers the one question that no answer, no echo and no memory of the homeserver's can be trusted with: whether a leg
//! whose sending broke off stands in its room. And after a restored backup it brings what was said since.

use ruma::api::{Direction, client::message::get_message_events};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    intake::arrived,
    store::{Arrived, Portal, StoreError},
};

/// How many events one request asks for; the homeserver may give fewer.
const PAGE: u32 = 100;
/// So many known events end it. One alone might be known by a transaction that has overtaken another.
const ENOUGH_KNOWN: usize = 10;
/// How far a room is read back at most. What stands before is older than any message can wait.
const MOST_EVENTS: usize = 10_000;

impl Core {
    /// Reads a portal's room back to the last event that is known, and takes in what is newer, oldest first.
    ///
    /// # Errors
    /// When homeserver or database fail; what was taken in stays, and reading again goes on from there.
    pub(crate) async fn read_back(&self, portal: &Portal) -> Result<(), CryptoError> {
        self.read_back_from(portal, None).await
    }

    /// As [`Core::read_back`], from a place in the room's history on; none is its end.
    pub(crate) async fn read_back_from(
        &self,
        portal: &Portal,
        mut from: Option<String>,
    ) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        let bot = self.ghosts.bot().await?;
        let ours = |user_id: &ruma::UserId| self.ghosts.is_ours(user_id);
        let (mut unknown, mut known): (Vec<Arrived>, usize) = (Vec::new(), 0);
        'pages: loop {
            let mut request = get_message_events::v3::Request::new(room_id.clone(), Direction::Backward);
            request.limit = PAGE.into();
            request.from = from;
            let page = self.homeserver.request(CommitPoint::ReadHistory, bot.intent(), request).await?;
            for event in &page.chunk {
                let event = arrived(event.json(), &ours);
                if self.store.knows_event(&event.dedup_key).await? {
                    known += 1;
                    if known == ENOUGH_KNOWN {
                        break 'pages;
                    }
                } else {
                    unknown.push(event);
                }
            }
            from = page.end;
            if unknown.len() >= MOST_EVENTS {
                tracing::error!(portal = %portal.id, events = unknown.len(), "a room is read back no further");
                break;
            }
            if from.is_none() {
                break;
            }
        }
        if faulty!(self.settings, NoEcho) {
            return Ok(());
        }
        if faulty!(self.settings, AnswerFirst) {
            unknown.retain(|event| event.echo.is_some());
        }
        unknown.reverse();
        // In the order of the room: wherever this ends, what is missing is newer than what was taken in.
        for events in unknown.chunks(PAGE as usize) {
            self.take_in(events).await?;
        }
        Ok(())
    }

    /// Keeps the events of a transaction and its number, and wakes whom they concern. Until all is known that was said before
    /// the start, a leg among them that the database has never encrypted shows that it is older than the world.
    ///
    /// # Errors
    /// When the database fails, or [`StoreError::Older`]; then nothing of them is kept.
    pub(crate) async fn take_in_numbered(
        &self,
        events: &[Arrived],
        transaction: Option<i64>,
    ) -> Result<(), StoreError> {
        if !self.is_up_to_date() && !self.may_all_stand(events).await? {
            return Err(StoreError::Older);
        }
        let touched = self.store.accept(events, transaction, self.clock.now()).await?;
        self.wake_relays(touched.conversations);
        self.wake_senders(&touched.portals);
        self.changed_in(&touched.portals).await;
        Ok(())
    }

    /// Whether all of our legs among these events may stand in rooms, as far as the database knows, unless it is known that
    /// it does not know.
    async fn may_all_stand(&self, events: &[Arrived]) -> Result<bool, StoreError> {
        for (leg, _) in events.iter().filter_map(|event| event.echo.as_ref()) {
            if !self.store.may_stand(leg).await? {
                return Ok(self.store.restored_at().await?.is_some());
            }
        }
        Ok(true)
    }

    /// As [`Core::take_in_numbered`], of events that came by no transaction.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn take_in(&self, events: &[Arrived]) -> Result<(), StoreError> {
        self.take_in_numbered(events, None).await
    }
}
