//! Repair: what somebody cannot read is sent again from the record, with its original time, and the unreadable event is
//! redacted. It is the one answer to everything that goes wrong after sending.
//!
//! Each step is written down before the next: that a repair may be wished for, before the message that tells of it is taken
//! in; which sessions could not be read; and with what is sent again, that they are dealt with.

use ruma::UserId;

use crate::{
    crypto::CryptoError,
    engine::Core,
    store::{Repair, StoreError, UnreadableSession},
};

/// Why a message is sent again, as the ledger keeps it: a device could not read its Olm messages.
const WEDGED: &str = "wedged";

impl Core {
    /// Does what repairs are wished for, and what earlier ones have left undone. One that fails keeps no other from being
    /// done, and is tried the next time.
    ///
    /// # Errors
    /// When the database cannot be asked what there is to do.
    pub(crate) async fn repair(&self) -> Result<(), StoreError> {
        for (ours, reader) in self.store.repairs_wished().await? {
            if let Err(error) = self.name_sessions(&ours, &reader).await {
                tracing::error!(user_id = %ours, %error, "a repair is not done yet");
            }
        }
        for session in self.store.unreadable_sessions().await? {
            if let Err(error) = self.send_again(&session).await {
                tracing::error!(portal = %session.portal, %error, "a repair is not done yet");
            }
        }
        Ok(())
    }

    /// A device of somebody's could not read what a user of ours had sent it, and has begun Olm anew: the rooms' keys that
    /// went by the old session may be among it. So the sessions that our user uses now, where it speaks to them, are
    /// unreadable.
    async fn name_sessions(&self, ours: &UserId, reader: &UserId) -> Result<(), CryptoError> {
        let machine = self.ghosts.by_user(ours).await?;
        let mut sessions = Vec::new();
        for portal in self.store.portals_between(ours, reader).await? {
            let portal = self.store.portal(&portal).await?;
            let Some(room_id) = &portal.room_id else { continue };
            // One that it has left meanwhile is what they could not read.
            let session = match machine.session_in(room_id).await? {
                Some(session_id) => Some(self.store.session_name(&session_id)),
                None => self.store.last_session(ours, &portal.id).await?,
            };
            if let Some(session) = session {
                sessions.push(UnreadableSession { ours: ours.to_owned(), portal: portal.id, session });
            }
        }
        Ok(self.store.sessions_are_unreadable(ours, reader, &sessions).await?)
    }

    /// Sends again what a user of ours has sent to a portal in a session.
    async fn send_again(&self, unreadable: &UnreadableSession) -> Result<(), CryptoError> {
        let portal = self.store.portal(&unreadable.portal).await?;
        let room_id = portal.room_id.as_ref().ok_or(StoreError::Malformed("repair_sessions"))?;
        let machine = self.ghosts.by_user(&unreadable.ours).await?;
        // First, so that nothing is sent again in the session that could not be read.
        let now_used = machine.session_in(room_id).await?.map(|id| self.store.session_name(&id));
        if now_used.as_ref() == Some(&unreadable.session) {
            machine.leave_session(room_id).await?;
        }
        let now = self.clock.now();
        // Asked first: what has landed by then is found below.
        let is_all = !self.store.is_on_its_way(unreadable).await?;
        let sent = self.store.sent_in(&portal, &unreadable.ours, &unreadable.session).await?;
        let repairs: Vec<_> = sent
            .into_iter()
            .map(|of| {
                let (again, redaction) = self.leg_ids.again(&of, &unreadable.ours, &portal.id, now);
                Repair { of, again, redaction, why: WEDGED }
            })
            .collect();
        self.store.begin_repairs(unreadable, &portal.conversation, &repairs, is_all, now).await?;
        if !repairs.is_empty() {
            tracing::info!(portal = %portal.id, messages = repairs.len(), why = WEDGED, "sent again from the record");
            self.wake_senders(std::slice::from_ref(&portal.id));
        }
        Ok(())
    }
}
