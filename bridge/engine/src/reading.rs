//! Reading (S12): what people's receipts cover is counted, and shown where it may be: a patient's in the hub, that of staff
//! under a patient's own words. Private receipts reach no bot.

use std::collections::BTreeMap;

use parlour_domain::Timestamp;
use ruma::{OwnedRoomId, events::AnySyncEphemeralRoomEvent, serde::Raw};
use serde_json::{Value, json};

use crate::{
    commit_point::CommitPoint,
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    homeserver::{HomeserverError, Intent, encoded},
    store::{DueReceipt, Receipt},
    turns::Party,
};

impl Core {
    /// Counts what was read, and shows what is to be shown. What cannot be shown yet keeps nothing else from it.
    ///
    /// # Errors
    /// When homeserver or database fail; the next time goes on where this one stopped.
    pub(crate) async fn deal_with_receipts(&self) -> Result<(), CryptoError> {
        if faulty!(self.settings, ReadingUnseen) {
            return Ok(());
        }
        loop {
            let (conversations, more) = self.store.count_reads().await?;
            conversations.iter().for_each(|conversation| self.changed(conversation));
            if !more {
                break;
            }
        }
        loop {
            let due = self.store.receipts_due().await?;
            if due.is_empty() {
                return Ok(());
            }
            for receipt in &due {
                self.show(receipt).await?;
            }
            #[cfg(feature = "faults")]
            if faulty!(self.settings, ReceiptCrossing) {
                for receipt in self.shown_everywhere(&due).await? {
                    self.show(&receipt).await?;
                }
            }
            self.store.receipts_are_shown(&due).await?;
        }
    }

    /// `POST /rooms/{roomId}/receipt/m.read/{eventId}` as the ghost of whoever has read. Said again, nothing happens.
    async fn show(&self, receipt: &DueReceipt) -> Result<(), CryptoError> {
        let [room, event] = [receipt.room_id.as_str(), receipt.event_id.as_str()].map(encoded);
        let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{event}");
        let ghost = Intent::user(&receipt.ghost);
        let body = json!({});
        let shown =
            self.homeserver.call(CommitPoint::SendReceipt, Some(&ghost), http::Method::POST, &path, &body);
        match self.turns.take(&Party::Portal(receipt.portal.clone()), shown).await {
            Err(error @ HomeserverError::Refused { .. }) if !error.is_passing() => {
                // The record has it; it is only not shown.
                tracing::warn!(portal = %receipt.portal, %error, "a receipt is not shown");
                Ok(())
            }
            shown => Ok(shown.map(drop)?),
        }
    }
}

/// The receipts among what a room has that is not kept in it (Matrix v1.19 client-server §m.receipt). What makes no sense is
/// none.
pub(crate) fn receipts_in(room: &OwnedRoomId, events: &[Raw<AnySyncEphemeralRoomEvent>]) -> Vec<Receipt> {
    type Readers = BTreeMap<String, Value>;
    let mut receipts = Vec::new();
    for event in events {
        let Ok(event) = serde_json::from_str::<Value>(event.json().get()) else { continue };
        let Some(events) = event["content"].as_object().filter(|_| event["type"] == "m.receipt") else {
            continue;
        };
        for (event_id, kinds) in events {
            let readers: Readers = serde_json::from_value(kinds["m.read"].clone()).unwrap_or_default();
            for (user_id, receipt) in readers {
                let (Ok(event_id), Ok(user_id), Some(at)) =
                    (event_id.as_str().try_into(), user_id.try_into(), receipt["ts"].as_i64())
                else {
                    continue;
                };
                let alone = receipt["thread_id"].as_str().is_some_and(|thread| thread != "main");
                let at = Timestamp::from_millis(at);
                receipts.push(Receipt { room_id: room.clone(), user_id, event_id, alone, at });
            }
        }
    }
    receipts
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn public_receipts_are_told_from_all_else() {
        let room = owned_room_id!("!r:x");
        let raw = |event: Value| Raw::from_json(serde_json::value::to_raw_value(&event).expect("JSON"));
        let events = [
            raw(json!({ "type": "m.typing", "content": { "user_ids": ["@a:x"] } })),
            raw(json!({ "type": "m.receipt", "content": {
                "$one": {
                    "m.read": { "@a:x": { "ts": 1 }, "@b:x": { "ts": 2, "thread_id": "main" }, "@c:x": {} },
                    "m.read.private": { "@d:x": { "ts": 3 } },
                },
                "$two": { "m.read": { "@a:x": { "ts": 4, "thread_id": "$root" }, "nobody": { "ts": 5 } } },
                "three": { "m.read": { "@a:x": { "ts": 6 } } },
                "$four": 7,
            } })),
        ];
        let found = receipts_in(&room, &events);
        let receipt = |user_id, event_id, alone, at| Receipt {
            room_id: room.clone(),
            user_id,
            event_id,
            alone,
            at: Timestamp::from_millis(at),
        };
        let wanted = [
            receipt(owned_user_id!("@a:x"), owned_event_id!("$one"), false, 1),
            receipt(owned_user_id!("@b:x"), owned_event_id!("$one"), false, 2),
            receipt(owned_user_id!("@a:x"), owned_event_id!("$two"), true, 4),
        ];
        assert_eq!(found, wanted);
    }
}
