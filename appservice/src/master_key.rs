//! The master key: from its variable, or from a file that only its owner can read, made at the first start.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use parlour_domain::Chance;
use parlour_engine::{InvalidMasterKey, MasterKey};

use crate::config::Config;

/// Why there is no master key to work with.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The variable holds something else.
    #[error("PARLOUR__MASTER_KEY cannot be used: {0}")]
    Variable(InvalidMasterKey),
    /// The file holds something else.
    #[error(
        "the master key file {0} cannot be used: {1}; bring back the one that was made with the database"
    )]
    Content(PathBuf, InvalidMasterKey),
    /// Others can read the file.
    #[error("the master key file {0} can be read by others; run `chmod 600` on it")]
    Open(PathBuf),
    /// The file cannot be read or written.
    #[error("the master key file {0} cannot be used: {1}")]
    File(PathBuf, std::io::Error),
    /// The database is there, and its key is not.
    #[error(
        "the master key file {0} is not there, and without it nothing in the database can be read; bring it back"
    )]
    Missing(PathBuf),
}

/// A master key, and whether it was made just now.
pub(crate) struct Found {
    pub(crate) key: MasterKey,
    made: Option<PathBuf>,
}

impl Found {
    /// Finds the key, or makes one where there is none yet.
    ///
    /// # Errors
    /// [`MasterKeyError`], in one sentence.
    pub(crate) fn or_made(config: &Config, chance: &dyn Chance) -> Result<Self, MasterKeyError> {
        if let Some(secret) = &config.master_key {
            let key = MasterKey::from_hex(secret.reveal()).map_err(MasterKeyError::Variable)?;
            return Ok(Self { key, made: None });
        }
        let file = &config.master_key_file;
        let failed = |error| MasterKeyError::File(file.clone(), error);
        match read(file) {
            Ok(key) => Ok(Self { key, made: None }),
            Err(MasterKeyError::File(_, error)) if error.kind() == ErrorKind::NotFound => {
                let key = MasterKey::fresh(chance);
                write(file, &key).map_err(failed)?;
                Ok(Self { key, made: Some(file.clone()) })
            }
            Err(error) => Err(error),
        }
    }

    /// It does not open the database. One that was made for it just now goes again: the right one is missing.
    pub(crate) fn is_wrong(&self) -> Option<MasterKeyError> {
        let file = self.made.clone()?;
        // If it stays, the next start says that it does not fit.
        let _ = fs::remove_file(&file);
        Some(MasterKeyError::Missing(file))
    }
}

/// Reads a key's file.
///
/// # Errors
/// [`MasterKeyError`], in one sentence.
pub fn read(file: &Path) -> Result<MasterKey, MasterKeyError> {
    let failed = |error| MasterKeyError::File(file.to_owned(), error);
    let mode = fs::metadata(file).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(MasterKeyError::Open(file.to_owned()));
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(file).map_err(failed)?);
    MasterKey::from_hex(&text).map_err(|invalid| MasterKeyError::Content(file.to_owned(), invalid))
}

/// Writes a key's file, whole and on the disk before anything is sealed with it.
fn write(file: &Path, key: &MasterKey) -> std::io::Result<()> {
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(key.to_hex().as_bytes())?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
