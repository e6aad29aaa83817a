//! Delivering: how a leg gets into its room. Each step is written down before the next begins.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parlour_domain::{LEG_FIELD, PortalId, Refusal};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
    api::client::message::send_message_event,
    events::{AnyMessageLikeEventContent, MessageLikeEventType},
    serde::Raw,
};
use serde_json::{Value, json};

use super::{
    Speaker,
    wording::{is_clear, plaintext},
};
use crate::{
    commit_point::CommitPoint,
    crypto::{CryptoError, Failed, Machine, Sealed, ToSeal},
    engine::Core,
    faults::faulty,
    homeserver::{HomeserverError, Intent, encoded},
    store::{Leg, LegContent, SealedLeg, StoreError},
    turns::Party,
};

const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often sending a leg may fail for a reason that does not pass before it is given up: with the pauses between,
/// about three quarters of an hour.
const ATTEMPTS: i64 = 15;
const AT_FIRST: Duration = Duration::from_millis(200);
const WHILE_IT_PASSES: Duration = Duration::from_secs(5);

/// What has become of a leg when it was to be encrypted.
pub(super) enum Prepared {
    /// Its ciphertext is written down.
    Ready { intent: Intent, ciphertext: String },
    /// Who says it is not in the room yet.
    NotIn(Arc<Machine>),
    /// Nobody can read it yet.
    Held,
    /// It is not to be sent any more.
    Gone,
}

impl Core {
    /// The machine of who says something.
    pub(super) async fn speaker(&self, speaker: &Speaker) -> Result<Arc<Machine>, CryptoError> {
        match speaker {
            Speaker::Bot => self.ghosts.bot().await,
            Speaker::Ghost(person) => {
                let person = self.store.person(person).await?.ok_or(StoreError::Malformed("messages"))?;
                self.ghosts.of(&person).await
            }
            Speaker::User(user_id) => self.ghosts.by_user(user_id).await,
        }
    }

    /// Encrypts legs that one user of ours says, and writes the ciphertexts down before anything of them is sent. What
    /// becomes of them is in the same order. What is asked of the homeserver about devices is asked for the `others` too.
    pub(super) async fn prepare(
        &self,
        speaker: &Speaker,
        legs: &[Leg],
        others: &[Leg],
    ) -> Vec<Result<Prepared, Failed>> {
        match self.prepared(speaker, legs, others).await {
            Ok(prepared) => prepared,
            // One that can never be encrypted must not keep the others from it.
            Err(error) if legs.len() > 1 && !error.may_pass() => {
                let mut all = Vec::with_capacity(legs.len());
                for leg in legs {
                    let alone = self.prepared(speaker, std::slice::from_ref(leg), &[]).await;
                    all.extend(alone.unwrap_or_else(|error| vec![Err(Arc::new(error))]));
                }
                all
            }
            Err(error) => {
                let error = Arc::new(error);
                legs.iter().map(|_| Err(Arc::clone(&error))).collect()
            }
        }
    }

    async fn prepared(
        &self,
        speaker: &Speaker,
        legs: &[Leg],
        others: &[Leg],
    ) -> Result<Vec<Result<Prepared, Failed>>, CryptoError> {
        let machine = self.speaker(speaker).await?;
        let portals: Vec<PortalId> = legs.iter().chain(others).map(|leg| leg.portal.id.clone()).collect();
        let mut members = self.store.members(&portals).await?;
        let ours = &machine.intent().user_id;
        let readers: BTreeSet<_> = members.values().flat_map(|members| &members.readers).cloned().collect();
        let published = machine.published(&readers.into_iter().collect::<Vec<_>>()).await?;
        let there = self.who_is_there(&published).await?;
        let mut prepared = Vec::with_capacity(legs.len());
        let (mut batch, mut places) = (Vec::new(), Vec::new());
        let mut clear = Vec::new();
        for (place, leg) in legs.iter().enumerate() {
            let members = members.remove(&leg.portal.id).unwrap_or_default();
            prepared.push(match &leg.portal.room_id {
                Some(_) if !members.others.contains(ours) => Ok(Prepared::NotIn(Arc::clone(&machine))),
                Some(_) if leg.held && faulty!(self.settings, HeldForEver) => Ok(Prepared::Held),
                Some(_) if is_clear(&leg.content) => {
                    clear.push(place);
                    Ok(Prepared::Held)
                }
                // HOLD-1: what nobody is there to read waits.
                Some(room_id) => there.is_any(&members.readers).map(|is_any| {
                    if is_any {
                        places.push(place);
                        batch.push(ToSeal {
                            room: room_id.clone(),
                            readers: members.readers,
                            event_type: "m.room.message",
                            content: plaintext(&leg.content),
                        });
                    }
                    Prepared::Held
                }),
                None => Ok(Prepared::Held),
            });
        }
        #[cfg(feature = "faults")]
        for (place, to_seal) in places.iter().zip(&mut batch) {
            if faulty!(self.settings, ForeignRelation) {
                self.points_elsewhere(&legs[*place], &mut to_seal.content).await?;
            }
        }
        let mut sealed = if batch.is_empty() {
            Vec::new()
        } else {
            // Of whom nobody can tell, their own part does.
            let others = members.into_values().map(|members| members.readers);
            let others = others.filter(|readers| there.is_any(readers).unwrap_or(false)).flatten().collect();
            self.seal(&machine, legs, &places, &batch, others, &mut prepared).await?
        };
        for place in clear {
            sealed.push((place, keepable(&legs[place], plaintext(&legs[place].content), None, ours)?));
        }
        self.keep_sealed(&machine, sealed, &mut prepared).await?;
        let held = |(leg, outcome): (&Leg, &Result<Prepared, Failed>)| {
            (matches!(outcome, Ok(Prepared::Held)) && !leg.held).then_some(leg.seq)
        };
        let held: Vec<i64> = legs.iter().zip(&prepared).filter_map(held).collect();
        if !held.is_empty() {
            self.store.legs_are_held(&held, self.clock.now()).await?;
            tracing::info!(legs = held.len(), "held until somebody can read it");
        }
        Ok(prepared)
    }

    /// Encrypts those of these legs that stand at `places`; where that fails, it says so there. The `others` are written to next.
    async fn seal<'a>(
        &self,
        machine: &Machine,
        legs: &'a [Leg],
        places: &[usize],
        batch: &[ToSeal],
        others: Vec<OwnedUserId>,
        prepared: &mut [Result<Prepared, Failed>],
    ) -> Result<Vec<(usize, SealedLeg<'a>)>, CryptoError> {
        let bot = self.ghosts.bot().await?;
        let sealing = if faulty!(self.settings, BotEncrypts) { &*bot } else { machine };
        let outcomes = sealing.seal(batch, others).await?;
        let (mut sealed, mut sessions) = (Vec::new(), Vec::<(OwnedRoomId, String)>::new());
        let sender = &machine.intent().user_id;
        for ((place, to_seal), outcome) in places.iter().zip(batch).zip(outcomes) {
            let (content, session_id) = match outcome {
                Ok(Sealed::Ciphertext { content, session_id }) => (content, session_id),
                Ok(Sealed::NobodyCanRead) => continue,
                Err(error) => {
                    prepared[*place] = Err(error);
                    continue;
                }
            };
            sessions.push((to_seal.room.clone(), session_id.clone()));
            sealed.push((*place, keepable(&legs[*place], content, Some(session_id), sender)?));
        }
        if machine.intent().user_id != bot.intent().user_id {
            bot.learn_sessions(machine, &sessions).await?;
        }
        Ok(sealed)
    }

    /// Writes down what is to be sent, before anything of it is, and says where it stands that it is ready.
    async fn keep_sealed(
        &self,
        machine: &Machine,
        sealed: Vec<(usize, SealedLeg<'_>)>,
        prepared: &mut [Result<Prepared, Failed>],
    ) -> Result<(), CryptoError> {
        let (sealed_places, sealed): (Vec<usize>, Vec<SealedLeg<'_>>) = sealed.into_iter().unzip();
        if sealed.is_empty() {
            return Ok(());
        }
        let kept = self.store.legs_are_sealed(&sealed).await?;
        for (place, sealed) in sealed_places.into_iter().zip(sealed) {
            prepared[place] = Ok(match kept.contains(&sealed.leg.seq) {
                true => Prepared::Ready { intent: machine.intent().clone(), ciphertext: sealed.ciphertext },
                false => Prepared::Gone,
            });
        }
        Ok(())
    }

    /// Goes on with a leg whose sending was begun before, by this process or another; the event that it is, or none when
    /// it stands in the room already.
    pub(super) async fn resume(&self, leg: &Leg) -> Result<Option<OwnedEventId>, CryptoError> {
        if leg.content.is_void() {
            self.store.leg_is_void(leg.seq).await?;
            return Ok(None);
        }
        let machine = self.speaker(&Speaker::of(leg)).await?;
        self.joined(leg, &machine.intent().user_id).await?;
        if let LegContent::Redaction { event, .. } | LegContent::Deletion { event: Some(event), .. } =
            &leg.content
        {
            return self.redact(leg, machine.intent(), event).await;
        }
        let Some((ciphertext, _)) = &leg.sealed else { return Ok(None) };
        // How it ended is not known. The homeserver remembers transaction ids for a day and not for ever; the room tells for
        // certain.
        if !faulty!(self.settings, NewTransactionId) {
            let _turn = self.turns.turn(&Party::of(leg), Some(&leg.portal.id)).await;
            self.read_back(&leg.portal).await?;
        }
        if self.store.has_landed(leg.seq).await? {
            return Ok(None);
        }
        self.put(leg, machine.intent(), ciphertext.clone(), true).await
    }

    /// Has a user of ours be in a leg's room.
    pub(super) async fn joined(&self, leg: &Leg, user_id: &UserId) -> Result<(), CryptoError> {
        let _turn = self.turns.turn(&Party::of(leg), Some(&leg.portal.id)).await;
        self.ghosts.join(&leg.portal, user_id).await
    }

    /// `PUT /redact`: an event goes. What it said was deleted; or somebody could not read it, and it stands there again.
    async fn redact(
        &self,
        leg: &Leg,
        ghost: &Intent,
        event: &EventId,
    ) -> Result<Option<OwnedEventId>, CryptoError> {
        let Some(room_id) = &leg.portal.room_id else { return Ok(None) };
        let [room_id, event] = [room_id.as_str(), event.as_str()].map(encoded);
        let transaction_id = format!("parlour.{}.{}", leg.id, ghost.user_id.localpart());
        let path = format!("/_matrix/client/v3/rooms/{room_id}/redact/{event}/{transaction_id}");
        let body = json!({ LEG_FIELD: leg.id });
        let put = self.homeserver.call(CommitPoint::Redact, Some(ghost), http::Method::PUT, &path, &body);
        let answer = match self.turns.take_in(&Party::of(leg), Some(&leg.portal.id), put).await {
            // An event that is gone needs none.
            Err(error @ HomeserverError::Refused { status: 404, .. }) => {
                tracing::warn!(leg = %leg.id, %error, "what is to be redacted is not there");
                self.store.leg_is_void(leg.seq).await?;
                return Ok(None);
            }
            answer => answer?,
        };
        let event = answer["event_id"].as_str().and_then(|id| OwnedEventId::try_from(id).ok());
        Ok(Some(event.ok_or(HomeserverError::Nonsense("PUT /redact"))?))
    }

    /// `PUT /send` under an id that names leg and ghost, with the device, so that a repetition is the same event. None is what
    /// is not to be sent, because it stands there; or because it was deleted before its turn came, and nothing of it `was_begun`
    /// to be sent.
    pub(super) async fn put(
        &self,
        leg: &Leg,
        ghost: &Intent,
        ciphertext: String,
        was_begun: bool,
    ) -> Result<Option<OwnedEventId>, CryptoError> {
        let room_id = leg.portal.room_id.as_ref().ok_or(StoreError::Malformed("portals"))?;
        let body: Raw<AnyMessageLikeEventContent> = Raw::from_json_string(ciphertext.clone())?;
        let mut transaction_id = format!("parlour.{}.{}", leg.id, ghost.user_id.localpart());
        if faulty!(self.settings, NewTransactionId) {
            transaction_id.push_str(PortalId::from_bytes(self.ghosts.chance.bytes()).as_str());
        }
        let mut request = send_message_event::v3::Request::new_raw(
            room_id.clone(),
            transaction_id.into(),
            if is_clear(&leg.content) {
                MessageLikeEventType::Reaction
            } else {
                MessageLikeEventType::RoomEncrypted
            },
            body,
        );
        request.timestamp = Some(leg.sent_at.to_matrix());
        let again = faulty!(self.settings, SendTwice).then(|| request.clone());
        let put = async {
            if !was_begun && self.store.may_be_taken_back(leg) {
                return Ok(None);
            }
            self.homeserver.request(CommitPoint::SendEvent, ghost, request).await.map(Some)
        };
        match self.turns.take_in(&Party::of(leg), Some(&leg.portal.id), put).await {
            Ok(None) => {
                if self.store.is_taken_back(leg.seq).await? {
                    self.changed(&leg.portal.conversation);
                    return Ok(None);
                }
                // It was to be deleted, and was not.
                Box::pin(self.put(leg, ghost, ciphertext, true)).await
            }
            Ok(Some(answer)) => {
                self.counts.sent();
                if let Some(mut again) = again {
                    again.txn_id = format!("{}.again", again.txn_id).into();
                    self.homeserver.request(CommitPoint::SendEvent, ghost, again).await?;
                }
                Ok(Some(answer.event_id))
            }
            Err(error) if is_clear(&leg.content) && error.is("M_DUPLICATE_ANNOTATION") => {
                // The same emoji of the same person stands there already, from a reaction to what that event was before.
                self.store.leg_is_void(leg.seq).await?;
                Ok(None)
            }
            Err(error) => {
                if error.is("M_FORBIDDEN") {
                    // Not in the room after all: joined again on the next attempt.
                    self.store.not_joined(&leg.portal.id, &ghost.user_id).await?;
                }
                Err(error.into())
            }
        }
    }

    /// What follows from it when sending a leg failed: when it is to be looked at again.
    pub(super) async fn has_failed(&self, leg: &Leg, error: &CryptoError) -> Duration {
        if error.may_pass() || (leg.attempts < ATTEMPTS && !is_refused_for_good(leg, error)) {
            return self.put_off(leg, error).await;
        }
        match self.give_up(leg, error).await {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::error!(leg = %leg.id, %error, "the outbox could not be written");
                AFTER_AN_ERROR
            }
        }
    }

    /// The homeserver will not take it, however often it is tried: its sender is told, and the next legs go on.
    async fn give_up(&self, leg: &Leg, error: &CryptoError) -> Result<(), CryptoError> {
        let refusal = match &leg.content {
            LegContent::Deletion { .. } => Refusal::NotDeleted,
            _ => Refusal::Undeliverable,
        };
        tracing::error!(leg = %leg.id, %error, code = refusal.code(), "a leg is given up");
        let now = self.clock.now();
        let notice = match &leg.content {
            // Whoever has deleted another's words is among staff.
            LegContent::Deletion { by: Some(_), source: (_, source), .. } => {
                let portals = self.store.portals(&leg.portal.conversation).await?;
                let words = format!("{} ({})", refusal.sentence(), refusal.code());
                portals.first().map(|hub| self.leg_ids.word(source, &hub.id, words, now))
            }
            LegContent::Message { source: (home, source), .. }
            | LegContent::Deletion { source: (home, source), .. } => {
                let words = format!("{} ({})", refusal.sentence(), refusal.code());
                Some(self.leg_ids.notice(source, home, refusal.code(), words, now))
            }
            LegContent::Notice { .. } | LegContent::Redaction { .. } => None,
        };
        let conversation = &leg.portal.conversation;
        self.store.leg_has_failed(leg, conversation, refusal.code(), notice.as_ref(), now).await?;
        self.counts.given_up();
        self.changed(conversation);
        if let Some(notice) = notice {
            self.wake_senders(&[notice.portal]);
        }
        Ok(())
    }

    async fn put_off(&self, leg: &Leg, error: &CryptoError) -> Duration {
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
        pause
    }
}

impl Party {
    /// Whose turn a leg takes.
    fn of(leg: &Leg) -> Self {
        match &leg.message {
            Some(message) => Self::Message(message.clone()),
            None => Self::Portal(leg.portal.id.clone()),
        }
    }
}

/// Whether the homeserver will not take a leg because of what it is about: it does not know that event any more, or not in
/// this room. What stands behind it must not wait for that.
fn is_refused_for_good(leg: &Leg, error: &CryptoError) -> bool {
    let is_about = matches!(&leg.content, LegContent::Message { said, .. } if said.is_about_another());
    is_about && matches!(error, CryptoError::Homeserver(HomeserverError::Refused { status: 400, .. }))
}

/// A leg as it is written down before it is sent.
fn keepable<'a>(
    leg: &'a Leg,
    mut content: Value,
    session_id: Option<String>,
    sender: &UserId,
) -> Result<SealedLeg<'a>, CryptoError> {
    content[LEG_FIELD] = json!(leg.id);
    let ciphertext = serde_json::to_string(&content)?;
    Ok(SealedLeg { leg, ciphertext, session_id, sender: sender.to_owned() })
}
