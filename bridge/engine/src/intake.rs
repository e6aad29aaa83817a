//! What the homeserver sends: parsed as tolerantly as it must be, each event kept raw
//! (Matrix v1.19 application-service §Pushing events).

use parlour_domain::{LEG_FIELD, LegId, Mode, PORTAL_EVENT, mode_of};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::store::Arrived;

/// Why a transaction's body cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// It is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// It is JSON without an array `events`.
    #[error("the body has no array `events`")]
    NoEvents,
}

#[derive(Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// An event as far as handling it needs. One that does not read as this is kept, and not handled.
#[derive(Deserialize)]
pub(crate) struct Event {
    pub(crate) event_id: OwnedEventId,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) sender: OwnedUserId,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(default)]
    pub(crate) content: Value,
    pub(crate) state_key: Option<String>,
    #[serde(default)]
    unsigned: Value,
}

impl Event {
    /// Whether it may need handling: what people say, that they come and go, who may write, and that a room is closed. Other
    /// state is our own.
    fn matters(&self) -> bool {
        self.state_key.is_none()
            || self.is_in_the_room().is_some()
            || self.closes_the_room()
            || self.sets_mode().is_some()
            || self.tells_revision().is_some()
    }

    /// Whether somebody says something by it, whatever that is, and nothing about the room; and it stands there.
    pub(crate) fn is_said(&self) -> bool {
        self.state_key.is_none() && self.event_type != "m.room.redaction" && !self.is_redacted()
    }

    /// The event of this room that it redacts (Matrix v1.19 client-server §m.room.redaction; room version 11 and later).
    pub(crate) fn redacts(&self) -> Option<OwnedEventId> {
        let redacted = self.content["redacts"].as_str().filter(|_| self.event_type == "m.room.redaction")?;
        OwnedEventId::try_from(redacted).ok()
    }

    /// Whether it was redacted before the homeserver sent it, so that nothing of it is left to be read
    /// (Matrix v1.19 client-server §Redactions).
    pub(crate) fn is_redacted(&self) -> bool {
        self.unsigned.get("redacted_because").is_some()
    }

    /// Whether the room is said to be replaced by another (Matrix v1.19 client-server §Room upgrades).
    pub(crate) fn closes_the_room(&self) -> bool {
        self.event_type == "m.room.tombstone" && self.state_key.as_deref() == Some("")
    }

    /// The mode that holds in the room from here on, when it says who may write. Only the bot may say so.
    pub(crate) fn sets_mode(&self) -> Option<Mode> {
        let says = self.event_type == "m.room.power_levels" && self.state_key.as_deref() == Some("");
        says.then(|| mode_in(&self.content))
    }

    /// The revision of what it is to be like that a hub says it was set to. Only the bot may say so.
    pub(crate) fn tells_revision(&self) -> Option<i64> {
        let says = self.event_type == PORTAL_EVENT && self.state_key.as_deref() == Some("");
        self.content["revision"].as_i64().filter(|_| says)
    }

    /// The leg that it says it is. It counts only in events of our own users.
    fn leg(&self) -> Option<LegId> {
        self.content[LEG_FIELD].as_str().and_then(|id| id.parse().ok())
    }

    /// Whether this says that somebody is in the room from now on, or no longer (Matrix v1.19 client-server
    /// §m.room.member).
    pub(crate) fn is_in_the_room(&self) -> Option<bool> {
        match self.content["membership"].as_str() {
            _ if self.state_key.is_none() || self.event_type != "m.room.member" => None,
            Some("join") => Some(true),
            Some("leave" | "ban") => Some(false),
            _ => None,
        }
    }
}

/// The mode that the content of power levels comes to (Matrix v1.19 client-server §m.room.power_levels: nothing said is 0).
pub(crate) fn mode_in(levels: &Value) -> Mode {
    mode_of(levels["events_default"].as_i64().unwrap_or(0))
}

/// Whether somebody may write by the content of power levels (Matrix v1.19 client-server §m.room.power_levels).
pub(crate) fn may_write(levels: &Value, user_id: &UserId) -> bool {
    let level = |value: &Value| value.as_i64();
    let own =
        level(&levels["users"][user_id.as_str()]).or_else(|| level(&levels["users_default"])).unwrap_or(0);
    own >= level(&levels["events_default"]).unwrap_or(0)
}

/// The events of a transaction. One that cannot be read is kept under a digest of its bytes, and spoils no other;
/// keys of the transaction other than `events` are ignored. `ours` tells our own users.
///
/// # Errors
/// [`IntakeError`], for the whole body.
pub fn parse_transaction(body: &[u8], ours: impl Fn(&UserId) -> bool) -> Result<Vec<Arrived>, IntakeError> {
    let transaction: Transaction<'_> = serde_json::from_slice(body)
        .map_err(|error| if error.is_data() { IntakeError::NoEvents } else { IntakeError::NotJson })?;
    Ok(transaction.events.into_iter().map(|event| arrived(event, &ours)).collect())
}

/// One event, as it is taken in.
pub(crate) fn arrived(event: &RawValue, ours: &impl Fn(&UserId) -> bool) -> Arrived {
    match serde_json::from_str::<Event>(event.get()) {
        Ok(read) => Arrived {
            echo: read.leg().filter(|_| ours(&read.sender)).map(|leg| (leg, read.event_id.clone())),
            matters: read.matters() && (read.state_key.is_some() || !ours(&read.sender)),
            dedup_key: read.event_id.into(),
            room_id: Some(read.room_id),
            event: event.get().to_owned(),
        },
        Err(_) => {
            let digest: String =
                Sha256::digest(event.get()).iter().map(|byte| format!("{byte:02x}")).collect();
            Arrived {
                dedup_key: format!("sha256:{digest}"),
                room_id: None,
                matters: false,
                echo: None,
                event: event.get().to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_event_spoils_no_other() {
        let good = r#"{"event_id":"$a:x","room_id":"!r:x","type":"m.room.encrypted","sender":"@a:x","origin_server_ts":1,"content":{}}"#;
        let state = r#"{"event_id":"$b:x","room_id":"!r:x","type":"m.room.name","sender":"@a:x","origin_server_ts":1,"state_key":"","content":{}}"#;
        let body = format!(r#"{{"events":[{good},{{"event_id":7}},"x",{state}],"ephemeral":1}}"#);
        let events = parse_transaction(body.as_bytes(), |_| false).expect("a transaction");
        let seen: Vec<_> = events.iter().map(|e| (e.dedup_key.split(':').next(), e.matters)).collect();
        let wanted =
            [(Some("$a"), true), (Some("sha256"), false), (Some("sha256"), false), (Some("$b"), false)];
        assert_eq!(seen, wanted);
        assert_eq!(events[0].event, good, "kept exactly as it came");
    }

    #[test]
    fn who_may_write_by_the_levels() {
        let levels = |events_default: Value| serde_json::json!({ "events_default": events_default, "users_default": 50, "users": { "@kim:x": 50, "@ann:x": 0 } });
        let (one_way, two_way, unsaid) = (levels(50.into()), levels(0.into()), levels(Value::Null));
        for (name, levels, user_id, wanted) in [
            ("a sender", &one_way, "@kim:x", true),
            ("a reader", &one_way, "@ann:x", false),
            ("a ghost", &one_way, "@_parlour_1:x", true),
            ("two-way", &two_way, "@ann:x", true),
            ("nothing said", &unsaid, "@ann:x", true),
        ] {
            let user_id = UserId::parse(user_id).expect("a user id");
            assert_eq!(may_write(levels, &user_id), wanted, "{name}");
        }
    }

    #[test]
    fn what_is_no_transaction_is_refused() {
        for (body, wanted) in [
            ("{", IntakeError::NotJson),
            ("", IntakeError::NotJson),
            ("[]", IntakeError::NoEvents),
            ("{}", IntakeError::NoEvents),
            (r#"{"events":{}}"#, IntakeError::NoEvents),
        ] {
            assert_eq!(parse_transaction(body.as_bytes(), |_| false).err(), Some(wanted), "{body}");
        }
    }
}
