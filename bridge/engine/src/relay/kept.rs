//! What is kept until something else happens: files about which nothing was said yet (S11), which go out together with words of
//! their sender's; and what came from a device that its sender has not signed yet (TRUST-1).

use std::time::Duration;

use parlour_domain::{
    ConversationId, Person, PortalKind, Refusal, Said, Timestamp,
    rules::{Lane, Relation},
};
use serde_json::Value;

use super::Reading;
use crate::{
    crypto::CryptoError,
    engine::Core,
    intake::Event,
    keyed::Again,
    notices,
    store::{Closed, InboxRow, KeptUntil, NewLeg, Outcome, People, Portal, RelayedMessage},
};

/// How long it takes at most until a file is looked at again whose words may be among what waits.
const WORDS_MAY_COME: Duration = Duration::from_secs(5);

impl Core {
    /// A file came without a word: its sender is asked for some, once for all that wait for them.
    pub(super) async fn wordless(
        &self,
        row: &InboxRow,
        event: &Event,
        for_one: bool,
    ) -> Result<Outcome, CryptoError> {
        let of = Some((&row.portal, &*event.sender));
        let others = self.store.kept(&row.conversation, KeptUntil::Words, of, 0).await?;
        let words = if for_one { notices::WORDS_FOR_ONE } else { notices::WORDS }.to_owned();
        let notice = self.leg_ids.notice(&event.event_id, &row.portal, "words", words, self.clock.now());
        // Whoever answers what the bot says of a file for one patient says for whom that is.
        let notices = if others.is_empty() || for_one { vec![notice] } else { Vec::new() };
        let closed = self.out_of_hours_all_the_same(row, event).await?;
        Ok(kept(event, KeptUntil::Words, notices, closed))
    }

    /// It came from a device that its sender has not signed: they are told, and staff, if they have not been.
    pub(super) async fn unsigned(&self, row: &InboxRow, event: &Event) -> Result<Outcome, CryptoError> {
        let (code, words) = super::told(Refusal::UnsignedDevice);
        tracing::info!(conversation = %row.conversation, event_id = %event.event_id, code, "kept");
        let now = self.clock.now();
        let mut notices = vec![self.leg_ids.notice(&event.event_id, &row.portal, code, words, now)];
        let of = Some((&row.portal, &*event.sender));
        let others = self.store.kept(&row.conversation, KeptUntil::Signature, of, 0).await?;
        let people = self.store.people_in(&row.conversation).await?;
        let patient = people.patients().find(|patient| patient.person.user_id == event.sender);
        if let Some(patient) = patient.filter(|_| others.is_empty()) {
            let portals = self.store.portals(&row.conversation).await?;
            let hub = portals.iter().find(|portal| portal.kind() == PortalKind::Hub);
            let words = notices::unsigned(patient.person.name.as_str());
            notices.extend(hub.map(|hub| self.leg_ids.word(&event.event_id, &hub.id, words, now)));
        }
        let closed = self.out_of_hours_all_the_same(row, event).await?;
        Ok(kept(event, KeptUntil::Signature, notices, closed))
    }

    /// What was kept and comes from devices that are signed by now waits to be handled, in its place. It is looked at once for
    /// all news of devices together.
    pub(super) async fn look_at_the_unsigned(
        &self,
        conversation: &ConversationId,
    ) -> Result<(), CryptoError> {
        let Some(news) = self.news_of_devices(conversation) else { return Ok(()) };
        let mut after = 0;
        loop {
            let kept = self.store.kept(conversation, KeptUntil::Signature, None, after).await?;
            let Some(last) = kept.last() else { break };
            after = last.seq;
            for row in &kept {
                let still = match serde_json::from_str::<Event>(&row.event) {
                    Ok(event) => matches!(self.read(row, &event).await?, Reading::Wait(..)),
                    Err(_) => false,
                };
                if !still {
                    self.store.is_signed_now(row, self.clock.now()).await?;
                }
            }
        }
        self.news_are_known(conversation, news);
        Ok(())
    }

    /// The content of what is kept; none when it cannot be read any more.
    pub(super) async fn content_of_kept(&self, row: &InboxRow) -> Result<Option<Value>, CryptoError> {
        let Ok(event) = serde_json::from_str::<Event>(&row.event) else { return Ok(None) };
        Ok(match self.read(row, &event).await? {
            Reading::Read(read) => Some(read.content),
            _ => None,
        })
    }

    /// Whether a file of somebody's that came before this row waits for words, and is not for everybody (LANE-5).
    pub(super) async fn file_waits_for_one(
        &self,
        row: &InboxRow,
        home: &Portal,
        sender: &Person,
        people: &People,
    ) -> Result<bool, CryptoError> {
        let of = Some((&home.id, &*sender.user_id));
        for file in self.store.kept(&row.conversation, KeptUntil::Words, of, 0).await? {
            if file.seq > row.seq {
                break;
            }
            let Some(content) = self.content_of_kept(&file).await? else { return Ok(true) };
            let place = self.place(home, sender, Relation::of(&content)).await?;
            if self.lane(home, people, &place, false) != Ok(Lane::Everybody) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was decided, once the bytes of its file were looked at, if it brings one along. Where it goes nowhere, it has reached
    /// everybody.
    pub(super) async fn looked_at(
        &self,
        row: &InboxRow,
        event: &Event,
        decided: Outcome,
    ) -> Result<Outcome, CryptoError> {
        let Outcome::Relayed(mut message) = decided else { return Ok(decided) };
        if let Said::Attachment(attachment) = &message.said
            && !message.legs.is_empty()
        {
            match self.checked(attachment).await? {
                Ok(checked) => message.said = Said::Attachment(Box::new(checked)),
                Err(refusal) => return self.refused(row, event, refusal).await,
            }
        }
        Ok(Outcome::Relayed(message))
    }

    /// Somebody says something: the files that they have sent just before, for the same people, go out ahead of it. One that
    /// may not pass is refused by itself.
    pub(super) async fn words_came(
        &self,
        row: &InboxRow,
        event: &Event,
        message: &RelayedMessage,
    ) -> Result<(), CryptoError> {
        if !matches!(&message.said, Said::Message(words) if words.say_something()) {
            return Ok(());
        }
        let within = i64::try_from(self.settings.patience_for_words.as_millis()).unwrap_or(i64::MAX);
        let said_at = Timestamp::from(event.origin_server_ts);
        let of = Some((&row.portal, &*event.sender));
        for wordless in self.store.kept(&row.conversation, KeptUntil::Words, of, 0).await? {
            let Ok(file) = serde_json::from_str::<Event>(&wordless.event) else { continue };
            // Whoever was asked for words only now, because they had to sign their device first, says them from now on.
            let since = match said_at >= wordless.received_at {
                true => wordless.received_at,
                false => Timestamp::from(file.origin_server_ts),
            };
            let waited = said_at.millis() - since.millis();
            if wordless.seq > row.seq || waited > within {
                continue;
            }
            let Reading::Read(read) = self.read(&wordless, &file).await? else { continue };
            let decided = match self.decide(&wordless, &file, &read.event_type, &read.content, true).await {
                Ok(Outcome::Relayed(attachment)) if attachment.addressed != message.addressed => continue,
                Ok(decided) => self.looked_at(&wordless, &file, decided).await,
                Err(error) => Err(error),
            };
            let decided = match decided {
                Ok(decided) => decided,
                Err(CryptoError::FileAway(error)) => {
                    if self.patience_left(row, self.settings.patience_for_words).is_some() {
                        return Err(CryptoError::FileAway(error));
                    }
                    self.refused(&wordless, &file, Refusal::FileUnchecked).await?
                }
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    // What is wrong with the file is not the words' fault.
                    tracing::error!(conversation = %row.conversation, seq = wordless.seq, %error, "a file is given up");
                    self.refused(&wordless, &file, Refusal::OurFault).await?
                }
            };
            let index = Some((&read.index, &*file.event_id));
            self.finish_ahead_of(Some(row), &wordless, &decided, index).await?;
        }
        Ok(())
    }

    /// Refuses the files that have waited for too long, unless something still waits to be handled where they are; when the next
    /// one will have (ATT-1).
    pub(super) async fn look_at_the_wordless(&self, conversation: &ConversationId, again: Again) -> Again {
        let looked = async {
            let mut again = again;
            for row in self.store.kept(conversation, KeptUntil::Words, None, 0).await? {
                let left = match self.patience_left(&row, self.settings.patience_for_words) {
                    None if self.store.waits_in(&row.portal).await? => Some(WORDS_MAY_COME),
                    left => left,
                };
                match left {
                    Some(left) => again = again.or_after(left),
                    None => {
                        let outcome = match serde_json::from_str::<Event>(&row.event) {
                            Ok(event) => self.refused(&row, &event, Refusal::NoWords).await?,
                            Err(_) => Outcome::Nothing,
                        };
                        self.finish(&row, &outcome, None).await?;
                    }
                }
            }
            Ok::<_, CryptoError>(again)
        };
        match looked.await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(%conversation, %error, "files that wait for words are looked at again");
                Again::After(super::AFTER_AN_ERROR)
            }
        }
    }

    /// Whoever sent something that is kept takes it back: it goes nowhere.
    pub(super) async fn kept_is_taken_back(&self, row: &InboxRow, event: &Event) -> Result<(), CryptoError> {
        let Some(redacted) = event.redacts() else { return Ok(()) };
        for until in [KeptUntil::Words, KeptUntil::Signature] {
            let of = Some((&row.portal, &*event.sender));
            for kept in self.store.kept(&row.conversation, until, of, 0).await? {
                if serde_json::from_str::<Event>(&kept.event).is_ok_and(|kept| kept.event_id == redacted) {
                    let outcome = Outcome::Unread { event_id: redacted.clone(), voids: Vec::new() };
                    self.finish(&kept, &outcome, None).await?;
                }
            }
        }
        Ok(())
    }
}

fn kept(event: &Event, until: KeptUntil, notices: Vec<NewLeg>, closed: Closed) -> Outcome {
    let (event_id, sender) = (event.event_id.clone(), event.sender.clone());
    Outcome::Kept { until, event_id, sender, notices, closed }
}
