//! Encryption: one machine, device and cross-signing identity for the bot and for each ghost that speaks.

mod bot;
mod devices;
mod history;
mod machine;
mod machines;
mod sealing;

pub use bot::{Deciphered, Unreadable};
pub use devices::Published;
pub use machine::Machine;
pub use machines::Machines;
pub(crate) use sealing::Failed;
pub use sealing::{Sealed, ToSeal};

use matrix_sdk_crypto::CryptoStoreError;

use crate::store::StoreError;

/// Why something of encryption did not work out.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// The crypto store failed.
    #[error("the crypto store failed: {0}")]
    Store(#[from] CryptoStoreError),
    /// A step of the protocol failed.
    #[error("a step of the encryption failed: {0}")]
    Olm(#[from] matrix_sdk_crypto::OlmError),
    /// A message could not be encrypted.
    #[error("a message could not be encrypted: {0}")]
    Megolm(#[from] matrix_sdk_crypto::MegolmError),
    /// The homeserver did not do its part.
    #[error(transparent)]
    Homeserver(#[from] crate::homeserver::HomeserverError),
    /// A file is not to be had, to be scanned or to be put away just now.
    #[error("a file cannot be looked at just now: {0}")]
    FileAway(#[from] crate::attachments::FileAway),
    /// The database did not do its part.
    #[error(transparent)]
    Database(#[from] StoreError),
    /// Something could not be written as JSON.
    #[error("something could not be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl CryptoError {
    /// Whether the cause lies outside and may pass by itself, or by an operator's hand: the homeserver, the database,
    /// the disk.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Homeserver(error) => error.is_passing(),
            Self::FileAway(_) => true,
            Self::Database(error) => error.may_pass(),
            Self::Store(error)
            | Self::Olm(matrix_sdk_crypto::OlmError::Store(error))
            | Self::Megolm(matrix_sdk_crypto::MegolmError::Store(error)) => match error {
                // Our own store's: one row that makes no sense stays so.
                CryptoStoreError::Backend(error) => {
                    error.downcast_ref::<StoreError>().is_none_or(StoreError::may_pass)
                }
                _ => true,
            },
            Self::Olm(_) | Self::Megolm(_) | Self::Json(_) => false,
        }
    }
}
