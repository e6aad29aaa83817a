//! Repair: what somebody cannot read is sent again from the record, with its original time, and the unreadable event is
//! redacted. It is the one answer to everything that goes wrong after sending.

use ruma::UserId;

use crate::{
    crypto::{CryptoError, Machine},
    engine::Core,
    portals::people_of,
    store::{Portal, Repair},
};

/// Why a message is sent again, as the ledger keeps it: a device could not read its Olm messages.
const WEDGED: &str = "wedged";

impl Core {
    /// A device of somebody's could not read what a ghost had sent it, and has begun Olm anew: the rooms' keys that went by the
    /// old session may be among it. The ghost's messages of the sessions that it uses now are sent again.
    pub(crate) async fn send_again(&self, ghost: &Machine, reader: &UserId) -> Result<(), CryptoError> {
        for portal in self.store.portals_written_by(&ghost.intent().user_id).await? {
            let portal = self.store.portal(&portal).await?;
            let participants = self.store.participants(&portal.conversation).await?;
            if people_of(&portal, &participants).iter().any(|p| p.person.user_id == reader) {
                self.repair(ghost, &portal, WEDGED).await?;
            }
        }
        Ok(())
    }

    /// Sends again what a ghost has sent to a portal in the Megolm session that it uses there now.
    async fn repair(&self, ghost: &Machine, portal: &Portal, why: &'static str) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        let Some(session_id) = ghost.session_in(room_id).await? else { return Ok(()) };
        let sent = self.store.sent_in(&portal.id, &ghost.intent().user_id, &session_id).await?;
        // First, so that nothing is sent again in the session that could not be read.
        ghost.leave_session(room_id).await?;
        let now = self.clock.now();
        let repairs: Vec<_> = sent
            .into_iter()
            .map(|(message, unreadable, sent_at)| {
                let (again, redaction) = self.leg_ids.again(&unreadable, &portal.id, sent_at, now);
                let conversation = portal.conversation.clone();
                Repair { message, conversation, unreadable, again, redaction, why }
            })
            .collect();
        if repairs.is_empty() {
            return Ok(());
        }
        tracing::info!(portal = %portal.id, messages = repairs.len(), why, "sent again from the record");
        self.store.begin_repairs(&repairs, now).await?;
        self.wake_senders(std::slice::from_ref(&portal.id));
        Ok(())
    }
}
