//! What became of an event.

use parlour_domain::{Mode, Timestamp};
use ruma::{OwnedEventId, OwnedUserId};

use super::{Deletion, KeptUntil, NewLeg, ParticipantChange, RelayedMessage};

/// The bot's answer that the practice is closed: once for each such time in each portal; and once more, when what somebody has
/// written has come after what they had written before had not.
pub struct SaysClosed {
    /// Until when, in milliseconds since 1970; 0 where nobody knows.
    pub until: i64,
    /// Whether what they have written has come.
    pub has_come: bool,
    /// What the bot says.
    pub answer: NewLeg,
}

/// That the practice is closed, if it is.
pub type Closed = Option<Box<SaysClosed>>;

/// What became of an event.
pub enum Outcome {
    /// Nothing was to be done.
    Nothing,
    /// Refused, and its sender is told.
    Refused {
        /// The refused event.
        event_id: OwnedEventId,
        /// The code of the refusal.
        code: &'static str,
        /// The bot's words to the sender.
        notice: Box<NewLeg>,
        /// That the event goes from where it was written, if it does.
        void: Option<Box<NewLeg>>,
        /// That the practice is closed.
        closed: Closed,
    },
    /// It is kept until something else happens.
    Kept {
        /// That the practice is closed.
        closed: Closed,
        /// What for.
        until: KeptUntil,
        /// The event.
        event_id: OwnedEventId,
        /// Who sent it.
        sender: OwnedUserId,
        /// The bot's words to them, and to staff.
        notices: Vec<NewLeg>,
    },
    /// Whoever said it has deleted it before it was read.
    Unread {
        /// What was deleted.
        event_id: OwnedEventId,
        /// That copies go which stand in rooms since before a backup was restored.
        voids: Vec<NewLeg>,
    },
    /// What somebody has said was deleted by themselves.
    Deleted(Box<Deletion>),
    /// On its way.
    Relayed(Box<RelayedMessage>),
    /// Somebody is no longer in the portal.
    Left {
        /// Who.
        user_id: OwnedUserId,
        /// The event by which they left.
        event_id: OwnedEventId,
        /// When, by the homeserver's clock.
        at: Timestamp,
        /// That they do not take part any more, when they have gone by themselves.
        departure: Option<Box<Departure>>,
    },
    /// The hub is as it was to be by a revision.
    Revised {
        /// Which.
        revision: i64,
        /// Since when, by the homeserver's clock.
        since: Timestamp,
        /// The bot's words to staff: who takes part from here on.
        notices: Vec<NewLeg>,
    },
    /// From here on another mode holds in the portal.
    Switched {
        /// The event that says so.
        event_id: OwnedEventId,
        /// The mode.
        mode: Mode,
        /// Since when, by the homeserver's clock.
        since: Timestamp,
        /// The bot's words to those who are in it.
        notice: Option<Box<NewLeg>>,
    },
}

/// Somebody has gone by their own client.
pub struct Departure {
    /// They do not take part any more.
    pub change: ParticipantChange,
    /// What the bot says to staff when nobody of them would be left: whoever has gone is brought back.
    pub is_last: NewLeg,
}
