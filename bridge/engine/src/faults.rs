//! Named faults: each breaks one promise on purpose, so that a test can see the check of that promise fail.
//! Without the test feature `faults` there are none, and no code that asks for one.

#[cfg(feature = "faults")]
macro_rules! faults {
    ($($list:ident: $(#[$list_doc:meta])* { $($(#[$doc:meta])* $name:ident = $text:literal,)+ })+) => {
        /// A promise broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($($(#[$doc])* $name,)+)+ }

        impl Fault {
            $($(#[$list_doc])* pub const $list: &'static [Self] = &[$(Self::$name,)+];)+

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($(Self::$name => $text,)+)+ }
            }

            /// The fault of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$list),+].concat().into_iter().find(|fault| fault.name() == name)
            }
        }
    };
}

#[cfg(feature = "faults")]
faults! {
    OF_THE_CHECK: /** Those that `demo --check` finds, a row each. */ {
    /// The source tree is looked for where it is not.
    NoHouse = "no-house",
    /// Every leg is sent twice.
    SendTwice = "send-twice",
    /// Who is excluded keeps their room as it was.
    ExcludedStay = "excluded-stay",
    /// Staff other than the owner are not joined to the hub.
    OwnerOnly = "owner-only",
    /// The hub has no name.
    HubUnnamed = "hub-unnamed",
    /// One-way conversations are made two-way.
    OneWayOpen = "one-way-open",
    /// A conversation that is switched leaves its rooms as they are.
    SwitchForgotten = "switch-forgotten",
    /// An answer arrives as a message that answers nothing.
    AnswersLost = "answers-lost",
    /// A reply to one patient goes to all.
    LanesIgnored = "lanes-ignored",
    /// A spoke bears the staff's name for the conversation.
    HubNameInSpoke = "hub-name-in-spoke",
    /// The bot's device encrypts for the ghosts.
    BotEncrypts = "bot-encrypts",
    /// What is not passed on for its kind vanishes without a word.
    SilentRefusals = "silent-refusals",
    /// Anybody may change anybody's words.
    EditsByAll = "edits-by-all",
    /// Reactions are not passed on.
    ReactionsLost = "reactions-lost",
    /// Files pass without a word about them.
    FilesWordless = "files-wordless",
    /// Nobody is known to have read anything.
    ReadingUnseen = "reading-unseen",
    /// A deletion stays in the room where it was made.
    DeletionsStay = "deletions-stay",
    /// What is held stays so, whoever comes.
    HeldForEver = "held-for-ever",
    /// Whatever was sent to somebody is sent again to each new device of theirs.
    RepairsAll = "repairs-all",
    }
    OF_GROUPS: /** Those by which something of one patient's reaches another. */ {
    /// What older clients quote before an answer stays.
    FallbackKept = "fallback-kept",
    /// A message is about an event of another portal.
    ForeignRelation = "foreign-relation",
    /// Whom words mention stays.
    MentionKept = "mention-kept",
    /// That staff have read one patient's words is shown to the others.
    ReceiptCrossing = "receipt-crossing",
    }
    OF_THE_SOAK: /** Those that lose, double or reorder messages when processes are killed and connections are cut. */ {
    /// The same event counts as another one when it comes again.
    NoDedup = "no-dedup",
    /// A transaction is answered before it is kept, and nothing is asked for afterwards.
    AnswerFirst = "answer-first",
    /// Each attempt to send a leg has a transaction id of its own, and nobody asks what stands in the room.
    NewTransactionId = "new-transaction-id",
    /// Our own events are not recognised when they come back or stand in the room.
    NoEcho = "no-echo",
    /// The newest leg of a portal is sent first.
    Unordered = "unordered",
    /// Other words for a message are not passed on.
    EditsLost = "edits-lost",
    }
}

/// No fault exists without the test feature.
#[cfg(not(feature = "faults"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {}

/// Whether a named fault is switched on; always `false`, and compiled away, without the test feature.
#[cfg(feature = "faults")]
macro_rules! faulty {
    ($settings:expr, $name:ident) => {
        $settings.faults.contains(&$crate::Fault::$name)
    };
}
#[cfg(not(feature = "faults"))]
macro_rules! faulty {
    ($settings:expr, $name:ident) => {
        false
    };
}
pub(crate) use faulty;
