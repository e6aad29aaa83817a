//! The relay: reads what people wrote, gathers the facts, asks the rules, and writes down what follows.

mod deleting;
mod hours;
mod kept;
mod opening;
mod place;
mod room;
mod tries;

use std::{collections::HashSet, time::Duration};

use parlour_domain::{
    ConversationId, LegId, MessageId, PortalKind, Refusal, Said, Timestamp,
    rules::{self, Lane, PostFacts, Relation, TargetFacts},
};
use ruma::{EventId, OwnedUserId};
use serde_json::Value;

use crate::{
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    intake::Event,
    keyed::Again,
    notices,
    store::{InboxRow, KeptUntil, MegolmIndex, Outcome, Portal, RelayedMessage},
};

use opening::{Reading, is_message};
pub(crate) use tries::Tries;

/// What became of a row, for the worker.
enum Handled {
    Done,
    Parked(Duration),
}

const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
/// When a file is looked at again that was not to be had.
const FILE_AWAY: Duration = Duration::from_secs(5);
/// To so few portals a message goes ahead of what goes to many.
const FEW: usize = 8;
/// How often handling an event may fail, or panic, for a reason that does not pass.
const MOST_TRIES: u32 = 10;

impl Core {
    /// Handles what waits in a conversation, in order. An event whose key has not come makes the later ones of
    /// its sender wait, and nobody else's.
    pub(crate) async fn relay(&self, conversation: &ConversationId) -> Again {
        if !self.may_work() {
            // When that ends, everybody is woken.
            return Again::WhenWoken;
        }
        let mut waiting = HashSet::new();
        let mut after = 0;
        let mut again = Again::WhenWoken;
        if let Err(error) = self.look_at_the_unsigned(conversation).await {
            tracing::warn!(%conversation, %error, "what is kept is looked at again");
            again = Again::After(AFTER_AN_ERROR);
        }
        loop {
            let rows = match self.store.waiting(conversation, after).await {
                Ok(rows) if rows.is_empty() => return self.look_at_the_wordless(conversation, again).await,
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!(%conversation, %error, "the inbox could not be read");
                    return Again::After(AFTER_AN_ERROR);
                }
            };
            for (place, row) in rows.iter().enumerate() {
                after = row.seq;
                let tries = self.tries.begin(row.seq);
                let handled = if tries > MOST_TRIES {
                    self.give_up_on(row).await
                } else {
                    self.handle(row, &rows[place + 1..], &mut waiting).await
                };
                // A look that panics never comes here: its try stays counted.
                self.tries.end(row.seq, handled.as_ref().map_or_else(CryptoError::may_pass, |_| true));
                match handled {
                    Ok(Handled::Done) => {}
                    Ok(Handled::Parked(limit)) => again = again.or_after(limit),
                    Err(error) => {
                        tracing::warn!(%conversation, seq = row.seq, %error, "an event is tried again");
                        return Again::After(AFTER_AN_ERROR);
                    }
                }
            }
        }
    }

    /// Handling an event fails for a reason of our own, again and again: its sender is told, and what is behind it
    /// goes on.
    async fn give_up_on(&self, row: &InboxRow) -> Result<Handled, CryptoError> {
        let refusal = Refusal::OurFault;
        let Ok(event) = serde_json::from_str::<Event>(&row.event) else {
            tracing::error!(conversation = %row.conversation, seq = row.seq, "a damaged event is given up");
            return self.finish(row, &Outcome::Nothing, None).await;
        };
        tracing::error!(conversation = %row.conversation, seq = row.seq, code = refusal.code(), "an event is given up");
        let outcome = self.refused(row, &event, refusal).await?;
        self.finish(row, &outcome, None).await
    }

    /// Handles a row. A file that is not to be had just now makes its sender wait, and nobody else.
    async fn handle(
        &self,
        row: &InboxRow,
        behind: &[InboxRow],
        waiting: &mut HashSet<OwnedUserId>,
    ) -> Result<Handled, CryptoError> {
        match self.handled(row, behind, waiting).await {
            Err(CryptoError::FileAway(error)) => {
                let event: Event = serde_json::from_str(&row.event)?;
                if self.patience_left(row, self.settings.patience_for_words).is_none() {
                    let outcome = self.refused(row, &event, Refusal::FileUnchecked).await?;
                    return self.finish(row, &outcome, None).await;
                }
                tracing::warn!(conversation = %row.conversation, seq = row.seq, %error, "a file is looked at again");
                waiting.insert(event.sender);
                Ok(Handled::Parked(FILE_AWAY))
            }
            handled => handled,
        }
    }

    async fn handled(
        &self,
        row: &InboxRow,
        behind: &[InboxRow],
        waiting: &mut HashSet<OwnedUserId>,
    ) -> Result<Handled, CryptoError> {
        let event: Event = serde_json::from_str(&row.event)?;
        if event.closes_the_room() {
            // Only the bot may, so somebody did it with the bot's rights. Messages travel in it as before.
            tracing::error!(
                conversation = %row.conversation, portal = %row.portal, event_id = %event.event_id,
                "a room was replaced by another: people's clients show it as ended; begin the conversation anew"
            );
            return self.finish(row, &Outcome::Nothing, None).await;
        }
        if let Some(is_in) = event.is_in_the_room() {
            let outcome = if is_in { self.came(row, &event).await? } else { self.left(row, &event).await? };
            return self.finish(row, &outcome, None).await;
        }
        if let Some(mode) = event.sets_mode() {
            let outcome = self.switched(row, &event, mode).await?;
            return self.finish(row, &outcome, None).await;
        }
        if let Some(revision) = event.tells_revision() {
            let outcome = self.revised(row, &event, revision).await?;
            return self.finish(row, &outcome, None).await;
        }
        if waiting.contains(&event.sender) {
            return Ok(Handled::Done);
        }
        if event.is_redacted() {
            let outcome = self.unread(row, &event).await?;
            return self.finish(row, &outcome, None).await;
        }
        if let Some(outcome) = self.deleted(row, &event).await? {
            return self.finish(row, &outcome, None).await;
        }
        let taken_back = deleting::is_taken_back(&event, behind);
        let outcome = match self.read(row, &event).await? {
            Reading::Read(read) => {
                let mut outcome = if is_message(&read) {
                    self.decide(row, &event, &read.event_type, &read.content, false).await?
                } else {
                    Outcome::Nothing
                };
                if let Outcome::Relayed(message) = &outcome
                    && !taken_back
                {
                    self.words_came(row, &event, message).await?;
                }
                outcome = match taken_back {
                    true => self.taken_back(row, &event, outcome).await?,
                    false => self.looked_at(row, &event, outcome).await?,
                };
                return self.finish(row, &outcome, Some((&read.index, &event.event_id))).await;
            }
            Reading::Refused(_) if taken_back => self.unread(row, &event).await?,
            Reading::Clear if faulty!(self.settings, ReactionsLost) => Outcome::Nothing,
            Reading::Clear => self.decide(row, &event, &event.event_type, &event.content, false).await?,
            Reading::Refused(refusal) => self.refused(row, &event, refusal).await?,
            Reading::Wait(limit, refusal) => {
                if let Some(left) = self.patience_left(row, limit) {
                    let code = refusal.code();
                    tracing::debug!(conversation = %row.conversation, seq = row.seq, code, "an event waits");
                    waiting.insert(event.sender);
                    return Ok(Handled::Parked(left));
                }
                if taken_back {
                    let outcome = self.unread(row, &event).await?;
                    return self.finish(row, &outcome, None).await;
                }
                // KEY-4: what was delivered before a backup was restored is not called undelivered.
                let stands = self.stands_already(row, &event).await?;
                if refusal == Refusal::UnsignedDevice && !stands {
                    let outcome = self.unsigned(row, &event).await?;
                    return self.finish(row, &outcome, None).await;
                }
                let refusal = if stands { Refusal::Unrecorded } else { refusal };
                self.refused(row, &event, refusal).await?
            }
        };
        self.finish(row, &outcome, None).await
    }

    async fn finish(
        &self,
        row: &InboxRow,
        outcome: &Outcome,
        index: Option<(&MegolmIndex, &EventId)>,
    ) -> Result<Handled, CryptoError> {
        self.finish_ahead_of(None, row, outcome, index).await
    }

    /// The same ahead of another, which must still wait to be handled.
    async fn finish_ahead_of(
        &self,
        handled: Option<&InboxRow>,
        row: &InboxRow,
        outcome: &Outcome,
        index: Option<(&MegolmIndex, &EventId)>,
    ) -> Result<Handled, CryptoError> {
        self.store.finish_ahead_of(handled, row, outcome, index, self.clock.now()).await?;
        if let Outcome::Refused { code, .. } = outcome {
            self.counts.refused(code);
        }
        let portals = match outcome {
            Outcome::Unread { voids, .. } => voids.iter().map(|leg| leg.portal.clone()).collect(),
            Outcome::Nothing
            | Outcome::Left { departure: None, .. }
            | Outcome::Switched { notice: None, .. } => Vec::new(),
            Outcome::Revised { notices, .. } => notices.iter().map(|leg| leg.portal.clone()).collect(),
            Outcome::Kept { notices, closed, .. } => {
                let answer = closed.iter().map(|closed| &closed.answer);
                notices.iter().chain(answer).map(|leg| leg.portal.clone()).collect()
            }
            // What else there is to say there stands beside it.
            Outcome::Refused { notice, .. } | Outcome::Switched { notice: Some(notice), .. } => {
                vec![notice.portal.clone()]
            }
            Outcome::Left { departure: Some(departure), .. } => {
                self.wake_maker(&row.conversation);
                vec![departure.change.hub.clone()]
            }
            // Which of them have something to delete is known to the database.
            Outcome::Deleted(_) => {
                self.store.portals(&row.conversation).await?.into_iter().map(|portal| portal.id).collect()
            }
            Outcome::Relayed(message) => {
                let answer = message.closed.iter().map(|closed| &closed.answer).chain(&message.tells_lanes);
                message.legs.iter().chain(answer).map(|leg| leg.portal.clone()).collect()
            }
        };
        self.wake_senders(&portals);
        if portals.len() <= FEW {
            portals.iter().for_each(|portal| self.turns.hurry(portal));
        }
        if let Outcome::Switched { .. } = outcome {
            // It may have been switched by somebody else than us.
            self.wake_maker(&row.conversation);
        }
        self.changed(&row.conversation);
        Ok(match outcome {
            Outcome::Kept { until: KeptUntil::Words, .. } => {
                Handled::Parked(self.settings.patience_for_words)
            }
            _ => Handled::Done,
        })
    }

    /// How much longer a key or a signature may take. Only time in which the bot received counts: while it did not,
    /// nothing could come.
    fn patience_left(&self, row: &InboxRow, limit: Duration) -> Option<Duration> {
        let Some(receiving_since) = self.receiving_since() else { return Some(limit) };
        let limit_millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let waited = self.clock.now().millis() - row.received_at.max(receiving_since).millis();
        // A clock that was set back must not make anybody wait for hours.
        if waited >= limit_millis || waited < -limit_millis {
            return None;
        }
        Some(Duration::from_millis((limit_millis - waited.max(0)).unsigned_abs()))
    }

    /// Whether legs of this event stand in rooms, though it was not decided about: a backup was restored.
    async fn stands_already(&self, row: &InboxRow, event: &Event) -> Result<bool, CryptoError> {
        for portal in self.store.portals(&row.conversation).await? {
            let at = Timestamp::from(event.origin_server_ts);
            let leg = self.leg_ids.message(&event.event_id, &portal.id, at);
            if self.store.early_echo(&leg.id).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gathers the facts of what was read, and asks the rules. `has_words`: something was said of it elsewhere.
    async fn decide(
        &self,
        row: &InboxRow,
        event: &Event,
        event_type: &str,
        content: &Value,
        has_words: bool,
    ) -> Result<Outcome, CryptoError> {
        let people = self.store.people_in(&row.conversation).await?;
        let portals = self.store.portals(&row.conversation).await?;
        let conversation = self.store.conversation(&row.conversation).await?;
        let home = portals.iter().find(|portal| portal.id == row.portal);
        let sender = people.everybody().find(|person| person.user_id == event.sender);
        let (Some(conversation), Some(home), Some(sender)) = (conversation, home, sender) else {
            return self.refused(row, event, Refusal::NotTakingPart).await;
        };
        let at = Timestamp::from(event.origin_server_ts);
        let former = people.former.iter().find(|former| former.person.id == sender.id);
        let mut facts = PostFacts {
            sender,
            written_at: at,
            room_of: home.patient.as_ref(),
            gone_at: former.and_then(|former| former.gone_at),
            mode: home.mode.unwrap_or(conversation.mode),
            mode_since: home.mode_since,
            may_send_one_way: people
                .participants
                .iter()
                .any(|p| p.person.id == sender.id && p.may_send_one_way),
        };
        if rules::may_post(&facts) == Err(Refusal::OneWay) {
            // The homeserver refuses most of what POST-2 would: what it took, it took by other levels.
            if let Some((mode, may_write)) = self.mode_at(home, event).await? {
                (facts.mode, facts.may_send_one_way) = (mode, may_write);
            }
        }
        let relation = Relation::of(content);
        let place = self.place(home, sender, relation).await?;
        let said =
            rules::may_post(&facts).and_then(|()| rules::may_relay(event_type, content, relation)).and_then(
                |said| place.may_hold(&said, sender, faulty!(self.settings, EditsByAll)).map(|()| said),
            );
        let said = match said {
            Ok(said) => self.in_its_place(said, &place).await?,
            Err(refusal) => Err(refusal),
        };
        let said = match said {
            Ok(said) => said,
            Err(refusal) => return self.refused(row, event, refusal).await,
        };
        if said.is_edit() && faulty!(self.settings, EditsLost) {
            return Ok(Outcome::Nothing);
        }
        let is_word = matches!(said, Said::Message(_)) && home.kind() == PortalKind::Hub;
        let file_waits = is_word
            && matches!(relation, Relation::None)
            && self.file_waits_for_one(row, home, sender, &people).await?;
        let lane = match self.lane(home, &people, &place, file_waits) {
            Ok(lane) => lane,
            Err(refusal) => return self.refused(row, event, refusal).await,
        };
        if let Err(refusal) = self.may_name(home, &people, &lane, (&said, content)).await? {
            return self.refused(row, event, refusal).await;
        }
        #[cfg(feature = "faults")]
        let said = self.with_leaks(said, content);
        let is_target = |target: &&Portal| {
            let (from, to) = (home.patient.as_ref(), target.patient.as_ref());
            let facts = TargetFacts { from, written_at: at, to, since: to.and_then(|to| people.since(to)) };
            rules::goes_into(&facts, &lane)
        };
        let targets: Vec<_> = portals.iter().filter(is_target).collect();
        let addressed = match &lane {
            Lane::Only(patient) if home.kind() == PortalKind::Hub => Some(patient.clone()),
            Lane::Only(_) | Lane::Everybody => None,
        };
        if let Said::Attachment(attachment) = &said
            && !targets.is_empty()
            && attachment.caption.is_none()
            && !has_words
            && !faulty!(self.settings, FilesWordless)
        {
            return self.wordless(row, event, addressed.is_some()).await;
        }
        let mut legs: Vec<_> =
            targets.iter().map(|target| self.leg_ids.message(&event.event_id, &target.id, at)).collect();
        // Handled again, an event must become another message in every respect.
        let (mut id, mut event_id) =
            (self.leg_ids.message_id(&event.event_id, &home.id), event.event_id.clone());
        if faulty!(self.settings, NoDedup) {
            id = MessageId::from_bytes(self.ghosts.chance.bytes());
            legs.iter_mut().for_each(|leg| leg.id = LegId::from_bytes(self.ghosts.chance.bytes()));
            event_id = EventId::parse(format!("{event_id}.{id}")).unwrap_or(event_id);
        }
        let tells_lanes =
            (addressed.is_some() && !conversation.lanes_told && said.kind() == "message").then(|| {
                let words = notices::LANES.to_owned();
                self.leg_ids.notice(&event.event_id, &home.id, "lanes", words, self.clock.now())
            });
        Ok(Outcome::Relayed(Box::new(RelayedMessage {
            id,
            conversation: conversation.id,
            portal: home.id.clone(),
            event_id,
            sender: sender.id.clone(),
            sent_at: at,
            about: place
                .answers
                .flatten()
                .or(place.thread.flatten())
                .map(|about| about.id)
                .filter(|_| !(matches!(said, Said::Message(_)) && faulty!(self.settings, AnswersLost))),
            said,
            // What went to one patient only stays theirs, whoever is included later.
            lane: match (&*targets, lane) {
                (_, Lane::Only(patient)) => Some(patient),
                ([only], Lane::Everybody) if home.kind() == PortalKind::Hub => only.patient.clone(),
                (_, Lane::Everybody) => home.patient.clone(),
            },
            closed: self.out_of_hours(event, home, &relation, true),
            legs,
            tells_lanes,
            addressed,
        })))
    }

    async fn refused(&self, row: &InboxRow, event: &Event, refusal: Refusal) -> Result<Outcome, CryptoError> {
        if faulty!(self.settings, SilentRefusals) && refusal == Refusal::Kind {
            return Ok(Outcome::Nothing);
        }
        // Among staff alone nothing is passed on: what is in the room has reached everybody.
        let of_passing_on = [
            Refusal::Kind,
            Refusal::NotYoursToEdit,
            Refusal::FileChanged,
            Refusal::ReactionToNothing,
            Refusal::NoEmoji,
        ];
        if of_passing_on.contains(&refusal) && self.store.portals(&row.conversation).await?.len() == 1 {
            return Ok(Outcome::Nothing);
        }
        let (code, words) = told(refusal);
        tracing::info!(conversation = %row.conversation, event_id = %event.event_id, code, "refused");
        let notice = self.leg_ids.notice(&event.event_id, &row.portal, code, words, self.clock.now());
        // EDIT-2: what is deleted has all its edits deleted, also one that came too late.
        let void = match refusal {
            Refusal::EditDeleted => {
                let bot = self.ghosts.bot().await?.intent().user_id.clone();
                Some(Box::new(self.leg_ids.void(&event.event_id, &row.portal, bot, self.clock.now())))
            }
            _ => None,
        };
        let closed = self.out_of_hours_all_the_same(row, event).await?;
        let (event_id, notice) = (event.event_id.clone(), Box::new(notice));
        Ok(Outcome::Refused { event_id, code, notice, void, closed })
    }
}

/// What the bot says of a refusal, and its code.
fn told(refusal: Refusal) -> (&'static str, String) {
    (refusal.code(), format!("{} ({})", refusal.sentence(), refusal.code()))
}
