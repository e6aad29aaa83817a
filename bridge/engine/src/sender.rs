//! The sender: each portal's legs in order, encrypted once, stored, then sent until they stand in the room.

use std::time::Duration;

use parlour_domain::{LEG_FIELD, PortalId, Refusal};
use ruma::{
    EventId, OwnedEventId, OwnedUserId,
    api::client::message::send_message_event,
    events::{AnyMessageLikeEventContent, MessageLikeEventType},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{
    commit_point::CommitPoint,
    crypto::{CryptoError, Machine, Sealed},
    engine::Core,
    faults::faulty,
    homeserver::{HomeserverError, encoded},
    keyed::Again,
    portals::people_of,
    store::{Leg, LegContent, Portal, StoreError},
};

const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const HELD: Duration = Duration::from_secs(60);
/// How often sending a leg may fail for a reason that does not pass before it is given up: with the pauses between,
/// about three quarters of an hour.
const ATTEMPTS: i64 = 15;
const AT_FIRST: Duration = Duration::from_millis(200);
const WHILE_IT_PASSES: Duration = Duration::from_secs(5);

enum Delivered {
    Landed,
    Held,
}

impl Core {
    /// Sends what waits for a portal, in order, until nothing does, somebody has to sign in first, or it fails.
    pub(crate) async fn send_waiting(&self, portal: &PortalId) -> Again {
        loop {
            if !self.may_work() {
                // When that ends, everybody is woken.
                return Again::WhenWoken;
            }
            let leg = match self.next_leg(portal).await {
                Ok(Some(leg)) => leg,
                Ok(None) => return Again::WhenWoken,
                Err(error) => {
                    tracing::error!(%portal, %error, "the outbox could not be read");
                    return Again::After(AFTER_AN_ERROR);
                }
            };
            if let Some(early) = self.too_early(&leg) {
                return Again::After(early);
            }
            match self.deliver(&leg).await {
                Ok(Delivered::Landed) => {}
                Ok(Delivered::Held) => {
                    if !leg.held {
                        tracing::info!(leg = %leg.id, "held until somebody can read it");
                    }
                    let kept = if leg.held { Ok(()) } else { self.store.leg_is_held(leg.seq).await };
                    // News of a device wakes it; the look in between is for news that came just now.
                    return Again::After(if kept.is_ok() { HELD } else { AFTER_AN_ERROR });
                }
                Err(error) if !error.may_pass() && leg.attempts >= ATTEMPTS => {
                    if let Err(error) = self.give_up(&leg, &error).await {
                        tracing::error!(leg = %leg.id, %error, "the outbox could not be written");
                        return Again::After(AFTER_AN_ERROR);
                    }
                }
                Err(error) => return self.put_off(&leg, &error).await,
            }
        }
    }

    /// How long a leg that was put off still waits. Nothing is put off for longer than the longest pause: what seems to
    /// be was put off before the clock was set back, and is due.
    fn too_early(&self, leg: &Leg) -> Option<Duration> {
        let early = u64::try_from(leg.next_attempt_at.millis() - self.clock.now().millis()).ok()?;
        Some(Duration::from_millis(early)).filter(|early| !early.is_zero() && *early <= LONGEST_PAUSE)
    }

    async fn next_leg(&self, portal: &PortalId) -> Result<Option<Leg>, StoreError> {
        let portal = self.store.portal(portal).await?;
        #[cfg(feature = "faults")]
        if faulty!(self.settings, Unordered) {
            return self.store.newest_leg(&portal).await;
        }
        self.store.next_leg(&portal).await
    }

    /// The homeserver will not take it, however often it is tried: its sender is told, and the next legs go on.
    async fn give_up(&self, leg: &Leg, error: &CryptoError) -> Result<(), CryptoError> {
        let refusal = Refusal::Undeliverable;
        tracing::error!(leg = %leg.id, %error, code = refusal.code(), "a leg is given up");
        let portal = self.store.portal(&leg.portal).await?;
        let now = self.clock.now();
        let notice = match &leg.content {
            LegContent::Message { source: (home, source), .. } => {
                let words = format!("{} ({})", refusal.sentence(), refusal.code());
                Some(self.leg_ids.notice(source, home, refusal.code(), words, now))
            }
            LegContent::Notice { .. } | LegContent::Redaction { .. } => None,
        };
        self.store.leg_has_failed(leg, &portal.conversation, refusal.code(), notice.as_ref(), now).await?;
        self.counts.given_up();
        if let Some(notice) = notice {
            self.wake_senders(&[notice.portal]);
        }
        Ok(())
    }

    async fn put_off(&self, leg: &Leg, error: &CryptoError) -> Again {
        let asked = match error {
            CryptoError::Homeserver(HomeserverError::Refused { retry_after, .. }) => *retry_after,
            _ => None,
        };
        let counts = !error.may_pass();
        let pause = match asked {
            // Who asks for more is asked again earlier, and says so again.
            Some(asked) => asked.min(LONGEST_PAUSE),
            None if counts => {
                (AFTER_AN_ERROR * 2u32.saturating_pow(leg.attempts.clamp(0, 16) as u32)).min(LONGEST_PAUSE)
            }
            // The bot notices at once when the homeserver is back, and wakes everybody.
            None if self.receiving_since().is_none() => LONGEST_PAUSE,
            // One connection that was cut says nothing of the next.
            None if leg.next_attempt_at.millis() == 0 => AT_FIRST,
            None => WHILE_IT_PASSES,
        };
        tracing::warn!(leg = %leg.id, attempts = leg.attempts, %error, "a leg is tried again");
        self.counts.retried();
        let next = self.clock.now().plus_millis(pause.as_millis() as i64);
        if let Err(error) = self.store.leg_is_put_off(leg.seq, counts, next).await {
            tracing::error!(leg = %leg.id, %error, "the outbox could not be written");
        }
        Again::After(pause)
    }

    async fn deliver(&self, leg: &Leg) -> Result<Delivered, CryptoError> {
        let portal = self.store.portal(&leg.portal).await?;
        let machine = match &leg.content {
            LegContent::Redaction { by, .. } => self.ghosts.by_user(by).await?,
            LegContent::Message { sender, .. } => {
                let person = self.store.person(sender).await?.ok_or(StoreError::Malformed("messages"))?;
                self.ghosts.of(&person).await?
            }
            LegContent::Notice { .. } => self.ghosts.bot().await?,
        };
        self.ghosts.join(&portal, &machine.intent().user_id).await?;
        if let LegContent::Redaction { event, .. } = &leg.content {
            self.redact(leg, &portal, &machine, event).await?;
            return Ok(Delivered::Landed);
        }
        let ciphertext = match &leg.sealed {
            Some((ciphertext, _)) => {
                // Sending it was begun before, and how that ended is not known. The homeserver remembers transaction ids
                // for a day and not for ever; the room tells for certain.
                if !faulty!(self.settings, NewTransactionId) {
                    self.read_back(&portal).await?;
                }
                if self.store.has_landed(leg.seq).await? {
                    return Ok(Delivered::Landed);
                }
                ciphertext.clone()
            }
            None => match self.seal(leg, &portal, &machine).await? {
                Some(ciphertext) => ciphertext,
                None => return Ok(Delivered::Held),
            },
        };
        self.put(leg, &portal, &machine, ciphertext).await?;
        Ok(Delivered::Landed)
    }

    /// Encrypts a leg and writes the ciphertext down before anything of it is sent.
    async fn seal(
        &self,
        leg: &Leg,
        portal: &Portal,
        machine: &Machine,
    ) -> Result<Option<String>, CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(None) };
        let participants = self.store.participants(&portal.conversation).await?;
        let mut readers: Vec<OwnedUserId> = Vec::new();
        for participant in people_of(portal, &participants) {
            if self.store.has_joined(&portal.id, &participant.person.user_id).await? {
                readers.push(participant.person.user_id.clone());
            }
        }
        let bot = self.ghosts.bot().await?;
        let sealing = if faulty!(self.settings, BotEncrypts) { &*bot } else { machine };
        let sealed = sealing.seal(room_id, &readers, "m.room.message", &plaintext(&leg.content)).await?;
        let Sealed::Ciphertext { mut content, session_id } = sealed else { return Ok(None) };
        let is_ghost = machine.intent().user_id != bot.intent().user_id;
        if is_ghost {
            bot.learn_session(machine, room_id, &session_id).await?;
        }
        content[LEG_FIELD] = json!(leg.id);
        let ciphertext = serde_json::to_string(&content)?;
        let sender = &machine.intent().user_id;
        self.store.leg_is_sealed(leg, portal, &ciphertext, &session_id, sender).await?;
        Ok(Some(ciphertext))
    }

    /// `PUT /redact`: an event that somebody could not read goes, now that its message stands there again.
    async fn redact(
        &self,
        leg: &Leg,
        portal: &Portal,
        machine: &Machine,
        event: &EventId,
    ) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        let ghost = machine.intent();
        let [room_id, event] = [room_id.as_str(), event.as_str()].map(encoded);
        let transaction_id = format!("parlour.{}.{}", leg.id, ghost.user_id.localpart());
        let path = format!("/_matrix/client/v3/rooms/{room_id}/redact/{event}/{transaction_id}");
        let body = json!({ LEG_FIELD: leg.id });
        let answer =
            self.homeserver.call(CommitPoint::Redact, Some(ghost), http::Method::PUT, &path, &body).await;
        let answer = match answer {
            // An event that is gone needs none.
            Err(error @ HomeserverError::Refused { status: 404, .. }) => {
                return self.give_up(leg, &error.into()).await;
            }
            answer => answer?,
        };
        let event = answer["event_id"].as_str().and_then(|id| OwnedEventId::try_from(id).ok());
        let event = event.ok_or(HomeserverError::Nonsense("PUT /redact"))?;
        Ok(self.store.leg_has_landed(&leg.id, &event, self.clock.now()).await?)
    }

    /// `PUT /send` under an id that names leg and ghost, with the device, so that a repetition is the same event.
    async fn put(
        &self,
        leg: &Leg,
        portal: &Portal,
        machine: &Machine,
        ciphertext: String,
    ) -> Result<(), CryptoError> {
        let Some(room_id) = &portal.room_id else { return Ok(()) };
        let ghost = &machine.intent().user_id;
        let body: Raw<AnyMessageLikeEventContent> = Raw::from_json_string(ciphertext)?;
        let mut transaction_id = format!("parlour.{}.{}", leg.id, ghost.localpart());
        if faulty!(self.settings, NewTransactionId) {
            transaction_id.push_str(PortalId::from_bytes(self.ghosts.chance.bytes()).as_str());
        }
        let mut request = send_message_event::v3::Request::new_raw(
            room_id.clone(),
            transaction_id.into(),
            MessageLikeEventType::RoomEncrypted,
            body,
        );
        request.timestamp = Some(leg.sent_at.to_matrix());
        let again = faulty!(self.settings, SendTwice).then(|| request.clone());
        match self.homeserver.request(CommitPoint::SendEvent, machine.intent(), request).await {
            Ok(answer) => {
                self.store.leg_has_landed(&leg.id, &answer.event_id, self.clock.now()).await?;
                self.counts.sent();
                if let Some(mut again) = again {
                    again.txn_id = format!("{}.again", again.txn_id).into();
                    self.homeserver.request(CommitPoint::SendEvent, machine.intent(), again).await?;
                }
                Ok(())
            }
            Err(error) => {
                if error.is("M_FORBIDDEN") {
                    // Not in the room after all: joined again on the next attempt.
                    self.store.not_joined(&portal.id, ghost).await?;
                }
                Err(error.into())
            }
        }
    }
}

/// What is encrypted: built anew from what may travel, so that nothing else can.
fn plaintext(content: &LegContent) -> Value {
    let (msgtype, body, answers) = match content {
        LegContent::Message { body, answers, .. } => ("m.text", body, answers),
        LegContent::Notice { body, about } => ("m.notice", body, about),
        // It is not encrypted, and never comes here.
        LegContent::Redaction { .. } => return Value::Null,
    };
    // An empty `m.mentions`: nobody is mentioned, whatever words stand there (Matrix v1.19 §User and room mentions).
    let mut plaintext = json!({ "msgtype": msgtype, "body": body, "m.mentions": {} });
    if let Some(event_id) = answers {
        plaintext["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": event_id } });
    }
    plaintext
}
