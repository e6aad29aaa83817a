//! Files about which nothing was said yet (S11): they wait for words of their sender's, and go out together with them.

use parlour_domain::{ConversationId, Refusal, Said, Timestamp};

use super::Reading;
use crate::{
    crypto::CryptoError,
    engine::Core,
    intake::Event,
    keyed::Again,
    notices,
    store::{InboxRow, Outcome, RelayedMessage},
};

impl Core {
    /// A file came without a word: its sender is asked for some, once.
    pub(super) fn wordless(&self, row: &InboxRow, event: &Event) -> Outcome {
        let words = notices::WORDS.to_owned();
        let notice = self.leg_ids.notice(&event.event_id, &row.portal, "words", words, self.clock.now());
        let (event_id, sender) = (event.event_id.clone(), event.sender.clone());
        Outcome::Wordless { event_id, sender, notice: Box::new(notice) }
    }

    /// Somebody says something: the files that they have sent just before, for the same people, go out ahead of it. One that
    /// may not pass is refused by itself.
    pub(super) async fn words_came(
        &self,
        row: &InboxRow,
        event: &Event,
        message: &RelayedMessage,
    ) -> Result<(), CryptoError> {
        if !matches!(message.said, Said::Message(_)) {
            return Ok(());
        }
        let within = i64::try_from(self.settings.patience_for_words.as_millis()).unwrap_or(i64::MAX);
        let said_at = Timestamp::from(event.origin_server_ts);
        for wordless in self.store.wordless(&row.conversation, Some((&row.portal, &event.sender))).await? {
            let Ok(file) = serde_json::from_str::<Event>(&wordless.event) else { continue };
            let waited = said_at.millis() - Timestamp::from(file.origin_server_ts).millis();
            if wordless.seq > row.seq || waited > within {
                continue;
            }
            let Reading::Read(read) = self.read(&wordless, &file).await? else { continue };
            let decided = self.decide(&wordless, &file, &read.event_type, &read.content, true).await?;
            if let Outcome::Relayed(attachment) = &decided
                && !is_for_the_same(attachment, message)
            {
                continue;
            }
            self.finish(&wordless, &decided, Some((&read.index, &file.event_id))).await?;
        }
        Ok(())
    }

    /// Refuses the files that have waited for too long; when the next one will have (ATT-1).
    pub(super) async fn look_at_the_wordless(
        &self,
        conversation: &ConversationId,
    ) -> Result<Again, CryptoError> {
        let mut again = Again::WhenWoken;
        for row in self.store.wordless(conversation, None).await? {
            match self.patience_left(&row, self.settings.patience_for_words) {
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
        Ok(again)
    }

    /// Whoever sent a file that waits for words takes it back: it goes nowhere. Whether there was one.
    pub(super) async fn wordless_is_taken_back(
        &self,
        row: &InboxRow,
        event: &Event,
    ) -> Result<bool, CryptoError> {
        let Some(redacted) = event.redacts() else { return Ok(false) };
        for wordless in self.store.wordless(&row.conversation, Some((&row.portal, &event.sender))).await? {
            let file = serde_json::from_str::<Event>(&wordless.event);
            if file.is_ok_and(|file| file.event_id == redacted) {
                let outcome = Outcome::Unread { event_id: redacted, voids: Vec::new() };
                self.finish(&wordless, &outcome, None).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether two messages reach the same people.
fn is_for_the_same(one: &RelayedMessage, other: &RelayedMessage) -> bool {
    let portals = |message: &RelayedMessage| {
        let mut portals: Vec<_> = message.legs.iter().map(|leg| leg.portal.clone()).collect();
        portals.retain(|portal| *portal != message.portal);
        portals.sort();
        portals
    };
    portals(one) == portals(other)
}
