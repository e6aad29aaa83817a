//! The kinds of things that happen in a case, and how often each is tried.

use std::fmt;

/// A kind of thing that happens; each must come often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their words say it")]
pub enum Kind {
    StaffMessage,
    PatientMessage,
    Letter,
    Picture,
    Reply,
    Mention,
    Name,
    Reaction,
    Receipt,
    Deletion,
    Edit,
    Participant,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::StaffMessage,
        Self::PatientMessage,
        Self::Letter,
        Self::Picture,
        Self::Reply,
        Self::Mention,
        Self::Name,
        Self::Reaction,
        Self::Receipt,
        Self::Deletion,
        Self::Edit,
        Self::Participant,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StaffMessage => "staff messages",
            Self::PatientMessage => "patients' messages",
            Self::Letter => "letters",
            Self::Picture => "pictures",
            Self::Reply => "replies",
            Self::Mention => "mentions",
            Self::Name => "names",
            Self::Reaction => "reactions",
            Self::Receipt => "receipts",
            Self::Deletion => "deletions",
            Self::Edit => "edits",
            Self::Participant => "participants changing",
        })
    }
}

/// How often each is tried: what needs something to be there before is met more rarely.
pub(super) const WEIGHTS: [(Kind, u32); 12] = [
    (Kind::StaffMessage, 3),
    (Kind::PatientMessage, 6),
    (Kind::Letter, 7),
    (Kind::Picture, 7),
    (Kind::Reply, 4),
    (Kind::Mention, 20),
    (Kind::Name, 5),
    (Kind::Reaction, 18),
    (Kind::Receipt, 24),
    (Kind::Deletion, 44),
    (Kind::Edit, 66),
    (Kind::Participant, 11),
];
