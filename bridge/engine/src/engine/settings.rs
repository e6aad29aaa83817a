//! What an engine is told at its start.

use std::{path::PathBuf, time::Duration};

use parlour_domain::{EmergencyWords, Hours};
use ruma::OwnedServerName;

use crate::{
    attachments::Files,
    store::{DatabaseUrl, MasterKey},
};

/// What an engine is told at its start.
#[derive(Clone)]
pub struct Settings {
    /// The homeserver's name, the part of user ids after the colon.
    pub server_name: OwnedServerName,
    /// The practice's name, as patients see it.
    pub practice: String,
    /// When it is there; none when nobody has said.
    pub hours: Option<Hours>,
    /// What to do in an emergency.
    pub emergency: Option<EmergencyWords>,
    /// The folder that the database lies in, when it is a file.
    pub data: PathBuf,
    /// The database.
    pub database: DatabaseUrl,
    /// What opens the database's sealed values.
    pub master_key: MasterKey,
    /// How long an event waits for its key before its sender is told.
    pub patience_for_keys: Duration,
    /// How long an event of an unsigned device waits for the signature before its sender is told.
    pub patience_for_signatures: Duration,
    /// Whether clients are allowed that know nothing of cross-signing: what accounts without an identity write is believed, and
    /// messages are encrypted for devices that nobody has signed.
    pub allow_unsigned_clients: bool,
    /// How long a file waits for words of its sender's.
    pub patience_for_words: Duration,
    /// How often the ghosts' own inboxes are emptied.
    pub care: Duration,
    /// How long a ghost's Olm machine stays awake after its last use; looked after whenever the inboxes are emptied.
    pub idle: Duration,
    /// What files it takes.
    pub files: Files,
    /// Promises broken on purpose, for tests of the checks.
    pub faults: Vec<crate::Fault>,
}
