//! Leaks between patients, each made on purpose, so that a test can see that the search for them finds them (S17).

use parlour_domain::{PortalKind, Said};
use serde_json::{Value, json};

use crate::{
    crypto::CryptoError,
    engine::Core,
    faults::faulty,
    store::{DueReceipt, Leg},
};

impl Core {
    /// Words as they were formatted, with what older clients quote before an answer, or with whom they mention.
    pub(crate) fn with_leaks(&self, said: Said, content: &Value) -> Said {
        let html = content["formatted_body"].as_str().unwrap_or_default();
        let (quoted, words) = html.split_once("</mx-reply>").unwrap_or(("", html));
        let kept = match () {
            () if faulty!(self.settings, FallbackKept) => quoted,
            () if faulty!(self.settings, MentionKept) => words,
            () => "",
        };
        let Said::Message(plain) = &said else { return said };
        let mut formatted = serde_json::to_value(plain).unwrap_or_default();
        formatted["html"] = json!(kept);
        match serde_json::from_value(formatted) {
            Ok(formatted) if !kept.is_empty() => Said::Message(formatted),
            _ => said,
        }
    }

    /// A leg's relation names the event that the message it is about is elsewhere.
    pub(crate) async fn points_elsewhere(&self, leg: &Leg, content: &mut Value) -> Result<(), CryptoError> {
        let relation = &mut content["m.relates_to"];
        let place = if relation["rel_type"].is_string() { relation } else { &mut relation["m.in_reply_to"] };
        if let Some(event) = place["event_id"].as_str()
            && let Some(other) = self.store.event_elsewhere(&leg.portal.id, event).await?
        {
            place["event_id"] = json!(other);
        }
        Ok(())
    }

    /// Where else what staff have read is shown: in every spoke that their ghost is in, by what was said there last.
    pub(crate) async fn shown_everywhere(&self, due: &[DueReceipt]) -> Result<Vec<DueReceipt>, CryptoError> {
        let mut everywhere = Vec::new();
        for receipt in due {
            let home = self.store.portal(&receipt.portal).await?;
            for other in self.store.portals(&home.conversation).await? {
                let is_another = home.kind() == PortalKind::Spoke
                    && other.kind() == PortalKind::Spoke
                    && other.id != home.id;
                if let (true, Some(room_id), Some(event_id)) =
                    (is_another, other.room_id.clone(), self.store.last_event(&other.id).await?)
                {
                    everywhere.push(DueReceipt { portal: other.id, room_id, event_id, ..receipt.clone() });
                }
            }
        }
        Ok(everywhere)
    }
}
