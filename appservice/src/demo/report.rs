//! What the demo's start tells its reader: each step as it comes, and each failure as one sentence.

use std::io;
use std::path::PathBuf;

/// Hears of each step of a long start; the demo prints it for a person or as one JSON line.
pub trait Report: Send + Sync {
    /// `state` is stable, for programs (`python`, `packages`, `homeserver`); `words` are for people.
    fn step(&self, state: &'static str, words: &str);
}

/// Why the demo's homeserver cannot run. Each variant reads as one sentence: what happened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// None of the Pythons on the search path is new enough, or there is none.
    #[error(
        "No Python 3.10 or newer was found: install one (on Debian and Ubuntu: \
         apt install python3 python3-venv), and start again."
    )]
    PythonMissing,
    /// A Python is new enough, but not complete.
    #[error("{python} (Python {version}) cannot be used, because it lacks {lacks}; then start again.")]
    PythonIncomplete {
        /// The interpreter's path.
        python: String,
        /// For example `3.11.7`.
        version: String,
        /// What is missing and how to get it, as the end of a sentence.
        lacks: String,
    },
    /// `python -m venv` failed.
    #[error(
        "Python could not make a virtual environment: see why in {log}, and start again.",
        log = .log.display()
    )]
    VenvFailed {
        /// Where its output is.
        log: PathBuf,
    },
    /// pip could not get or install one of the pinned packages.
    #[error(
        "A package that the homeserver needs could not be had: see which in {log}, check the network, \
         and start again.", log = .log.display()
    )]
    PackageUnavailable {
        /// Where pip's output is.
        log: PathBuf,
    },
    /// Everything is installed, but Synapse cannot be imported.
    #[error(
        "The homeserver was installed, but this Python cannot load it: see why in {log}, \
         or try another Python.", log = .log.display()
    )]
    PackageBroken {
        /// Where the traceback is.
        log: PathBuf,
    },
    /// Somebody else listens on the port.
    #[error("Port {0} is taken: choose another with --port, or end the program that uses it.")]
    PortTaken(u16),
    /// The port cannot be used for another reason, for example one that needs root.
    #[error("Port {port} cannot be used ({source}): choose another with --port.")]
    PortRefused {
        /// The port that was asked for.
        port: u16,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another homeserver runs in the same folder.
    #[error("A demo already runs in {}: stop it first, or choose another folder with --data.", .0.display())]
    FolderInUse(PathBuf),
    /// A folder or file cannot be read or written.
    #[error(
        "{path} cannot be used ({source}): make it writable, or choose another place.",
        path = .path.display()
    )]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A path that cannot stand in Synapse's configuration.
    #[error("{} is not valid UTF-8: choose another folder.", .0.display())]
    PathNotText(PathBuf),
    /// A program could not be started.
    #[error("{program} could not be started ({source}).", program = .program.display())]
    Program {
        /// The program's path.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The child ended without being asked to.
    #[error("The homeserver stopped by itself ({status}): see why in {log}.", log = .log.display())]
    HomeserverStopped {
        /// The child's exit status, in words.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// The child runs, but did not answer in time.
    #[error(
        "The homeserver was not ready after {seconds} seconds: see why in {log}, and start again.",
        log = .log.display()
    )]
    HomeserverSlow {
        /// How long it was given.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// An account could not be made an administrator.
    #[error("{user_id} could not be made an administrator of the homeserver: {reason}.")]
    AdminRefused {
        /// The account.
        user_id: String,
        /// What the homeserver said.
        reason: String,
    },
    /// The operating system gave no random bytes.
    #[error("The operating system gave no random bytes ({0}).")]
    NoRandomness(String),
    /// The file in which the demo remembers its people is not as it was written.
    #[error("The demo's own file cannot be used ({0}): start again with --reset, which begins anew.")]
    State(String),
    /// The demo is not running where a client looks for it.
    #[error("No demo was started in {}: start it first with `parlour demo`, or name its folder with --data.", .0.display())]
    NotStarted(PathBuf),
    /// Nobody, or more than one, is meant.
    #[error("{wanted:?} is nobody of the demo: choose one of {names}.")]
    Nobody {
        /// Who was asked for.
        wanted: String,
        /// Who there is.
        names: String,
    },
    /// Somebody talks as this person in another terminal.
    #[error("{0} talks in another terminal already: end that talk first, or choose somebody else.")]
    AlreadyHere(String),
    /// Parlour itself did not start.
    #[error("{0}.")]
    Parlour(#[from] crate::run::RunError),
    /// The configuration that the demo wrote is not taken.
    #[error("{0}.")]
    Config(#[from] crate::config::ConfigError),
    /// The engine, or the homeserver for it, did not do its part.
    #[error("The demo's people could not be made: {0}.")]
    Engine(#[from] parlour_engine::EngineError),
    /// A client of the demo's people did not get on.
    #[error("A client of the demo did not get on: {0}.")]
    Client(#[from] super::client::ClientError),
    /// The first conversation could not be made.
    #[error("The first conversation could not be made: {0}.")]
    Conversation(String),
    /// The HTTP client that asks whether the homeserver is ready could not be made.
    #[error("The HTTP client could not be made ({0}).")]
    HttpClient(String),
}

impl DemoError {
    /// An I/O error with the path that it is about.
    pub(super) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Folder { path, source }
    }
}
