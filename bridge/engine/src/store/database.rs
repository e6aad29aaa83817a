//! Opening the database: SQLite in a file, or PostgreSQL; its schema brought up to date; kept for this process alone.

use std::{
    fmt,
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parlour_domain::{Chance, Timestamp};
use sqlx::{
    AnyConnection, AnyPool, ConnectOptions as _, Connection as _,
    any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers},
};
use tokio::sync::Mutex;

use super::{MasterKey, Store, StoreError, seal::Keyring, transaction::Transaction};
use crate::commit_point::{CommitPoint, through};

/// Which database: `sqlite:FILE`, or `postgres://USER:PASSWORD@HOST/DATABASE`. It may hold a password, and does not print
/// itself.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file of SQLite's.
    Sqlite(PathBuf),
    /// A PostgreSQL server's database.
    Postgres(String),
}

/// What stands there names no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a database is `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`")]
pub struct InvalidDatabaseUrl;

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            return if file.is_empty() { Err(InvalidDatabaseUrl) } else { Ok(Self::Sqlite(file.into())) };
        }
        let url = url::Url::parse(text).map_err(|_| InvalidDatabaseUrl)?;
        match url.scheme() {
            "postgres" | "postgresql" if url.has_host() => Ok(Self::Postgres(text.to_owned())),
            _ => Err(InvalidDatabaseUrl),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => f.debug_tuple("Sqlite").field(file).finish(),
            Self::Postgres(_) => f.write_str("Postgres(…)"),
        }
    }
}

/// A file of SQLite's, which is there.
pub(super) fn sqlite(file: &Path) -> String {
    let mut url = String::from("sqlite://");
    url.extend(url::form_urlencoded::byte_serialize(file.to_string_lossy().as_bytes()));
    // A path keeps its slashes; a space is no plus in it.
    format!("{}?mode=rw", url.replace("%2F", "/").replace('+', "%20"))
}

/// Which of the two it is, where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Sqlite,
    Postgres,
}

/// PostgreSQL lets writers run side by side; those whose rows stand in an order wait for each other here, until their
/// commit. The number is any that nothing else uses.
pub(super) const IN_ORDER: &str = "SELECT CAST(pg_advisory_xact_lock(8101115) AS TEXT)";
const KEEP: &str = "SELECT CASE WHEN pg_try_advisory_lock(8101116) THEN 1 ELSE 0 END";
const GIVE_UP: &str = "SELECT CASE WHEN pg_advisory_unlock(8101116) THEN 1 ELSE 0 END";
/// PostgreSQL needs a moment to notice that the process which had the database before has ended.
const MOMENTS: u32 = 50;
const MOMENT: Duration = Duration::from_millis(100);

const SQLITE: [&str; 5] = [
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    // What a statement sorts is not written to a file of its own.
    "PRAGMA temp_store = MEMORY",
];
// The default, which an operator may have changed, would let a commit that was told as done be lost.
const POSTGRES: [&str; 1] = ["SET synchronous_commit = on"];

impl Backend {
    /// How a transaction that writes begins: in SQLite with the one write lock, in PostgreSQL with a share in the database.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // As long as it lasts, nobody takes the database away.
            Self::Postgres => "BEGIN; SELECT pg_advisory_xact_lock_shared(8101117)",
        }
    }

    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &SQLITE,
            Self::Postgres => &POSTGRES,
        }
    }
}

/// What keeps other processes out for as long as it is held: a locked file beside SQLite's, a session's lock in
/// PostgreSQL. Two processes with the same Olm machines would use the same keys twice.
///
/// A session can be cut off without our doing, and its lock is then anybody's. So whoever takes it counts `ownership` on,
/// and every writing transaction holds its number against that one: what was lost is noticed before anything is written.
pub(super) enum Claim {
    File(File),
    Session { options: AnyConnectOptions, connection: Mutex<Option<AnyConnection>>, epoch: AtomicI64 },
}

const OWNED: &str = "SELECT epoch FROM ownership WHERE one = 1 AND epoch = $1";
const ALONE: &str = "BEGIN; SELECT pg_advisory_xact_lock(8101117)";
const TAKE_AGAIN: &str =
    "UPDATE ownership SET epoch = epoch + 1 WHERE one = 1 AND epoch = $1 RETURNING epoch";
const TAKE: &str = "UPDATE ownership SET epoch = epoch + 1 WHERE one = 1 RETURNING epoch";

impl Claim {
    pub(super) fn of_file(database: &Path) -> Result<Self, StoreError> {
        let mut options = File::options();
        options.append(true).create(true).mode(0o600);
        let file = options.open(database.with_added_extension("lock")).map_err(StoreError::Claim)?;
        match file.try_lock() {
            Ok(()) => Ok(Self::File(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse),
            Err(std::fs::TryLockError::Error(error)) => Err(StoreError::Claim(error)),
        }
    }

    pub(super) async fn of_session(options: &AnyConnectOptions) -> Result<Self, StoreError> {
        let connection = Mutex::new(Some(locked(options).await?));
        Ok(Self::Session { options: options.clone(), connection, epoch: AtomicI64::new(0) })
    }

    /// Counts on, so that whoever had the database before writes no more.
    async fn take(&self, pool: &AnyPool) -> Result<(), StoreError> {
        if let Self::Session { epoch, .. } = self {
            // What others have begun ends first; what they begin afterwards finds the new number.
            let mut tx = Transaction::begin(pool, ALONE).await?;
            let (taken,): (i64,) = sqlx::query_as(TAKE).fetch_one(&mut *tx).await?;
            through(CommitPoint::DatabaseTaken, tx.commit()).await?;
            epoch.store(taken, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts on where nobody else has meanwhile. What this process has in its memory is older than the database otherwise,
    /// its Olm machines above all: then it is over for it.
    async fn take_again(&self, pool: &AnyPool) -> Result<(), StoreError> {
        let Self::Session { epoch, .. } = self else { return Ok(()) };
        let mut tx = Transaction::begin(pool, ALONE).await?;
        let taken: Option<(i64,)> =
            sqlx::query_as(TAKE_AGAIN).bind(epoch.load(Ordering::Relaxed)).fetch_optional(&mut *tx).await?;
        let (taken,) = taken.ok_or(StoreError::Taken)?;
        through(CommitPoint::DatabaseTaken, tx.commit()).await?;
        epoch.store(taken, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the database is still ours, for the length of a transaction.
    pub(super) async fn hold(&self, tx: &mut Transaction) -> Result<(), StoreError> {
        let Self::Session { epoch, .. } = self else { return Ok(()) };
        let found: Option<(i64,)> =
            sqlx::query_as(OWNED).bind(epoch.load(Ordering::Relaxed)).fetch_optional(&mut **tx).await?;
        found.map(drop).ok_or(StoreError::InUse)
    }

    /// Takes the database again where the session was cut off.
    async fn keep(&self, pool: &AnyPool) -> Result<(), StoreError> {
        let Self::Session { options, connection, .. } = self else { return Ok(()) };
        let mut connection = connection.lock().await;
        let lives = match &mut *connection {
            Some(connection) => connection.ping().await.is_ok(),
            None => false,
        };
        if lives {
            return Ok(());
        }
        *connection = None;
        let fresh = locked(options).await?;
        self.take_again(pool).await?;
        *connection = Some(fresh);
        Ok(())
    }

    pub(super) async fn give_up(&self) {
        match self {
            // It ends with the process at the latest.
            Self::File(file) => drop(file.unlock()),
            Self::Session { connection, .. } => {
                if let Some(mut connection) = connection.lock().await.take() {
                    // Cut off, it ends as well.
                    let _ = sqlx::query(GIVE_UP).execute(&mut connection).await;
                    let _ = connection.close().await;
                }
            }
        }
    }
}

/// A connection whose session has the lock.
async fn locked(options: &AnyConnectOptions) -> Result<AnyConnection, StoreError> {
    let mut connection: AnyConnection = options.connect().await?;
    for _ in 0..MOMENTS {
        let (kept,): (i32,) = sqlx::query_as(KEEP).fetch_one(&mut connection).await?;
        if kept == 1 {
            return Ok(connection);
        }
        tokio::time::sleep(MOMENT).await;
    }
    Err(StoreError::InUse)
}

impl Store {
    /// Opens a database, makes it when it is not there, brings its schema up to date, and keeps it for this process.
    ///
    /// # Errors
    /// When it cannot be opened or written, another process has it, or the master key is not its own.
    pub async fn open(
        url: &DatabaseUrl,
        master: &MasterKey,
        chance: Arc<dyn Chance>,
    ) -> Result<Self, StoreError> {
        install_default_drivers();
        let (backend, address, size) = match url {
            DatabaseUrl::Sqlite(file) => {
                // For its owner alone, wherever it lies.
                let mut options = File::options();
                options.append(true).create(true).mode(0o600).open(file).map_err(StoreError::Claim)?;
                (Backend::Sqlite, sqlite(file), 4)
            }
            DatabaseUrl::Postgres(address) => (Backend::Postgres, address.clone(), 8),
        };
        let options: AnyConnectOptions = address.parse()?;
        let claim = match url {
            DatabaseUrl::Sqlite(file) => Claim::of_file(file)?,
            DatabaseUrl::Postgres(_) => Claim::of_session(&options).await?,
        };
        let pool = AnyPoolOptions::new()
            .max_connections(size)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for setting in backend.settings() {
                        sqlx::query(*setting).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        sqlx::migrate!("../../migrations/common").run(&pool).await?;
        claim.take(&pool).await?;
        let keys = open_keyring(&pool, backend, master, chance).await?;
        let claim = Arc::new(claim);
        Ok(Self {
            pool,
            backend,
            keys,
            claim,
            remembered: Default::default(),
            taken_back: Default::default(),
        })
    }

    /// Sees to it that the database is this process's, also after it was away.
    ///
    /// # Errors
    /// When it does not answer; [`StoreError::InUse`] when another process has taken it.
    pub async fn keep_for_us(&self) -> Result<(), StoreError> {
        self.claim.keep(&self.pool).await
    }

    /// Whether the database takes anything: something is written that matters to nobody.
    ///
    /// # Errors
    /// When it does not: away, or its disk is full.
    pub async fn takes(&self, at: Timestamp) -> Result<(), StoreError> {
        let probe = "INSERT INTO settings (name, value) VALUES ('probe', $1)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let probe = sqlx::query(probe).bind(at.millis().to_be_bytes().to_vec());
        self.alone(CommitPoint::Probed, probe).await.map(drop)
    }
}

async fn open_keyring(
    pool: &AnyPool,
    backend: Backend,
    master: &MasterKey,
    chance: Arc<dyn Chance>,
) -> Result<Keyring, StoreError> {
    let mut tx = Transaction::begin(pool, backend.begin()).await?;
    let keys = Keyring::open(&mut tx, master, chance).await?;
    through(CommitPoint::SettingKept, tx.commit()).await?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_by_its_url_which_does_not_print() {
        for (text, wanted) in [
            ("sqlite:parlour.db", Ok(DatabaseUrl::Sqlite("parlour.db".into()))),
            ("sqlite:///var/parlour.db", Ok(DatabaseUrl::Sqlite("/var/parlour.db".into()))),
            (
                "postgres://u:secret@localhost/p",
                Ok(DatabaseUrl::Postgres("postgres://u:secret@localhost/p".into())),
            ),
            ("sqlite:", Err(InvalidDatabaseUrl)),
            ("mysql://localhost/p", Err(InvalidDatabaseUrl)),
            ("parlour.db", Err(InvalidDatabaseUrl)),
        ] {
            let found: Result<DatabaseUrl, _> = text.parse();
            assert_eq!(found, wanted, "{text}");
            assert!(!format!("{found:?}").contains("secret"));
        }
    }

    #[test]
    fn a_files_url_survives_odd_names() {
        assert_eq!(sqlite(Path::new("/a b/c?d+e/p.db")), "sqlite:///a%20b/c%3Fd%2Be/p.db?mode=rw");
    }
}
