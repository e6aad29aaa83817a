//! Deleting (S18): what becomes of a redaction, and of what was deleted before it was read.

use std::sync::Arc;

use parlour_domain::{ConversationId, DeletionReason, MessageId, PersonId};
use ruma::EventId;

use crate::{
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    intake::Event,
    store::{Deletion, InboxRow, NewLeg, Outcome},
};

impl Core {
    /// Somebody deletes what they have said (S18). What nobody knows was passed on to nobody.
    pub(super) async fn deleted(
        &self,
        row: &InboxRow,
        event: &Event,
    ) -> Result<Option<Outcome>, CryptoError> {
        let Some(redacted) = event.redacts() else { return Ok(None) };
        if faulty!(self.settings, DeletionsStay) {
            return Ok(Some(Outcome::Nothing));
        }
        let Some((message, by)) = self.store.said_by(&row.portal, &redacted, &event.sender).await? else {
            self.kept_is_taken_back(row, event).await?;
            let known = self.store.message_at(&row.portal, &redacted).await?;
            // Only whoever has the bot's rights may delete what another has said; the record and the copies stay.
            return Ok(known.is_none().then_some(Outcome::Nothing));
        };
        let reason = event.content["reason"].as_str().and_then(DeletionReason::of_client);
        let mut deletion = self.deletion(&row.conversation, &message, &by, reason).await?;
        deletion.event_id = Some(event.event_id.clone());
        Ok(Some(Outcome::Deleted(Box::new(deletion))))
    }

    /// Whoever said it has deleted it before it was read here.
    pub(super) async fn unread(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        let voids = self.copies_go(&row.conversation, &event.event_id).await?;
        Ok(Outcome::Unread { event_id: event.event_id.clone(), voids })
    }

    /// That copies of something go which was not decided about: after a backup was restored, some may stand in rooms.
    pub(crate) async fn copies_go(
        &self,
        conversation: &ConversationId,
        event_id: &EventId,
    ) -> Result<Vec<NewLeg>, CryptoError> {
        let mut voids = Vec::new();
        for portal in self.store.portals(conversation).await? {
            let leg = self.leg_ids.message(event_id, &portal.id, self.clock.now());
            if let Some(copy) = self.store.early_echo(&leg.id).await? {
                let bot = self.ghosts.bot().await?.intent().user_id.clone();
                voids.push(self.leg_ids.void(&copy, &portal.id, bot, self.clock.now()));
            }
        }
        Ok(voids)
    }

    /// What was decided about something whose deletion lies behind it: it goes into the record, which it is deleted in next, and
    /// into no room. What stands in rooms already, since before a backup was restored, goes with it.
    pub(super) async fn taken_back(
        &self,
        row: &InboxRow,
        event: &Event,
        decided: Outcome,
    ) -> Result<Outcome, CryptoError> {
        let Outcome::Relayed(mut message) = decided else { return self.unread(row, event).await };
        let mut standing = Vec::new();
        for leg in std::mem::take(&mut message.legs) {
            if self.store.early_echo(&leg.id).await?.is_some() {
                standing.push(leg);
            }
        }
        (message.legs, message.tells_lanes, message.closed) = (standing, None, None);
        Ok(Outcome::Relayed(message))
    }

    /// That somebody deletes a message, for a reason.
    pub(crate) async fn deletion(
        &self,
        conversation: &ConversationId,
        message: &MessageId,
        by: &PersonId,
        reason: Option<DeletionReason>,
    ) -> Result<Deletion, CryptoError> {
        Ok(Deletion {
            conversation: conversation.clone(),
            message: message.clone(),
            event_id: None,
            by: by.clone(),
            reason,
            bot: self.ghosts.bot().await?.intent().user_id.clone(),
            ids: Arc::clone(&self.leg_ids),
        })
    }
}

/// Whether the sender of an event has deleted it by one of those that wait behind it.
pub(super) fn is_taken_back(event: &Event, behind: &[InboxRow]) -> bool {
    let redactions = behind.iter().filter(|row| row.event.contains("m.room.redaction"));
    let mut redactions = redactions.filter_map(|row| serde_json::from_str::<Event>(&row.event).ok());
    redactions.any(|other| {
        other.room_id == event.room_id
            && other.sender == event.sender
            && other.redacts().is_some_and(|id| id == event.event_id)
    })
}
