//! Copying a database while it is in use, and putting a copy in its place.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use parlour_domain::Timestamp;
use sqlx::{AnyConnection, Connection as _, any::install_default_drivers};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    DatabaseUrl, StoreError,
    database::{Claim, sqlite},
};

/// Why a database is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is none.
    #[error("there is no database at {0}")]
    NotThere(PathBuf),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// PostgreSQL's own program is not there, or cannot be run.
    #[error("`{0}` cannot be run ({1}); install PostgreSQL's client programs")]
    Program(&'static str, #[source] std::io::Error),
    /// PostgreSQL's own program did not do it.
    #[error("`{0}` failed: {1}")]
    Failed(&'static str, String),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CopyError {
    let path = path.to_owned();
    move |error| CopyError::File(path, error)
}

/// What SQLite may keep beside its file.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

impl DatabaseUrl {
    /// Whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Writes one consistent copy into `to`, which must not be there yet, while others work with the database.
    ///
    /// # Errors
    /// [`CopyError`], in one sentence.
    pub async fn copy_to(&self, to: &Path) -> Result<(), CopyError> {
        match self {
            Self::Sqlite(file) => {
                if !file.is_file() {
                    return Err(CopyError::NotThere(file.clone()));
                }
                let mut database = connection(&sqlite(file)).await?;
                sqlx::query("PRAGMA busy_timeout = 60000").execute(&mut database).await?;
                sqlx::query("VACUUM INTO $1")
                    .bind(to.to_string_lossy().into_owned())
                    .execute(&mut database)
                    .await?;
                database.close().await?;
            }
            Self::Postgres(url) => {
                let mut dump = postgres("pg_dump", url)?;
                dump.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]).arg(to);
                run("pg_dump", dump).await?;
            }
        }
        fs::set_permissions(to, fs::Permissions::from_mode(0o600)).map_err(at(to))?;
        fs::File::open(to).and_then(|file| file.sync_all()).map_err(at(to))
    }

    /// Puts a copy in the database's place, as Parlour's own with the mark that it comes from a backup: there is no moment
    /// at which it stands there without. A file that was there before stays beside it, with `suffix` after its name.
    ///
    /// # Errors
    /// [`CopyError`], in one sentence; [`StoreError::InUse`] while a Parlour works with it.
    pub async fn replace_with(
        &self,
        copy: &Path,
        suffix: &str,
        mark: Option<Timestamp>,
    ) -> Result<(), CopyError> {
        install_default_drivers();
        match self {
            Self::Sqlite(file) => {
                let _claim = Claim::of_file(file)?;
                let partial = file.with_added_extension("partial");
                fs::copy(copy, &partial).map_err(at(&partial))?;
                if let Some(now) = mark {
                    Self::Sqlite(partial.clone()).mark_restored(now).await?;
                }
                fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(at(&partial))?;
                // Whatever ends this half way leaves every file that was there under one of two names.
                for end in BESIDE.into_iter().chain([""]) {
                    let old = with_end(file, end);
                    if old.exists() {
                        fs::rename(&old, with_end(&old, suffix)).map_err(at(&old))?;
                    }
                }
                fs::rename(&partial, file).map_err(at(file))
            }
            Self::Postgres(url) => {
                let _claim = Claim::of_session(&url.parse().map_err(StoreError::from)?).await?;
                let mut script = postgres("pg_restore", url)?;
                script.args(["--clean", "--if-exists", "--no-owner", "--file", "-"]).arg(copy);
                let mut database = postgres("psql", url)?;
                database.args(["--no-psqlrc", "--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1"]);
                let mark = mark.map(|now| {
                    let mark = MARK.replace("$1", &now.millis().to_string());
                    // The script has left the path of schemas empty.
                    format!("SET search_path TO public;\n{UNMARK};\n{mark}")
                });
                piped(script, database, &mark.unwrap_or_default()).await
            }
        }
    }

    /// Writes down that the database comes from a backup: the next Parlour that opens it deals with that before it sends
    /// anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_restored(&self, at: Timestamp) -> Result<(), CopyError> {
        let url = match self {
            Self::Sqlite(file) => sqlite(file),
            Self::Postgres(url) => url.clone(),
        };
        let mut database = connection(&url).await?;
        sqlx::query(UNMARK).execute(&mut database).await?;
        sqlx::query(MARK).bind(at.millis()).execute(&mut database).await?;
        Ok(database.close().await?)
    }
}

const UNMARK: &str = "DELETE FROM incidents WHERE kind = 'restored'";
const MARK: &str = "INSERT INTO incidents (kind, at) VALUES ('restored', $1)";

/// Has `database` do what `script` writes, and `last` after it, all of it or nothing.
async fn piped(mut script: Command, mut database: Command, last: &str) -> Result<(), CopyError> {
    let failed = |program| move |error| CopyError::Program(program, error);
    let (from, to) = ("pg_restore", "psql");
    script.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    database.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut database = database.spawn().map_err(failed(to))?;
    let mut script = script.spawn().map_err(failed(from))?;
    if let (Some(mut words), Some(mut ear)) = (script.stdout.take(), database.stdin.take()) {
        // Where one of them ends early, its own words say why.
        let passed_on = tokio::io::copy(&mut words, &mut ear).await;
        drop(words);
        let written = script.wait_with_output().await.map_err(failed(from))?;
        if !written.status.success() {
            // At the end of its input the other would make true what has come so far.
            database.kill().await.map_err(failed(to))?;
            return Err(CopyError::Failed(from, first_line(&written.stderr)));
        }
        if passed_on.is_ok() {
            // Refused, it has said why, too.
            let _ = ear.write_all(format!("{last};\n").as_bytes()).await;
        }
    }
    let done = database.wait_with_output().await.map_err(failed(to))?;
    if done.status.success() { Ok(()) } else { Err(CopyError::Failed(to, first_line(&done.stderr))) }
}

fn first_line(words: &[u8]) -> String {
    String::from_utf8_lossy(words).lines().next().unwrap_or("no reason given").to_owned()
}

fn with_end(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

async fn connection(url: &str) -> Result<AnyConnection, sqlx::Error> {
    install_default_drivers();
    AnyConnection::connect(url).await
}

/// One of PostgreSQL's programs, told by its environment what it connects to: arguments can be read by everybody.
fn postgres(program: &'static str, url: &str) -> Result<Command, CopyError> {
    let url = url::Url::parse(url).map_err(|error| CopyError::Failed(program, error.to_string()))?;
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("PGDATABASE", decoded(url.path().trim_start_matches('/')));
    let parameter = |wanted: &str| {
        url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    for (name, value) in [
        ("PGSSLMODE", parameter("sslmode")),
        ("PGSSLROOTCERT", parameter("sslrootcert")),
        ("PGHOST", url.host_str().map(str::to_owned)),
        ("PGPORT", url.port().map(|port| port.to_string())),
        ("PGUSER", Some(decoded(url.username())).filter(|user| !user.is_empty())),
        ("PGPASSWORD", url.password().map(decoded)),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    Ok(command)
}

async fn run(program: &'static str, mut command: Command) -> Result<(), CopyError> {
    let output = command.output().await.map_err(|error| CopyError::Program(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CopyError::Failed(program, first_line(&output.stderr)))
}
