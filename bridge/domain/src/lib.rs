//! Decides: what a practice's people, conversations and messages are, and the rules between them.
//!
//! Pure: no async, no I/O, no SQL, no HTTP. Facts are fetched elsewhere and handed in; a rule answers
//! with what follows from them, or with a [`Refusal`].

mod attachment;
mod clock;
mod conversation;
mod hours;
mod ids;
mod people;
mod portal;
mod refusal;
pub mod rules;
mod said;
mod taking_part;
mod text;

pub use attachment::{Attachment, Measures, SealedFile, Shown, file_name, with_ending};
pub use clock::{Chance, Clock, Timestamp};
pub use conversation::{
    ChangeError, ConversationName, DeleteError, DeletionReason, Mode, NewConversation, NewConversationError,
    ParticipantLimit, Subject, may_change, may_delete,
};
pub use hours::{EmergencyWords, Hours, InvalidHours, Standing};
pub use ids::{ConversationId, InvalidId, LegId, MessageId, PersonId, PortalId, TeamId};
pub use people::{Person, PersonName, RecordNumber, Role};
pub use portal::{
    LEG_FIELD, PORTAL_EVENT, PortalKind, PowerFacts, hub_topic, mode_of, power_levels, spoke_name,
};
pub use refusal::Refusal;
pub use said::{Emoji, Form, Said, UnfitWords, Words};
pub use taking_part::{
    Candidate, Roster, TakingPartError, TeamError, TeamName, heir, may_exclude, may_go, may_include,
    may_team, mode_of_portal,
};
pub use text::{InvalidText, MAX_TEXT_BYTES, without_formatted_fallback, without_reply_fallback};
