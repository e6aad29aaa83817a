//! Does: takes the homeserver's transactions in, relays what people write between the portals of their
//! conversation, keeps the record, and sends what is to be sent, each thing once and in order.

/// The id of our registration with the homeserver.
pub const REGISTRATION_ID: &str = "parlour";

mod attachments;
mod catch_up;
mod changes;
mod commit_point;
mod counts;
mod crypto;
mod engine;
#[cfg(feature = "faults")]
pub mod failpoints;
mod faults;
mod files;
mod ghosts;
mod homeserver;
mod intake;
mod keyed;
#[cfg(feature = "faults")]
mod leaks;
mod making;
mod notices;
mod portals;
mod read_back;
mod reading;
mod recovery;
mod relay;
mod repair;
mod scanner;
mod secret;
mod seen;
mod sender;
mod store;
mod switching;
mod turns;

pub use attachments::Files;
pub use commit_point::CommitPoint;
pub use counts::Counts;
pub use crypto::CryptoError;
pub use engine::{Engine, EngineError, Settings, StartError};
pub use faults::Fault;
pub use files::{Kind, UnknownKind};
pub use homeserver::{Homeserver, HomeserverError, Intent};
pub use intake::{IntakeError, parse_transaction};
pub use scanner::{InvalidScannerAddress, ScannerAddress};
pub use secret::Secret;
pub use store::{
    Begun, Conversation, CopyError, DatabaseUrl, Figures, InvalidMasterKey, Making, MasterKey, MessageStatus,
    Participant, People, Portal, Read, Recorded, Request, Sending, Store, StoreError, TakingPart, Team, Way,
};
