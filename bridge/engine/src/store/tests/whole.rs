//! What a store promises of the database as a whole: who has it, what opens it, and what stands in it.

use std::sync::Arc;

use parlour_domain::{Person, Role};
use ruma::user_id;

use super::{
    super::{
        MasterKey, Store, StoreError,
        testing::{Counting, TestDatabase},
    },
    event_id, world,
};

pub(super) async fn what_a_database_cannot_take_does_not_pass(database: &TestDatabase) {
    let world = world(database).await;
    let odd = event_id("$\u{0}");
    match world.store.message_at(&world.hub.id, &odd).await {
        // SQLite takes it, and finds nothing.
        Ok(found) => assert!(found.is_none()),
        Err(error) => assert!(!error.may_pass(), "{error}"),
    }
}

pub(super) async fn whoever_was_replaced_writes_no_more(database: &TestDatabase) {
    let first = world(database).await;
    first.store.give_up_for_a_test().await;
    let second = database.open().await;
    if matches!(database.url, super::super::DatabaseUrl::Sqlite(_)) {
        // A file's lock breaks by itself only with its process.
        second.expect("it was given up").close().await;
        return;
    }
    second.expect("it was given up").close().await;
    let error = first.store.caught_up("s1").await.expect_err("another has had it");
    assert!(matches!(error, StoreError::InUse), "{error}");
    let error = first.store.keep_for_us().await.expect_err("its memory is old");
    assert!(matches!(error, StoreError::Taken), "{error}");
}

pub(super) async fn people_come_back_as_they_were_written(database: &TestDatabase) {
    let world = world(database).await;
    let mut ann = world.store.person(&world.ann).await.expect("read").expect("Ann");
    let on_the_other_side = Person { role: Role::Staff, ..ann.clone() };
    let refused = world.store.put_person(&on_the_other_side).await;
    assert!(
        matches!(refused, Err(StoreError::WrongNumber { table: "people", rows: 0 })),
        "nobody changes sides"
    );
    ann.record_number = Some("4711".parse().expect("a number"));
    world.store.put_person(&ann).await.expect("kept");
    let names = |people: &[Person]| people.iter().map(|p| p.name.as_str().to_owned()).collect::<Vec<_>>();
    let all = world.store.people().await.expect("read");
    assert_eq!(names(&all), ["Ann Byrne", "Ben Carey", "Dr Murphy"]);
    let found = world.store.person_of(&ann.user_id).await.expect("read").expect("Ann");
    assert_eq!(found.record_number.map(|n| n.as_str().to_owned()), Some("4711".to_owned()));
    let conversation = world.store.conversation(&world.conversation).await.expect("read").expect("there");
    assert_eq!(conversation.name.as_str(), "Flu clinic");
    assert_eq!(world.store.participants(&world.conversation).await.expect("read").len(), 3);
}

pub(super) async fn one_process_has_a_database(database: &TestDatabase) {
    let first = database.open().await.expect("a store");
    assert!(matches!(database.open().await, Err(StoreError::InUse)));
    first.close().await;
    drop(first);
    database.open().await.expect("it is free again").close().await;
}

pub(super) async fn only_its_own_master_key_opens_a_database(database: &TestDatabase) {
    let store = database.open().await.expect("a store");
    store.close().await;
    drop(store);
    let other = MasterKey::fresh(&Counting);
    let opened = Store::open(&database.url, &other, Arc::new(Counting)).await;
    assert!(matches!(opened, Err(StoreError::WrongMasterKey)));
}

/// The keys of a machine, in every form in which they could stand in a file.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_of_a_machine_stands_in_the_file_in_clear() {
    let database = TestDatabase::sqlite();
    let store = database.open().await.expect("a store");
    let user = user_id!("@_parlour_1:x");
    let olm =
        matrix_sdk_crypto::OlmMachine::with_store(user, "DEVICE".into(), store.machine_store(user), None)
            .await
            .expect("a machine");
    olm.bootstrap_cross_signing(false).await.expect("an identity");
    let room = ruma::room_id!("!r:x");
    olm.share_room_key(room, std::iter::empty(), matrix_sdk_crypto::EncryptionSettings::default())
        .await
        .expect("a session");
    let seeds = olm.export_cross_signing_keys().await.expect("read").expect("seeds");
    let sessions = olm.store().export_room_keys(|_| true).await.expect("sessions");
    let mut keys = [seeds.master_key.clone(), seeds.self_signing_key.clone(), seeds.user_signing_key.clone()]
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .expect("three seeds");
    keys.extend(sessions.iter().map(|session| session.session_key.to_base64()));
    assert!(keys.len() > 3, "a session, too");
    let super::super::DatabaseUrl::Sqlite(file) = &database.url else { panic!("a file") };
    let mut wal = file.clone().into_os_string();
    wal.push("-wal");
    let files =
        [file.into(), std::path::PathBuf::from(wal)].map(|file| std::fs::read(file).expect("readable"));
    let holds = |canary: &[u8]| files.iter().any(|bytes| bytes.windows(canary.len()).any(|w| w == canary));
    assert!(holds(b"machine_values"), "the search finds what is there");
    for key in keys {
        let bytes = matrix_sdk_crypto::vodozemac::base64_decode(&key).expect("base64");
        // A session's key begins with a version and an index; any part of it would do.
        for part in [key.as_bytes(), &key.as_bytes()[8..40.min(key.len())], &bytes, &bytes[bytes.len() / 2..]]
        {
            assert!(!holds(part), "a key stands in clear");
        }
    }
}
