//! Conversations as the listeners begin them and look at them: written down first, then made by workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parlour_domain::{ConversationId, DeletionReason, MessageId, Mode, NewConversation, PersonId, PortalId};
use ruma::EventId;
use tokio::{sync::watch, time::Instant};

use super::{Core, Engine, EngineError};
use crate::{
    faults::faulty,
    store::{Begun, Portal, Removal, Request, StoreError},
};

impl Core {
    /// Something about a conversation has changed that somebody may be looking at: how far its making has come, or its
    /// messages.
    pub(crate) fn changed(&self, conversation: &ConversationId) {
        self.changes.tell(conversation);
    }

    /// As [`Core::changed`], of the conversations that these portals belong to.
    pub(crate) async fn changed_in(&self, portals: &[PortalId]) {
        if !self.changes.interest() {
            return;
        }
        for portal in portals {
            // Whoever looks at it looks again by themselves, too.
            if let Ok(portal) = self.store.portal(portal).await {
                self.changed(&portal.conversation);
            }
        }
    }
}

impl Engine {
    /// Begins a conversation. When this returns well it is written down, and its making has begun. The same `request`,
    /// made again, begins no other.
    ///
    /// # Errors
    /// [`EngineError::OtherRequest`]; or the database fails: then there is no conversation.
    pub async fn begin(
        &self,
        new: &NewConversation,
        request: Option<Request<'_>>,
    ) -> Result<ConversationId, EngineError> {
        let forgotten;
        let new = if faulty!(self.core.settings, OneWayOpen) {
            forgotten = NewConversation { mode: Mode::TwoWay, ..new.clone() };
            &forgotten
        } else {
            new
        };
        let id = ConversationId::from_bytes(self.core.ghosts.chance.bytes());
        let portal = || PortalId::from_bytes(self.core.ghosts.chance.bytes());
        let spokes = new.patients.iter().map(|patient| (portal(), Some(patient.clone())));
        let portals: Vec<_> = std::iter::once((portal(), None)).chain(spokes).collect();
        match self.core.store.add_conversation(&id, new, &portals, request, self.core.clock.now()).await? {
            Begun::Now => {
                self.wake_maker(&id).await;
                Ok(id)
            }
            Begun::Before(before) => Ok(before),
            Begun::Otherwise => Err(EngineError::OtherRequest),
        }
    }

    /// Waits until a conversation is made, but no longer than this.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn made_within(&self, id: &ConversationId, limit: Duration) -> Result<(), EngineError> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changes(id);
        while let Some(conversation) = self.core.store.conversation(id).await?
            && !conversation.ready
        {
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Has a conversation be one-way or two-way (S16). When this returns well it is written down, and its rooms are being
    /// switched.
    ///
    /// # Errors
    /// When the database fails. Asked again, it is what was asked last.
    pub async fn set_mode(&self, id: &ConversationId, mode: Mode, by: &PersonId) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        if self.core.store.set_mode(id, mode, by, self.core.clock.now()).await? {
            self.wake_maker(id).await;
            self.core.changed(id);
        }
        Ok(())
    }

    /// Names who may write in a conversation also when it is one-way, besides its owner (S16): these, and no others. When this
    /// returns well it is written down, and its hub is being set to it.
    ///
    /// # Errors
    /// When the database fails. Asked again, it is what was asked last.
    pub async fn set_senders(
        &self,
        id: &ConversationId,
        senders: &[PersonId],
        by: &PersonId,
    ) -> Result<(), EngineError> {
        self.core.knows_its_rooms().await?;
        if self.core.store.set_senders(id, senders, by, self.core.clock.now()).await? {
            self.wake_maker(id).await;
            self.core.changed(id);
        }
        Ok(())
    }

    /// Waits until all rooms of a conversation that stand are as they are to be, but no longer than this. Whether they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_within(&self, id: &ConversationId, limit: Duration) -> Result<bool, EngineError> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changes(id);
        while self.core.store.not_set(id).await? > 0 {
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Deletes a message (S18). When this returns well that is written down, and it disappears from the rooms.
    ///
    /// # Errors
    /// When the database fails, or the bot is not there yet; then it is not deleted.
    pub async fn delete(
        &self,
        conversation: &ConversationId,
        message: &MessageId,
        by: &PersonId,
        reason: Option<DeletionReason>,
    ) -> Result<(), EngineError> {
        let deletion = self.core.deletion(conversation, message, by, reason).await?;
        let portals = self.core.store.delete(&deletion, self.core.clock.now()).await?;
        self.core.wake_senders(&portals);
        self.core.changed(conversation);
        Ok(())
    }

    /// Has something go from its portal that is no message of the record (S18): it was refused, or waits for something. When
    /// this returns well that is written down, and it disappears.
    ///
    /// # Errors
    /// When the database fails, the bot is not there yet, or it has become a message of the record meanwhile; then it stays.
    pub async fn remove(
        &self,
        portal: &Portal,
        event_id: &EventId,
        by: &PersonId,
        reason: Option<DeletionReason>,
    ) -> Result<(), EngineError> {
        let (core, at) = (&self.core, self.core.clock.now());
        let bot = core.ghosts.bot().await?.intent().user_id.clone();
        let mut voids = core.copies_go(&portal.conversation, event_id).await?;
        voids.push(core.leg_ids.void(event_id, &portal.id, bot, at));
        let portals: Vec<_> = voids.iter().map(|leg| leg.portal.clone()).collect();
        let removal = Removal { portal, event_id: event_id.to_owned(), by: by.clone(), reason, voids };
        if core.store.remove(&removal, at).await? {
            core.wake_senders(&portals);
            // What waited behind it goes on.
            core.wake_relays(vec![portal.conversation.clone()]);
            core.changed(&portal.conversation);
        }
        Ok(())
    }

    /// Hears of each change of a conversation from now on: how far its making has come, or its messages.
    #[must_use]
    pub fn changes(&self, id: &ConversationId) -> watch::Receiver<()> {
        self.core.changes.watch(id)
    }

    /// Has the workers look of conversations whose rooms are not as they are to be.
    pub(super) async fn make_unfinished(&self) -> Result<(), StoreError> {
        for id in self.core.store.unfinished_conversations().await? {
            self.wake_maker(&id).await;
        }
        Ok(())
    }

    pub(super) async fn wake_maker(&self, id: &ConversationId) {
        let core = Arc::clone(&self.core);
        let failed = Arc::new(AtomicU32::new(0));
        let work = move |id| {
            let (core, failed) = (Arc::clone(&core), Arc::clone(&failed));
            async move {
                let (again, failures) = core.make(&id, failed.load(Ordering::Relaxed)).await;
                failed.store(failures, Ordering::Relaxed);
                again
            }
        };
        self.makers.wake(id, work).await;
    }
}
