//! Named faults: each breaks one promise on purpose, so that a test can see the check of that promise fail.
//! Without the test feature `faults` there are none, and no code that asks for one.

#[cfg(feature = "faults")]
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A promise broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name,)+ }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

#[cfg(feature = "faults")]
faults! {
    /// The source tree is looked for where it is not.
    NoHouse = "no-house",
    /// Every leg is sent twice.
    SendTwice = "send-twice",
    /// Staff other than the owner are not joined to the hub.
    OwnerOnly = "owner-only",
    /// The hub has no name.
    HubUnnamed = "hub-unnamed",
    /// One-way conversations are made two-way.
    OneWayOpen = "one-way-open",
    /// An answer arrives as a message that answers nothing.
    AnswersLost = "answers-lost",
    /// A reply to one patient goes to all.
    LanesIgnored = "lanes-ignored",
    /// A spoke bears the staff's name for the conversation.
    HubNameInSpoke = "hub-name-in-spoke",
    /// The bot's device encrypts for the ghosts.
    BotEncrypts = "bot-encrypts",
    /// A reaction, which is not passed on, vanishes without a word.
    SilentReactions = "silent-reactions",
}

/// No fault exists without the test feature.
#[cfg(not(feature = "faults"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {}

/// Whether a named fault is switched on; always `false`, and compiled away, without the test feature.
#[cfg(feature = "faults")]
macro_rules! faulty {
    ($settings:expr, $name:ident) => {
        $settings.fault == Some($crate::Fault::$name)
    };
}
#[cfg(not(feature = "faults"))]
macro_rules! faulty {
    ($settings:expr, $name:ident) => {
        false
    };
}
pub(crate) use faulty;
