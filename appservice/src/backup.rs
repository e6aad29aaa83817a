//! `parlour backup` and `parlour restore`: everything that a practice needs to go on elsewhere, in one folder, without the
//! master key.
//!
//! Parlour's database is copied first and the homeserver's after it, so that whatever Parlour's copy knows of stands in the
//! homeserver's. What is only in the latter is read back from the rooms after a restore.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use parlour_domain::{Clock as _, Timestamp};
use parlour_engine::{CopyError, DatabaseUrl};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{config::Config, edge::SystemClock, master_key};

/// Why there is no backup, or it is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The configuration does not say where the homeserver keeps its things.
    #[error("the configuration does not say `backup.{0}`, which a backup must hold; add it and try again")]
    NotSaid(&'static str),
    /// The folder for the backup is there already.
    #[error("{0} is there already; name a folder that is not")]
    Occupied(PathBuf),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] io::Error),
    /// A database cannot be copied.
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// The folder holds no backup that this Parlour can read.
    #[error("{0} holds no backup of Parlour's, or it is not complete")]
    NoBackup(PathBuf),
    /// A file of the backup is not as it was made.
    #[error("the backup is damaged: {0} is not as it was made; take another backup")]
    Damaged(String),
    /// The backup is of other databases than the configuration's.
    #[error("the backup was made of a {0} database and the configuration names another kind; use the same")]
    OtherKind(&'static str),
    /// The homeserver runs.
    #[error("the homeserver answers at {0}; stop it, and start it again after this")]
    HomeserverRuns(String),
    /// The homeserver's address makes no sense.
    #[error("homeserver.url cannot be used: {0}")]
    Homeserver(#[from] parlour_engine::HomeserverError),
    /// There is no master key.
    #[error("{0}; put the master key in its place first, for it is not in the backup")]
    MasterKey(#[from] master_key::MasterKeyError),
}

const MANIFEST: &str = "backup.json";
const PARLOUR: &str = "parlour.database";
const HOMESERVER: &str = "homeserver.database";
const SIGNING_KEY: &str = "homeserver.signing.key";
const MEDIA: &str = "homeserver.media";

/// What a backup holds, written last: a folder without it is no backup.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// When, in milliseconds since the Unix epoch.
    made_at: i64,
    /// By which Parlour.
    version: String,
    /// Whether Parlour's database is SQLite's.
    parlour_sqlite: bool,
    /// Whether the homeserver's is.
    homeserver_sqlite: bool,
    /// Every file with its SHA-256.
    files: Vec<(String, String)>,
}

/// Where the homeserver keeps what belongs into a backup.
struct Homeserver<'a> {
    database: &'a DatabaseUrl,
    media: &'a Path,
    signing_key: &'a Path,
}

impl<'a> Homeserver<'a> {
    fn of(config: &'a Config) -> Result<Self, BackupError> {
        let backup = &config.backup;
        let said = |name| BackupError::NotSaid(name);
        Ok(Self {
            database: backup
                .homeserver_database_url
                .as_ref()
                .ok_or_else(|| said("homeserver_database_url"))?,
            media: backup.homeserver_media.as_deref().ok_or_else(|| said("homeserver_media"))?,
            signing_key: backup
                .homeserver_signing_key
                .as_deref()
                .ok_or_else(|| said("homeserver_signing_key"))?,
        })
    }
}

/// Makes one consistent copy of everything in a new folder, while both run. `tell` hears of each step.
///
/// # Errors
/// [`BackupError`], in one sentence. What was begun is then left beside, with `.partial` after its name.
pub async fn backup(config: &Config, to: &Path, tell: &dyn Fn(&str)) -> Result<(), BackupError> {
    let homeserver = Homeserver::of(config)?;
    let now = SystemClock.now();
    if to.exists() {
        return Err(BackupError::Occupied(to.to_owned()));
    }
    let partial = to.with_added_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(at(&partial))?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&partial).map_err(at(&partial))?;
    let copy = partial.join(PARLOUR);
    config.database().copy_to(&copy).await?;
    if config.database().is_file() {
        // Whoever puts this copy in place by hand has restored a backup, too.
        DatabaseUrl::Sqlite(copy.clone()).mark_restored(now).await?;
    }
    tell(&format!("Copied Parlour's database: {}.", size(&copy)));
    let copy = partial.join(HOMESERVER);
    homeserver.database.copy_to(&copy).await?;
    tell(&format!("Copied the homeserver's database: {}.", size(&copy)));
    let key = partial.join(SIGNING_KEY);
    fs::copy(homeserver.signing_key, &key).map_err(at(homeserver.signing_key))?;
    let media = partial.join(MEDIA);
    let count = copy_folder(homeserver.media, &media)?;
    tell(&format!("Copied the homeserver's signing key and media: {count} files."));
    let manifest = Manifest {
        made_at: now.millis(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        parlour_sqlite: config.database().is_file(),
        homeserver_sqlite: homeserver.database.is_file(),
        files: digests(&partial)?,
    };
    let file = partial.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| BackupError::File(file.clone(), e.into()))?;
    fs::write(&file, text).and_then(|()| File::open(&file)?.sync_all()).map_err(at(&file))?;
    fs::rename(&partial, to).map_err(at(to))?;
    tell(&format!("The backup is in {}. The master key is not in it: keep that apart.", to.display()));
    Ok(())
}

/// Puts a backup in the place of what is there, which stays beside it under another name. Homeserver and Parlour must be
/// stopped. The next start gives every device anew and reads the rooms back before it sends anything.
///
/// # Errors
/// [`BackupError`], in one sentence.
pub async fn restore(config: &Config, from: &Path, tell: &dyn Fn(&str)) -> Result<(), BackupError> {
    let homeserver = Homeserver::of(config)?;
    let now: Timestamp = SystemClock.now();
    let no_backup = || BackupError::NoBackup(from.to_owned());
    let text = fs::read(from.join(MANIFEST)).map_err(|_| no_backup())?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| no_backup())?;
    for (url, sqlite) in
        [(&config.database(), manifest.parlour_sqlite), (homeserver.database, manifest.homeserver_sqlite)]
    {
        if url.is_file() != sqlite {
            return Err(BackupError::OtherKind(if sqlite { "SQLite" } else { "PostgreSQL" }));
        }
    }
    for (name, digest) in &manifest.files {
        if digest_of(&from.join(name)).ok().as_ref() != Some(digest) {
            return Err(BackupError::Damaged(name.clone()));
        }
    }
    tell(&format!("The backup is whole: {} files.", manifest.files.len()));
    if config.master_key.is_none() {
        master_key::read(&config.master_key_file)?;
    }
    let there = parlour_engine::Homeserver::new(&config.homeserver.url, config.homeserver.as_token.clone());
    if there?.answers().await {
        return Err(BackupError::HomeserverRuns(config.homeserver.url.clone()));
    }
    let suffix = format!(".before-restore-{}", now.millis());
    fs::create_dir_all(&config.data).map_err(at(&config.data))?;
    config.database().replace_with(&from.join(PARLOUR), &suffix, Some(now)).await?;
    tell("Parlour's database is in its place.");
    homeserver.database.replace_with(&from.join(HOMESERVER), &suffix, None).await?;
    tell("The homeserver's database is in its place.");
    for path in [homeserver.media, homeserver.signing_key] {
        if path.exists() {
            let mut kept = path.as_os_str().to_owned();
            kept.push(&suffix);
            fs::rename(path, &kept).map_err(at(path))?;
        }
    }
    copy_folder(&from.join(MEDIA), homeserver.media)?;
    fs::copy(from.join(SIGNING_KEY), homeserver.signing_key).map_err(at(homeserver.signing_key))?;
    tell("The homeserver's signing key and media are in their place.");
    tell("Start the homeserver, then Parlour. What was there before has `.before-restore` in its name.");
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::File(path, error)
}

fn size(file: &Path) -> String {
    let bytes = fs::metadata(file).map_or(0, |data| data.len());
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

/// Copies a folder with all that is in it; how many files that is. One that is not there is empty.
fn copy_folder(from: &Path, to: &Path) -> Result<usize, BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(at(to))?;
    if !from.exists() {
        return Ok(0);
    }
    let mut count = 0;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            count += copy_folder(&source, &target)?;
        } else {
            match fs::copy(&source, &target) {
                Ok(_) => count += 1,
                // The homeserver has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&source)(error)),
            }
        }
    }
    Ok(count)
}

/// Every file of a folder, by its path within it, with its SHA-256.
fn digests(folder: &Path) -> Result<Vec<(String, String)>, BackupError> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(at(&next))? {
            let path = entry.map_err(at(&next))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((name, digest_of(&path).map_err(at(&path))?));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn digest_of(file: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
