//! Why a check's client could not do what it was asked.

use std::{io, path::PathBuf, time::Duration};

use matrix_sdk::{
    ClientBuildError,
    encryption::{identities::ManualVerifyError, recovery::RecoveryError},
};
use ruma::{OwnedRoomId, OwnedUserId};

/// Why a client failed, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The homeserver refused, could not be reached, or the SDK could not do it.
    #[error("the homeserver or the client's own store refused: {0}")]
    Matrix(#[source] Box<matrix_sdk::Error>),
    /// Raw HTTP failed before there was an answer.
    #[error("the homeserver could not be reached: {0}")]
    Http(#[from] reqwest::Error),
    /// A path for raw HTTP does not fit behind the homeserver's address.
    #[error("{0:?} is not a path behind the homeserver's address")]
    BadPath(String),
    /// The client could not be built: a bad address, or a store that cannot be opened.
    #[error("the client could not be built: {0}")]
    Build(#[source] Box<ClientBuildError>),
    /// The store folder could not be read or written.
    #[error("the client's store {} cannot be used: {source}", path.display())]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store folder belongs to another person.
    #[error("the store belongs to {owner}, not to {user}")]
    OthersStore {
        /// Whose store it is.
        owner: OwnedUserId,
        /// Who wanted to use it.
        user: OwnedUserId,
    },
    /// The password is wrong, or the account may not sign in.
    #[error("{user} cannot sign in with this password: {source}")]
    SignIn {
        /// Who wanted to sign in.
        user: OwnedUserId,
        /// What the homeserver said.
        source: Box<matrix_sdk::Error>,
    },
    /// The stored session is no longer valid: the device was removed, or the homeserver was built anew.
    #[error("the stored session of {user} has ended: delete {} and sign in again", store.display())]
    SessionEnded {
        /// Whose session.
        user: OwnedUserId,
        /// The store folder.
        store: PathBuf,
    },
    /// Secret storage or key backup could not be set up, or does not open with the password.
    #[error("secret storage of {user} could not be set up or opened with the password: {source}")]
    Recovery {
        /// Whose secret storage.
        user: OwnedUserId,
        /// What went wrong.
        source: Box<RecoveryError>,
    },
    /// The device could not be cross-signed, so nobody would send it keys.
    #[error("the device of {user} is not usable: {why}")]
    Device {
        /// Whose device.
        user: OwnedUserId,
        /// What is missing.
        why: String,
    },
    /// The room is not known to this client.
    #[error("{user} knows no room {room}")]
    UnknownRoom {
        /// Who asked.
        user: OwnedUserId,
        /// The room.
        room: OwnedRoomId,
    },
    /// A redaction without a valid `redacts`.
    #[error("a redaction needs the event id in `redacts`")]
    NothingToRedact,
    /// A message without a file that could be opened.
    #[error("the message brings no file that can be opened")]
    NoFile,
    /// No such room came within the time.
    #[error(
        "{user} waited {limit:?} for an encrypted room that did not come ({joined} rooms joined){}",
        after(trouble)
    )]
    NoSuchRoom {
        /// Who waited.
        user: OwnedUserId,
        /// How long.
        limit: Duration,
        /// How many rooms are joined.
        joined: usize,
        /// The syncing's last error, if it is failing.
        trouble: Option<String>,
    },
    /// No such message came within the time.
    #[error(
        "{user} waited {limit:?} in {room} for a message that did not come ({seen} seen, {undecryptable} \
         undecryptable{}){}",
        after(reasons),
        after(trouble)
    )]
    NoSuchMessage {
        /// Who waited.
        user: OwnedUserId,
        /// Where.
        room: OwnedRoomId,
        /// How long.
        limit: Duration,
        /// How many messages this client has of the room.
        seen: usize,
        /// How many of them cannot be decrypted.
        undecryptable: usize,
        /// The distinct reasons why they cannot.
        reasons: Option<String>,
        /// The syncing's last error, if it is failing.
        trouble: Option<String>,
    },
    /// The other person has no cross-signing identity.
    #[error("{user} has no cross-signing identity to verify")]
    NoIdentity {
        /// The other person.
        user: OwnedUserId,
    },
    /// The other person's identity could not be signed.
    #[error("the identity could not be signed: {0}")]
    Verify(#[from] Box<ManualVerifyError>),
    /// The signature did not come back from the homeserver.
    #[error("the homeserver did not keep the signature of {user}'s identity")]
    NotVerified {
        /// The other person.
        user: OwnedUserId,
    },
    /// The line client's input or output broke.
    #[error("the terminal cannot be read or written: {0}")]
    Terminal(#[source] io::Error),
}

impl ClientError {
    /// The HTTP status and `errcode` when it was the homeserver that refused, for instance `(403,
    /// "M_FORBIDDEN")`.
    pub fn status(&self) -> Option<(u16, String)> {
        let (Self::Matrix(error) | Self::SignIn { source: error, .. }) = self else { return None };
        let error = error.as_client_api_error()?;
        let code = error.error_kind().map(|kind| kind.errcode().to_string());
        Some((error.status_code.as_u16(), code.unwrap_or_default()))
    }
}

impl From<matrix_sdk::Error> for ClientError {
    fn from(error: matrix_sdk::Error) -> Self {
        Self::Matrix(Box::new(error))
    }
}

fn after(detail: &Option<String>) -> String {
    detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}
