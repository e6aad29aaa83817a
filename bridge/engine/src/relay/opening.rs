//! What an event says, if it can be read and is believed (TRUST-1, TRUST-2, ENC-1, KEY-1 to KEY-3).

use std::time::Duration;

use parlour_domain::{Refusal, rules};
use serde_json::value::RawValue;

use crate::{
    crypto::{CryptoError, Deciphered, Unreadable},
    engine::Core,
    intake::Event,
    store::InboxRow,
};

/// What reading an event came to.
pub(super) enum Reading {
    Read(Deciphered),
    /// It is never encrypted.
    Clear,
    Refused(Refusal),
    /// Not readable, or not believed, yet: it is worth waiting this long from when it came.
    Wait(Duration, Refusal),
}

impl Core {
    /// Opens an event, and asks the rules whether it is believed.
    pub(super) async fn read(&self, row: &InboxRow, event: &Event) -> Result<Reading, CryptoError> {
        match event.event_type.as_str() {
            "m.room.encrypted" => {}
            // These are never encrypted.
            "m.reaction" => return Ok(Reading::Clear),
            "m.room.redaction" => return Ok(Reading::Refused(Refusal::Kind)),
            // ENC-1: what was sent in the clear is not passed on.
            _ => return Ok(Reading::Refused(Refusal::NotEncrypted)),
        }
        let Some(room_id) = self.store.portal(&row.portal).await?.room_id else {
            return Ok(Reading::Refused(Refusal::NotTakingPart));
        };
        let raw: &RawValue = serde_json::from_str(&row.event)?;
        let bot = self.ghosts.bot().await?;
        Ok(match bot.decipher(&room_id, &event.sender, raw).await? {
            Ok(read) => match rules::may_trust(read.trust, self.settings.allow_unsigned_clients) {
                // KEY-3: each place of a session is one event's.
                Ok(()) => match self.store.event_at(&read.index).await? {
                    Some(other) if other != event.event_id => Reading::Refused(Refusal::Replayed),
                    _ => Reading::Read(read),
                },
                // What says nothing to anybody goes nowhere, whoever has sent it.
                Err(Refusal::UnsignedDevice) if !is_message(&read) => Reading::Read(read),
                // The signature may be on its way.
                Err(Refusal::UnsignedDevice) => {
                    Reading::Wait(self.settings.patience_for_signatures, Refusal::UnsignedDevice)
                }
                Err(refusal) => Reading::Refused(refusal),
            },
            // KEY-1, KEY-2: what cannot be read is not passed on, and its sender hears why.
            Err(Unreadable::KeyMissing) => {
                Reading::Wait(self.settings.patience_for_keys, Refusal::KeyMissing)
            }
            Err(Unreadable::KeyWithheld) => Reading::Refused(Refusal::KeyWithheld),
            Err(Unreadable::Garbled) => Reading::Refused(Refusal::KeyMissing),
        })
    }
}

/// Whether what was read says something to people.
pub(super) fn is_message(read: &Deciphered) -> bool {
    rules::is_message(&read.event_type, read.content["msgtype"].as_str())
}
