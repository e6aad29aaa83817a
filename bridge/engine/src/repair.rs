//! Repair: what somebody cannot read is sent again from the record, with its original time, and the unreadable event is
//! redacted. It is the one answer to everything that goes wrong after sending.
//!
//! Each step is written down before the next: that a repair may be wished for, before the message that tells of it is taken
//! in; which sessions could not be read; and with what is sent again, that they are dealt with.

use std::collections::HashSet;

use parlour_domain::{PortalId, Timestamp};
use ruma::{DeviceId, UserId};

use crate::{
    crypto::{CryptoError, Published},
    engine::Core,
    faults::faulty,
    store::{
        DeviceNews, Known, KnownDevice, Landed, Repair, SessionName, StoreError, UnreadableSession, Why,
    },
};

/// For how long a device may be there and not be seen, in milliseconds: Synapse does not note it again for two minutes, and
/// it may wait for news as long as its poll lasts.
const UNNOTED_MILLIS: i64 = 180_000;
/// How long a new device asks for other things before it publishes itself, in milliseconds.
const BEFORE_IT_IS_HEARD_OF_MILLIS: i64 = 20_000;

/// What of a session a new device has got.
enum Got {
    Nothing,
    /// Some of it, or it is not known.
    Perhaps,
    All,
}

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
                sessions.push(UnreadableSession {
                    why: Why::Wedged,
                    landed: Landed::EVER,
                    ours: ours.to_owned(),
                    portal: portal.id,
                    session,
                });
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
        let is_all = !unreadable.landed.is_open() || !self.store.is_on_its_way(unreadable).await?;
        let sent = self.store.sent_in(&portal, unreadable).await?;
        let repairs: Vec<_> = sent
            .into_iter()
            .map(|of| {
                let (again, redaction) = self.leg_ids.again(&of, &portal.id, now);
                Repair { of, again, redaction }
            })
            .collect();
        self.store.begin_repairs(unreadable, &portal.conversation, &repairs, is_all, now).await?;
        if !repairs.is_empty() {
            let (messages, why) = (repairs.len(), unreadable.why.as_str());
            tracing::info!(portal = %portal.id, messages, why, "sent again from the record");
            self.wake_senders(std::slice::from_ref(&portal.id));
        }
        Ok(())
    }

    /// Somebody has a new device: what has landed after every other device of theirs was last seen, and before this one was
    /// heard of, nobody has got. The bot writes down that it is to be sent again, and that the news is dealt with.
    ///
    /// # Errors
    /// When homeserver or database fail; then nothing is dealt with.
    pub(crate) async fn look_for_what_nobody_got(
        &self,
        news: &DeviceNews,
        known: &Known,
        published: &[&Published],
    ) -> Result<(), CryptoError> {
        let is_signed =
            |id: &DeviceId| published.iter().any(|device| device.signed && device.device_id == id);
        // One that is not signed yet is heard of again when it is. Of one that went while it was news nobody has found that it was
        // signed: it counts as having got nothing. If it was, for that moment, what it got is sent once more.
        let could_read = |device: &&KnownDevice| {
            if device.gone { !device.fresh } else { is_signed(&device.device_id) }
        };
        let (fresh, others): (Vec<_>, Vec<_>) =
            known.devices.iter().filter(could_read).partition(|device| device.fresh);
        let mut sessions = Vec::new();
        // A dehydrated device keeps for the next one what it gets.
        if !fresh.is_empty() && !others.iter().any(|device| device.dehydrated && !device.gone) {
            let seen_last = others.iter().filter_map(|device| device.seen_at).max();
            let seen_last = seen_last.filter(|_| !faulty!(self.settings, RepairsAll));
            sessions = self.sent_to_nobody(news, &fresh, seen_last).await?;
            if !sessions.is_empty() && others.iter().any(|device| device.gone && !device.dehydrated) {
                // When it was seen last was told before it went. It was there for longer.
                let seen_last = seen_last.max(self.connected_last(&news.user_id, known, &fresh).await?);
                sessions = self.sent_to_nobody(news, &fresh, seen_last).await?;
            }
        }
        let fresh: Vec<_> = fresh.into_iter().map(|device| device.device_id.clone()).collect();
        self.store.device_news_is_dealt_with(news, &fresh, &sessions).await?;
        if !sessions.is_empty() {
            self.repairs.notify_one();
        }
        Ok(())
    }

    /// What was sent to somebody's devices after the last of them was seen, and not to these.
    async fn sent_to_nobody(
        &self,
        news: &DeviceNews,
        fresh: &[&KnownDevice],
        seen_last: Option<Timestamp>,
    ) -> Result<Vec<UnreadableSession>, CryptoError> {
        let after = seen_last.map(|seen| seen.plus_millis(UNNOTED_MILLIS));
        let landed = after.map_or(Landed::EVER, |after| Landed::EVER.after(after));
        let mut sessions = Vec::new();
        for (ours, portal, session, first) in self.store.sent_to_after(&news.user_id, after).await? {
            let landed = match self.got_by(&ours, &portal, &session, news, fresh).await? {
                Got::All => continue,
                Got::Nothing => landed,
                // What landed later may have gone to them.
                Got::Perhaps => landed.until(news.at),
            };
            if landed.is_open() || first.is_some_and(|first| landed.holds(first)) {
                sessions.push(UnreadableSession { why: Why::DeadDevice, landed, ours, portal, session });
            }
        }
        Ok(sessions)
    }

    /// What of a session these devices have got. Of one that is not used any more it is not known.
    async fn got_by(
        &self,
        ours: &UserId,
        portal: &PortalId,
        session: &SessionName,
        news: &DeviceNews,
        fresh: &[&KnownDevice],
    ) -> Result<Got, CryptoError> {
        let portal = self.store.portal(portal).await?;
        let Some(room_id) = &portal.room_id else { return Ok(Got::Perhaps) };
        let machine = self.ghosts.by_user(ours).await?;
        let now_used = machine.session_in(room_id).await?;
        if now_used.is_none_or(|id| self.store.session_name(&id) != *session) {
            return Ok(Got::Perhaps);
        }
        let mut got = Got::Nothing;
        for device in fresh {
            match machine.reads_from(room_id, &news.user_id, &device.device_id).await? {
                Some(0) => return Ok(Got::All),
                Some(_) => got = Got::Perhaps,
                None => {}
            }
        }
        Ok(got)
    }

    /// When somebody was seen last by a device that is gone, as far as that can be told from all their connections.
    async fn connected_last(
        &self,
        user_id: &UserId,
        known: &Known,
        fresh: &[&KnownDevice],
    ) -> Result<Option<Timestamp>, CryptoError> {
        let heard_of = fresh.iter().map(|device| device.heard_at).min();
        let before = heard_of.map(|at| at.plus_millis(-BEFORE_IT_IS_HEARD_OF_MILLIS));
        let there = known.devices.iter().filter(|device| !device.gone);
        let there: HashSet<_> = there.filter_map(|device| device.seen_at).collect();
        let bot = self.ghosts.bot().await?;
        let connections = self.homeserver.connections(bot.intent(), user_id).await?;
        Ok(connections.into_iter().filter(|at| Some(*at) < before && !there.contains(at)).max())
    }
}
