//! Saving: what one save holds is pickled, sealed, and committed at once; after a save that failed none follows.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::Entry},
    fmt::Write as _,
};

use sqlx::AssertSqlSafe;
use tokio::sync::MutexGuard;

use super::{
    MachineStore, ahead,
    remembered::Change,
    rows::{Kind, Row},
};
use crate::{
    commit_point::CommitPoint,
    store::{Statement, StoreError, transaction::Transaction},
};

const PUT: &str =
    "INSERT INTO machine_values (machine, kind, parent, name, value) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (machine, kind, parent, name) DO UPDATE SET value = excluded.value";
const REMOVE: &str =
    "DELETE FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = $3 AND name = $4";
const REMOVE_UNDER: &str = "DELETE FROM machine_values WHERE machine = $1 AND kind = $2 AND parent = $3";
const REMOVE_KIND: &str = "DELETE FROM machine_values WHERE machine = $1 AND kind = $2";
const PUT_SESSION: &str = "INSERT INTO machine_inbound_sessions
         (machine, room, session, sender_key, sender_data, value, backed_up_to) VALUES ($1, $2, $3, $4, $5, $6, $7)
     ON CONFLICT (machine, room, session) DO UPDATE SET sender_key = excluded.sender_key,
         sender_data = excluded.sender_data, value = excluded.value, backed_up_to = excluded.backed_up_to";
const PUT_SESSION_BACKED_UP_AS_BEFORE: &str = "INSERT INTO machine_inbound_sessions
         (machine, room, session, sender_key, sender_data, value) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (machine, room, session) DO UPDATE SET sender_key = excluded.sender_key,
         sender_data = excluded.sender_data, value = excluded.value";
const BACKED_UP: &str =
    "UPDATE machine_inbound_sessions SET backed_up_to = $4 WHERE machine = $1 AND room = $2 AND session = $3";

/// One row written.
pub(super) enum Write {
    /// A value, sealed.
    Put(Row, Vec<u8>),
    /// A value is gone.
    Remove(Row),
    /// All of a kind under this parent are gone.
    RemoveUnder(Kind, String),
    /// All of a kind are gone.
    RemoveKind(Kind),
    /// A session to decrypt with.
    PutSession {
        room: String,
        session: String,
        sender_key: String,
        sender_data: i64,
        backup: Backup,
        sealed: Vec<u8>,
    },
    /// A session stands in a backup.
    BackedUp { room: String, session: String, version: String },
}

/// Whether a session stands in a backup.
pub(super) enum Backup {
    /// In this version.
    In(String),
    /// In none, or only a worse form of it.
    Nowhere,
    /// As the row says.
    AsBefore,
}

impl Write {
    /// What changes with it of what is remembered.
    fn changes(&self) -> Vec<Change> {
        match self {
            Self::Put(row, _) | Self::Remove(row) => ahead::changed_by(row.kind, &row.parent, &row.name),
            Self::RemoveUnder(kind, parent) => ahead::changed_under(*kind, parent),
            Self::RemoveKind(kind) => ahead::changed_of(*kind),
            Self::PutSession { room, session, sender_key, .. } => {
                vec![Change::Answer(ahead::session(room, session)), Change::Answer(ahead::sender(sender_key))]
            }
            Self::BackedUp { .. } => Vec::new(),
        }
    }

    pub(super) fn statement(&self, machine: &str) -> Statement<'_> {
        match self {
            Self::Put(row, sealed) => {
                sqlx::query(PUT).bind(machine).bind(row.kind.0).bind(&row.parent).bind(&row.name).bind(sealed)
            }
            Self::Remove(row) => {
                sqlx::query(REMOVE).bind(machine).bind(row.kind.0).bind(&row.parent).bind(&row.name)
            }
            Self::RemoveUnder(kind, parent) => {
                sqlx::query(REMOVE_UNDER).bind(machine).bind(kind.0).bind(parent)
            }
            Self::RemoveKind(kind) => sqlx::query(REMOVE_KIND).bind(machine).bind(kind.0),
            Self::PutSession { room, session, sender_key, sender_data, backup, sealed } => {
                let (sql, version) = match backup {
                    Backup::In(version) => (PUT_SESSION, Some(Some(version))),
                    Backup::Nowhere => (PUT_SESSION, Some(None)),
                    Backup::AsBefore => (PUT_SESSION_BACKED_UP_AS_BEFORE, None),
                };
                let statement = sqlx::query(sql)
                    .bind(machine)
                    .bind(room)
                    .bind(session)
                    .bind(sender_key)
                    .bind(*sender_data)
                    .bind(sealed);
                match version {
                    Some(version) => statement.bind(version.cloned()),
                    None => statement,
                }
            }
            Self::BackedUp { room, session, version } => {
                sqlx::query(BACKED_UP).bind(machine).bind(room).bind(session).bind(version)
            }
        }
    }
}

/// How what is saved stands to what the machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything that the machine wanted to be saved is.
    Whole,
    /// What is saved is gathered for one commit.
    Gathering,
    /// A save did not come to its end. The machine's memory is ahead of the database: it believes a room key to be
    /// shared or an Olm message to be read that are not. Whatever was saved now would hide that, so nothing is.
    Behind,
}

/// What is gathered for one commit, within the task that gathers.
struct Gathered {
    machine: String,
    writes: RefCell<Vec<Write>>,
    misread: Cell<bool>,
}

tokio::task_local! {
    static GATHERED: Gathered;
}

/// A save under way: no other is prepared beside it, so that none with an older state of a session comes after one
/// with a newer.
pub(super) struct Save<'a> {
    standing: MutexGuard<'a, Standing>,
    gathers: bool,
}

impl MachineStore {
    /// Does something with the machine, and commits everything that it saves meanwhile at once. It is what makes
    /// `OlmMachine::receive_sync_changes` safe, which saves a new Olm session before the room key that came with it:
    /// a process that ends between the two finds, when the message is delivered again, that it has been read, and has
    /// lost the room key. And it takes a message as unreadable, without an error, when the database fails meanwhile:
    /// here that is an error.
    ///
    /// Nobody else may use the machine meanwhile. While it lasts, reading finds only what was committed before; the
    /// machine remembers the sessions and the account itself. After an error the machine must be opened anew.
    ///
    /// # Errors
    /// Those of `work`; or the database fails; or somebody else did use the machine. Then nothing is saved.
    pub async fn in_one_commit<T, E: From<StoreError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        drop(self.change(Standing::Whole, Standing::Gathering).await?);
        let gathered =
            Gathered { machine: self.machine.clone(), writes: RefCell::default(), misread: Cell::default() };
        let work = async {
            let outcome = work.await;
            (outcome, GATHERED.with(|gathered| (gathered.writes.take(), gathered.misread.get())))
        };
        let (outcome, (writes, misread)) = GATHERED.scope(gathered, work).await;
        let mut standing = self.change(Standing::Gathering, Standing::Behind).await?;
        let value = outcome?;
        if misread {
            return Err(StoreError::MachineBehind.into());
        }
        self.commit(&writes, CommitPoint::MachineSaved).await?;
        *standing = Standing::Whole;
        Ok(value)
    }

    /// Remembers that reading failed, when everything is to be one commit: the machine may pass over it.
    pub(super) fn noted<T>(read: Result<T, StoreError>) -> Result<T, StoreError> {
        if read.is_err() {
            // Outside of such a commit there is nobody to remember it for.
            let _ = GATHERED.try_with(|gathered| gathered.misread.set(true));
        }
        read
    }

    async fn change(&self, from: Standing, to: Standing) -> Result<MutexGuard<'_, Standing>, StoreError> {
        let mut standing = self.standing.lock().await;
        if *standing != from {
            *standing = Standing::Behind;
            return Err(StoreError::MachineBehind);
        }
        *standing = to;
        Ok(standing)
    }

    /// Begins a save, before anything is pickled.
    pub(super) async fn begin_save(&self) -> Result<Save<'_>, StoreError> {
        let gathers = GATHERED.try_with(|gathered| gathered.machine == self.machine).unwrap_or(false);
        let from = if gathers { Standing::Gathering } else { Standing::Whole };
        // Until its end, also when this future is dropped before.
        let standing = self.change(from, Standing::Behind).await?;
        Ok(Save { standing, gathers })
    }

    /// Ends a save: one commit, or none when there is nothing in it.
    pub(super) async fn end_save(&self, mut save: Save<'_>, writes: Vec<Write>) -> Result<(), StoreError> {
        if save.gathers {
            GATHERED.with(|gathered| gathered.writes.borrow_mut().extend(writes));
            *save.standing = Standing::Gathering;
        } else {
            self.commit(&writes, CommitPoint::MachineSaved).await?;
            *save.standing = Standing::Whole;
        }
        Ok(())
    }

    /// A save of one row.
    pub(super) async fn save(&self, write: Write) -> Result<(), StoreError> {
        let save = self.begin_save().await?;
        self.end_save(save, vec![write]).await
    }

    pub(super) async fn commit(&self, writes: &[Write], point: CommitPoint) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = writes.iter().flat_map(Write::changes).collect();
        let mut tx = self.store.begin_unordered().await?;
        for step in steps(writes) {
            match step {
                Step::Puts(puts) => {
                    for puts in puts.chunks(MOST_AT_ONCE) {
                        self.put_all(&mut tx, puts).await?;
                    }
                }
                Step::One(write) => {
                    write.statement(&self.machine).execute(&mut *tx).await?;
                }
            }
        }
        let forgets = Forgets { store: self, changes };
        forgets.now();
        // Also what is read in between, and when nobody waits for the end.
        self.store.commit(tx, point).await
    }

    /// Several values by one statement; no two of them are of one row.
    async fn put_all(&self, tx: &mut Transaction, puts: &[(&Row, &[u8])]) -> Result<(), StoreError> {
        let mut sql = String::from("INSERT INTO machine_values (machine, kind, parent, name, value) VALUES ");
        for n in 0..puts.len() {
            let comma = if n == 0 { "" } else { ", " };
            let first = 4 * n + 2;
            let _ = write!(sql, "{comma}($1, ${first}, ${}, ${}, ${})", first + 1, first + 2, first + 3);
        }
        sql.push_str(" ON CONFLICT (machine, kind, parent, name) DO UPDATE SET value = excluded.value");
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(&self.machine);
        for (row, sealed) in puts {
            query = query.bind(row.kind.0).bind(&row.parent).bind(&row.name).bind(*sealed);
        }
        // Of the sizes that come, the largest is the only one worth remembering.
        query.persistent(puts.len() == MOST_AT_ONCE || puts.len() == 1).execute(&mut **tx).await?;
        Ok(())
    }
}

/// Forgets what changes once more, however the save ends.
struct Forgets<'a> {
    store: &'a MachineStore,
    changes: Vec<Change>,
}

impl Forgets<'_> {
    fn now(&self) {
        self.store.store.remembered.changes(&self.store.machine, &self.changes);
    }
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        self.now();
    }
}

/// How many values one statement writes.
const MOST_AT_ONCE: usize = 32;

/// What is written by itself, or together.
enum Step<'a> {
    Puts(Vec<(&'a Row, &'a [u8])>),
    One(&'a Write),
}

/// What is to be written, in order, and of values that follow each other the last of each row.
fn steps(writes: &[Write]) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut places: HashMap<(&str, &str, &str), usize> = HashMap::new();
    for write in writes {
        let Write::Put(row, sealed) = write else {
            places.clear();
            steps.push(Step::One(write));
            continue;
        };
        if places.is_empty() {
            steps.push(Step::Puts(Vec::new()));
        }
        let Some(Step::Puts(puts)) = steps.last_mut() else { continue };
        match places.entry((row.kind.0, &row.parent, &row.name)) {
            Entry::Occupied(place) => puts[*place.get()].1 = sealed,
            Entry::Vacant(place) => {
                place.insert(puts.len());
                puts.push((row, sealed));
            }
        }
    }
    steps
}
