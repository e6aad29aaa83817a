//! The suite that matrix-sdk-crypto certifies crypto stores with, on SQLite and on PostgreSQL.

use tokio::sync::Mutex;

use crate::store::{Store, database::Backend, testing::TestDatabase};

/// A store of the suite: one database for each `name`, which is opened again unless `clear` asks for a new one. It is
/// sealed anyway: a passphrase changes nothing.
macro_rules! certified {
    ($module:ident, $backend:expr) => {
        mod $module {
            use std::collections::BTreeMap;

            use super::{Backend, Mutex, Store, open_for_certification};
            use crate::store::MachineStore;
            use ruma::user_id;

            static OPENED: Mutex<BTreeMap<String, Store>> = Mutex::const_new(BTreeMap::new());

            async fn get_store(name: &str, _passphrase: Option<&str>, clear: bool) -> MachineStore {
                let mut opened = OPENED.lock().await;
                let found = if clear { None } else { opened.get(name).cloned() };
                let store = match found {
                    Some(store) => store,
                    None => open_for_certification($backend).await.expect("the suite needs both databases"),
                };
                opened.insert(name.to_owned(), store.clone());
                store.machine_store(user_id!("@alice:example.org"))
            }

            matrix_sdk_crypto::cryptostore_integration_tests!();
            matrix_sdk_crypto::cryptostore_integration_tests_time!();
        }
    };
}

/// A new, empty database of that kind. It stays until the tests end, as the suite opens it again.
async fn open_for_certification(backend: Backend) -> Option<Store> {
    let database = TestDatabase::new(backend)?;
    let store = database.open().await.expect("a store");
    static KEPT: Mutex<Vec<TestDatabase>> = Mutex::const_new(Vec::new());
    KEPT.lock().await.push(database);
    Some(store)
}

certified!(on_sqlite, Backend::Sqlite);
certified!(on_postgres, Backend::Postgres);
