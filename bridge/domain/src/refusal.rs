//! A rule's "no": stable codes, and one sentence each for the person refused.

/// Why a message is not passed on. The codes stand in `docs/rules.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// POST-1
    NotTakingPart,
    /// POST-2
    OneWay,
    /// KIND-1
    Kind,
    /// SIZE-1
    TooLong,
    /// ATT-1
    NoWords,
    /// ATT-2
    FileKind,
    /// ATT-3
    FileTooLarge,
    /// ATT-4
    FileDamaged,
    /// ATT-5
    FileInfected,
    /// ATT-6
    FileUnchecked,
    /// EDIT-1
    NotYoursToEdit,
    /// EDIT-2
    EditDeleted,
    /// EDIT-3
    FileChanged,
    /// REACT-1
    ReactionToNothing,
    /// REACT-2
    NoEmoji,
    /// ENC-1
    NotEncrypted,
    /// KEY-1
    KeyMissing,
    /// KEY-2
    KeyWithheld,
    /// KEY-3
    Replayed,
    /// KEY-4
    Unrecorded,
    /// TRUST-1
    UnsignedDevice,
    /// TRUST-2
    SpoofedSender,
    /// LANE-1
    ThreadToEverybody,
    /// LANE-2
    LaneUnknown,
    /// LANE-3
    MentionsPatient,
    /// LANE-4
    PatientGone,
    /// LANE-5
    FileForOne,
    /// LANE-6
    NamesAnother,
    /// DEL-1
    NotDeleted,
    /// SEND-1
    Undeliverable,
    /// SELF-1
    OurFault,
}

impl Refusal {
    /// All of them, in the order of the rule book.
    pub const ALL: [Self; 31] = [
        Self::NotTakingPart,
        Self::OneWay,
        Self::Kind,
        Self::TooLong,
        Self::NoWords,
        Self::FileKind,
        Self::FileTooLarge,
        Self::FileDamaged,
        Self::FileInfected,
        Self::FileUnchecked,
        Self::NotYoursToEdit,
        Self::EditDeleted,
        Self::FileChanged,
        Self::ReactionToNothing,
        Self::NoEmoji,
        Self::NotEncrypted,
        Self::KeyMissing,
        Self::KeyWithheld,
        Self::Replayed,
        Self::Unrecorded,
        Self::UnsignedDevice,
        Self::SpoofedSender,
        Self::ThreadToEverybody,
        Self::LaneUnknown,
        Self::MentionsPatient,
        Self::PatientGone,
        Self::FileForOne,
        Self::NamesAnother,
        Self::NotDeleted,
        Self::Undeliverable,
        Self::OurFault,
    ];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotTakingPart => "POST-1",
            Self::OneWay => "POST-2",
            Self::Kind => "KIND-1",
            Self::TooLong => "SIZE-1",
            Self::NoWords => "ATT-1",
            Self::FileKind => "ATT-2",
            Self::FileTooLarge => "ATT-3",
            Self::FileDamaged => "ATT-4",
            Self::FileInfected => "ATT-5",
            Self::FileUnchecked => "ATT-6",
            Self::NotYoursToEdit => "EDIT-1",
            Self::EditDeleted => "EDIT-2",
            Self::FileChanged => "EDIT-3",
            Self::ReactionToNothing => "REACT-1",
            Self::NoEmoji => "REACT-2",
            Self::NotEncrypted => "ENC-1",
            Self::KeyMissing => "KEY-1",
            Self::KeyWithheld => "KEY-2",
            Self::Replayed => "KEY-3",
            Self::Unrecorded => "KEY-4",
            Self::UnsignedDevice => "TRUST-1",
            Self::SpoofedSender => "TRUST-2",
            Self::ThreadToEverybody => "LANE-1",
            Self::LaneUnknown => "LANE-2",
            Self::MentionsPatient => "LANE-3",
            Self::PatientGone => "LANE-4",
            Self::FileForOne => "LANE-5",
            Self::NamesAnother => "LANE-6",
            Self::NotDeleted => "DEL-1",
            Self::Undeliverable => "SEND-1",
            Self::OurFault => "SELF-1",
        }
    }

    /// One sentence for the person refused: what happened and what to do.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotTakingPart => "Not delivered: you do not take part in this conversation.",
            Self::OneWay => "Not delivered: only the practice writes in this conversation.",
            Self::Kind => {
                "Not delivered: only text, images, files, sound, films and reactions are passed on, so please write it as text."
            }
            Self::TooLong => "Not delivered: this message is too long, so please send it in parts.",
            Self::NoWords => {
                "Not delivered: nothing was written about this file within ten minutes, so please send it again with a few words."
            }
            Self::FileKind => {
                "Not delivered: the practice does not take files of this kind, so please send a photo, a PDF, or text."
            }
            Self::FileTooLarge => {
                "Not delivered: this file is larger than the practice takes, so please send a smaller one."
            }
            Self::FileDamaged => {
                "Not delivered: this file did not arrive whole or is damaged, so please send it again."
            }
            Self::FileInfected => {
                "Not delivered: this file may do harm, so please do not send it again, and have your device looked at."
            }
            Self::FileUnchecked => {
                "Not delivered: files cannot be checked just now, so please send this again later, or write what it says."
            }
            Self::NotYoursToEdit => {
                "Not delivered: you can change only a message of your own that was delivered; the others still read it as it \
                 was, so please write a new one."
            }
            Self::EditDeleted => {
                "Not delivered: the message that you changed was deleted, so please write a new one."
            }
            Self::FileChanged => {
                "Not delivered: of a file, only the words about it can be changed; please send what is new as a message of its own."
            }
            Self::ReactionToNothing => {
                "Not delivered: what you reacted to is no message that went to anybody, so nobody else sees your reaction."
            }
            Self::NoEmoji => {
                "Not delivered: only an emoji is passed on as a reaction, so please write words as a message."
            }
            Self::NotEncrypted => {
                "Not delivered: your app sent this without encryption, so please use another app."
            }
            Self::KeyMissing => {
                "Not delivered: the key to read this did not arrive, so please send it again."
            }
            Self::KeyWithheld => {
                "Not delivered: your app did not let the practice read this; please verify your \
                                  session in the app's security settings and send it again."
            }
            Self::Replayed => {
                "Not delivered: this is a copy of an earlier message; if you did not send it twice yourself, please \
                 tell whoever runs the practice's server."
            }
            Self::Unrecorded => {
                "Delivered, but lost from the practice's record when a backup was restored: please send it again if it \
                 must be on record."
            }
            Self::UnsignedDevice => {
                "Not delivered yet: the device you wrote from is not verified. Please verify it in your app's security \
                 settings; then this is delivered by itself."
            }
            Self::SpoofedSender => {
                "Not delivered: this message was not encrypted by the account that sent it."
            }
            Self::ThreadToEverybody => {
                "Not delivered: this thread began with a message to everybody, so please reply to one patient's \
                 message, or write outside the thread, which reaches every patient here."
            }
            Self::LaneUnknown => {
                "Not delivered: it is not known whom the message you answered had reached, so please answer a \
                 patient's message, or write without replying, which reaches every patient here."
            }
            Self::MentionsPatient => {
                "Not delivered: this would go to every patient here but names one of them; please reply to that \
                 patient's message instead."
            }
            Self::PatientGone => {
                "Not delivered: the patient whom this is for does not take part in this conversation any more; please have \
                 them included again first."
            }
            Self::FileForOne => {
                "Not delivered: a file of yours for one patient waits for words, and this would go to every patient here; please \
                 answer your file with words about it, or delete it, and send this again."
            }
            Self::NamesAnother => {
                "Not delivered: this would go to one patient but names another one here; please send it again without that name."
            }
            Self::NotDeleted => {
                "Not deleted everywhere: the homeserver does not take the deletion; please tell whoever runs it."
            }
            Self::Undeliverable => {
                "Not delivered to everybody: the homeserver does not take this message; please tell whoever runs it, \
                 and use another way for now."
            }
            Self::OurFault => {
                "Not delivered: something went wrong at the practice's own server; please send it again, and use \
                 another way if you read this once more."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_book_and_the_code_are_the_same() {
        let book = include_str!("../../../docs/rules.md");
        let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let in_book: Vec<_> = book
            .lines()
            .map(cells)
            .filter(|cells| {
                cells.len() == 5 && Refusal::ALL.iter().any(|r| cells[1].trim_matches('`') == r.code())
            })
            .map(|cells| (cells[1].trim_matches('`'), cells[3].trim_matches('"')))
            .collect();
        let in_code: Vec<_> =
            Refusal::ALL.iter().map(|refusal| (refusal.code(), refusal.sentence())).collect();
        assert_eq!(in_book, in_code);
    }

    #[test]
    fn no_two_refusals_share_a_code() {
        let codes: std::collections::BTreeSet<_> =
            Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
        assert_eq!(codes.len(), Refusal::ALL.len());
    }
}
