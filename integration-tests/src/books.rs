//! A look into Parlour's database from outside: how much stands in its queues, and how many commits it has seen by the
//! database's own account.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, any::install_default_drivers};
use tokio::time::{Instant, sleep};

use crate::LIMIT;

/// Parlour's database. SQLite's file is opened anew for each look: another may stand in its place.
pub struct Books {
    url: String,
    /// SQLite's file.
    file: Option<PathBuf>,
    /// PostgreSQL's server begins a process for each connection, which is more work than the look: one is kept.
    kept: Mutex<Option<AnyConnection>>,
}

/// What stands in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Events that ever came.
    pub events: i64,
    /// Events that wait to be handled.
    pub events_waiting: i64,
    /// Legs that ever were.
    pub legs: i64,
    /// Legs that do not stand in their rooms.
    pub legs_waiting: i64,
}

/// The database's own count of commits that wrote something; two of one kind can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// Commit frames in the write-ahead log, and the salts that name this turn of the log.
    Log {
        /// Changed whenever the log begins anew.
        salts: [u8; 8],
        /// How many.
        frames: i64,
    },
    /// The next transaction id of the PostgreSQL server.
    NextId(i64),
}

impl Commits {
    /// How many commits lie between two counts; none when the log has begun anew in between.
    pub fn since(self, before: Self) -> Option<i64> {
        match (before, self) {
            (Self::Log { salts: a, frames: before }, Self::Log { salts: b, frames }) => {
                (a == b).then_some(frames - before)
            }
            (Self::NextId(before), Self::NextId(now)) => Some(now - before),
            _ => None,
        }
    }
}

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// For how long nothing more happens when everything is done.
const STILL: Duration = Duration::from_millis(400);
const STANDING: &str = "SELECT CAST((SELECT COUNT(*) FROM inbox) AS BIGINT),
        CAST((SELECT COUNT(*) FROM inbox WHERE state = 'waiting') AS BIGINT),
        CAST((SELECT COUNT(*) FROM outbox) AS BIGINT),
        CAST((SELECT COUNT(*) FROM outbox WHERE state <> 'sent') AS BIGINT)";
/// The next id: as long as no other transaction runs, one more than the last that was given.
const NEXT_ID: &str = "SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)";
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

impl Books {
    /// The database of a `Trial` whose data lie in this folder: PostgreSQL's at this URL, or else the file in it.
    pub fn of(data: &std::path::Path, postgres: Option<&str>) -> Self {
        install_default_drivers();
        match postgres {
            Some(url) => Self { url: url.to_owned(), file: None, kept: Mutex::default() },
            None => {
                let file = data.join("parlour").join("parlour.db");
                let url = format!("sqlite://{}?mode=rw", file.display());
                Self { url, file: Some(file), kept: Mutex::default() }
            }
        }
    }

    /// Which database it is.
    pub fn name(&self) -> &'static str {
        if self.file.is_some() { "SQLite" } else { "PostgreSQL" }
    }

    async fn opened(&self, url: &str) -> Result<AnyConnection, sqlx::Error> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut kept) = kept
            && kept.ping().await.is_ok()
        {
            return Ok(kept);
        }
        AnyConnection::connect(url).await
    }

    async fn close(&self, connection: AnyConnection) -> Result<(), sqlx::Error> {
        if self.file.is_some() {
            return connection.close().await;
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    /// What stands in the queues; none while the database is busy or away.
    pub async fn standing(&self) -> Option<Standing> {
        let url = self.url.replace("mode=rw", "mode=ro");
        let mut connection = self.opened(&url).await.ok()?;
        let found = sqlx::query_as(STANDING).fetch_one(&mut connection).await;
        let closed = self.close(connection).await;
        let (events, events_waiting, legs, legs_waiting) = found.ok()?;
        closed.ok().map(|()| Standing { events, events_waiting, legs, legs_waiting })
    }

    /// Waits until nothing is to be done and nothing has happened for a while; no event tells of that.
    pub async fn still(&self) -> (Standing, Commits) {
        let deadline = Instant::now() + LIMIT;
        let (mut since, mut last) = (Instant::now(), None);
        loop {
            let now = self.standing().await.zip(Some(self.commits().await));
            if now != last {
                (since, last) = (Instant::now(), now);
            }
            if let Some((standing, commits)) = last
                && standing.events_waiting == 0
                && standing.legs_waiting == 0
                && since.elapsed() > STILL
            {
                return (standing, commits);
            }
            assert!(Instant::now() < deadline, "nothing comes to rest: {last:?}");
            sleep(LOOK).await;
        }
    }

    /// How many commits there were.
    pub async fn commits(&self) -> Commits {
        let Some(file) = &self.file else {
            let mut connection = self.opened(&self.url).await.expect("PostgreSQL");
            let (id,): (i64,) = sqlx::query_as(NEXT_ID).fetch_one(&mut connection).await.expect("an id");
            self.close(connection).await.expect("closed");
            return Commits::NextId(id);
        };
        let mut log = file.clone().into_os_string();
        log.push("-wal");
        frames_in(&std::fs::read(log).expect("a write-ahead log"))
    }

    /// Changes something in the database; how many rows.
    pub async fn change(&self, sql: &str) -> u64 {
        let mut connection = self.opened(&self.url).await.expect("the database");
        let changed = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .expect("changed")
            .rows_affected();
        self.close(connection).await.expect("closed");
        changed
    }

    /// A number that the database is asked for.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.opened(&self.url).await.expect("the database");
        let (number,) =
            sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.expect("a number");
        self.close(connection).await.expect("closed");
        number
    }

    /// Waits until the database has a number; nothing tells of that.
    ///
    /// # Errors
    /// The number that it has instead, after a while.
    pub async fn comes_to(&self, sql: &str, wanted: i64) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let number = self.number(sql).await;
            if number == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{sql}: {number} instead of {wanted}"));
            }
            sleep(LOOK).await;
        }
    }

    /// While Parlour is down: has all ghosts forget with which sessions they wrote to whom, so that the next message
    /// goes by new ones. The bot, whom people's sessions are for, is the one that knows most sessions.
    pub async fn forget_sessions(&self) {
        let mut connection = self.opened(&self.url).await.expect("the database");
        let forget =
            "DELETE FROM machine_values WHERE kind IN ('olm-session', 'outbound-session') AND machine <>
                 (SELECT machine FROM machine_inbound_sessions GROUP BY machine ORDER BY COUNT(*) DESC LIMIT 1)";
        sqlx::query(forget).execute(&mut connection).await.expect("forgotten");
        self.close(connection).await.expect("closed");
    }
}

/// The commit frames of a write-ahead log (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>): those of its
/// present turn carry the salts of its header, and a commit's last frame the size of the database.
fn frames_in(log: &[u8]) -> Commits {
    let bytes = |from: usize| -> [u8; 4] { log[from..from + 4].try_into().expect("four bytes") };
    if log.len() < LOG_HEADER {
        return Commits::Log { salts: [0; 8], frames: 0 };
    }
    let page = u32::from_be_bytes(bytes(8)) as usize;
    let salts: [u8; 8] = log[16..24].try_into().expect("eight bytes");
    let frames =
        log[LOG_HEADER..].chunks_exact(FRAME_HEADER + page).take_while(|frame| frame[8..16] == salts);
    let commits = frames.filter(|frame| frame[4..8] != [0; 4]).count();
    Commits::Log { salts, frames: i64::try_from(commits).expect("not so many") }
}
