//! Stores for tests: each on a database of its own, on SQLite and on PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parlour_domain::Chance;
use tempfile::TempDir;

use super::{DatabaseUrl, MasterKey, Store, StoreError, database::Backend};

/// Chance that never gives the same twice.
pub(crate) struct Counting;

impl Chance for Counting {
    fn bytes(&self) -> [u8; 16] {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        bytes
    }
}

/// A database of a test's own.
pub(crate) struct TestDatabase {
    pub(crate) url: DatabaseUrl,
    pub(crate) master: MasterKey,
    _folder: TempDir,
}

impl TestDatabase {
    /// A new one of SQLite, which is always there.
    pub(crate) fn sqlite() -> Self {
        Self::new(Backend::Sqlite).expect("SQLite is always there")
    }

    /// A new one; none where the tests do without PostgreSQL, which they have said then.
    pub(in crate::store) fn new(backend: Backend) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let url = match backend {
            Backend::Sqlite => DatabaseUrl::Sqlite(folder.path().join("parlour.db")),
            Backend::Postgres => {
                let url = parlour_test_postgres::shared()?.create_database().expect("a database");
                url.parse().expect("a URL")
            }
        };
        Some(Self { url, master: MasterKey::fresh(&Counting), _folder: folder })
    }

    pub(crate) async fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.url, &self.master, Arc::new(Counting)).await
    }
}
