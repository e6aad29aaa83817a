//! Sealing: nothing that people say, nobody's name and no key stands readable in any file that Parlour writes, nor in any that
//! PostgreSQL does for it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parlour::{config::Config, edge::SystemChance};
use parlour_engine::{DatabaseUrl, MasterKey, Secret, Store};
use parlour_integration_tests::{read, refusal, say, send, token, trial::Trial};
use parlour_test_postgres::Postgres;
use ruma::serde::{Base64, base64::Standard};
use serde_json::json;
use sqlx::Connection as _;

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");
/// What Parlour signs in with at PostgreSQL, which trusts everybody here.
const PASSWORD: &str = "tourmaline-password";

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Bytes that are written in hexadecimal digits.
fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect()
}

fn digits(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// What is searched for, each in every form in which it could stand somewhere.
struct Search {
    wanted: Vec<(String, Vec<u8>)>,
    /// Which of them begin with these two bytes.
    beginnings: Vec<Vec<usize>>,
}

impl Search {
    fn of(canaries: &[(String, Vec<u8>)]) -> Self {
        let mut wanted = Vec::new();
        for (name, canary) in canaries {
            let base64: Base64<Standard, _> = Base64::new(canary.as_slice());
            wanted.push((name.clone(), canary.clone()));
            wanted.push((format!("{name} in digits"), digits(canary)));
            let numbers: Vec<_> = canary.iter().map(u8::to_string).collect();
            wanted.push((format!("{name} as a list in JSON"), numbers.join(",").into_bytes()));
            wanted.push((format!("{name} in base64"), base64.encode().into_bytes()));
        }
        let mut beginnings = vec![Vec::new(); 1 << 16];
        for (number, (_, bytes)) in wanted.iter().enumerate() {
            beginnings[usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))].push(number);
        }
        Self { wanted, beginnings }
    }

    /// The first that stands there.
    fn first_in(&self, bytes: &[u8]) -> Option<&str> {
        let at = |place: usize, pair: &[u8]| {
            let begin = &self.beginnings[usize::from(u16::from_be_bytes([pair[0], pair[1]]))];
            begin.iter().find(|number| bytes[place..].starts_with(&self.wanted[**number].1))
        };
        let found = bytes.windows(2).enumerate().find_map(|(place, pair)| at(place, pair))?;
        Some(&self.wanted[*found].0)
    }
}

/// What may stand nowhere: words, names, tokens and every key, the last ones read through the engine with the master key.
/// And what must be found: a room's id, and a sealed value.
async fn canaries(trial: &Trial, tokens: &[String]) -> (Search, Vec<u8>) {
    let config = Config::read(&trial.data.join("parlour.toml")).expect("the configuration");
    let master = std::fs::read_to_string(trial.data.join("master.key")).expect("the master key");
    let mut canaries: Vec<(String, Vec<u8>)> = [
        "quadrilateral",
        "ultramarine",
        "pomegranate",
        "marzipan",
        "obsidian",
        "Zirconium",
        "Aoife Murphy",
        "Ann Byrne",
        "Ben Carey",
        "has left",
        "R-1001",
        PASSWORD,
    ]
    .map(|words| (words.to_owned(), words.as_bytes().to_vec()))
    .into();
    canaries.push(("the master key".to_owned(), bytes_of(master.trim())));
    let of_the_service = [&config.homeserver.as_token, &config.homeserver.hs_token].map(Secret::reveal);
    for (name, token) in ["as_token", "hs_token"].into_iter().zip(of_the_service) {
        canaries.push((name.to_owned(), token.as_bytes().to_vec()));
    }
    canaries.extend(tokens.iter().map(|token| ("an access token".to_owned(), token.as_bytes().to_vec())));
    let master = MasterKey::from_hex(&master).expect("a master key");
    let store = Store::open(&config.database(), &master, Arc::new(SystemChance)).await.expect("the store");
    let leg_ids = store.secret_or("leg-id-key", Secret::new("not this".to_owned())).await.expect("the key");
    assert_ne!(leg_ids.reveal(), "not this", "it was made long ago");
    canaries.push(("the key of the leg ids".to_owned(), bytes_of(leg_ids.reveal())));
    let keys = store.keys_in_clear().await.expect("the keys");
    for kind in ["a cross-signing key", "a key of an account", "a session"] {
        assert!(keys.iter().filter(|(name, _)| *name == kind).count() > 2, "{kind}: of each machine");
    }
    canaries.extend(keys.into_iter().map(|(name, key)| (name.to_owned(), key)));
    store.close().await;
    println!("searched for {} canaries", canaries.len());
    let sealed = sealed_value(trial).await;
    (Search::of(&canaries), sealed)
}

/// A practice in which a lot is said; its people's access tokens, and what stands in every database: the id of a room.
async fn practice(database: Option<String>) -> (Trial, Vec<String>, String) {
    let mut trial = Trial::open(PARLOUR, database, 0, None).await;
    // Everything that Parlour itself can write, and what the libraries say of their own accord.
    trial.kill_parlour().await;
    trial.shown = "debug".to_owned();
    trial.start_parlour().await;
    let (murphy, ann, ben) = (
        trial.sign_in("murphy", "first").await,
        trial.sign_in("ann", "first").await,
        trial.sign_in("ben", "first").await,
    );
    let talk = trial.begin(&murphy, "Zirconium clinic", &[], &["ann", "ben"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "quadrilateral results").await;
    read(&ann, &spoke, "quadrilateral results").await;
    say(&ann, &spoke, "ultramarine question").await;
    let question = read(&murphy, &hub, "ultramarine question").await;
    murphy.reply(&hub, &question.event_id, "pomegranate answer").await.expect("sent");
    read(&ann, &spoke, "pomegranate answer").await;
    // What is refused is kept, too: sent in the clear by a careless client.
    let path = parlour_integration_tests::room_path(&spoke, "send/m.room.message/1");
    let clear = json!({ "msgtype": "m.text", "body": "marzipan in the clear" });
    let (_, sent) = ann.http().call(reqwest::Method::PUT, &path, Some(clear)).await.expect("an answer");
    let sent = sent["event_id"].as_str().and_then(|id| ruma::EventId::parse(id).ok()).expect("an event");
    refusal(&ann, &spoke, &sent).await;
    let image =
        send(&ann, &spoke, "m.room.message", json!({ "msgtype": "m.image", "body": "obsidian.png" })).await;
    refusal(&ann, &spoke, &image).await;
    // Somebody leaves, and the bot says so by name.
    let leave = parlour_integration_tests::room_path(&talk.spoke(trial.person("ben")), "leave");
    ben.http().call(reqwest::Method::POST, &leave, Some(json!({}))).await.expect("an answer");
    murphy
        .wait_for(&hub, parlour_integration_tests::LIMIT, |m| m.body.contains("Ben Carey has left"))
        .await
        .expect("told");
    trial.quiet().await;
    let tokens = [&murphy, &ann, &ben].map(token).to_vec();
    for token in &tokens {
        let asked = reqwest::Client::new().get(format!("{}/_parlour/v1/conversations", trial.public_url()));
        let answer = asked.bearer_auth(token).send().await.expect("an answer");
        assert!(answer.status() != 401, "Parlour has looked it up: {}", answer.status());
    }
    trial.quiet().await;
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
    (trial, tokens, spoke.to_string())
}

/// What stands for the key of the leg ids in the database.
async fn sealed_value(trial: &Trial) -> Vec<u8> {
    sqlx::any::install_default_drivers();
    let config = Config::read(&trial.data.join("parlour.toml")).expect("the configuration");
    let url = match config.database() {
        DatabaseUrl::Sqlite(file) => format!("sqlite://{}", file.display()),
        DatabaseUrl::Postgres(url) => url,
    };
    let mut database = sqlx::AnyConnection::connect(&url).await.expect("the database");
    let (sealed,): (Vec<u8>,) = sqlx::query_as("SELECT value FROM settings WHERE name = 'leg-id-key'")
        .fetch_one(&mut database)
        .await
        .expect("a value");
    database.close().await.expect("closed");
    sealed
}

/// Whether it stands there, by the same search.
fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    Search::of(&[("it".to_owned(), wanted.to_vec())]).first_in(bytes).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_parlours_holds_words_names_or_keys() {
    let (mut trial, tokens, room) = practice(None).await;
    // With the write-ahead log as a power cut would leave it.
    trial.kill_parlour().await;
    let searched: Vec<(PathBuf, Vec<u8>)> = [trial.data.join("parlour"), trial.data.join("tmp")]
        .iter()
        .flat_map(|folder| files(folder))
        .chain([trial.data.join("parlour.log")])
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect();
    let holding = |name: &str, wanted: &[u8]| {
        let (_, bytes) = searched.iter().find(|(path, _)| path.ends_with(name)).expect("it is searched");
        holds(bytes, wanted)
    };
    // Opening it changes the files: what they hold was read before.
    let (search, sealed) = canaries(&trial, &tokens).await;
    for (path, bytes) in &searched {
        assert_eq!(search.first_in(bytes), None, "in {}", path.display());
    }
    assert!(holding("parlour.db", &sealed) || holding("parlour.db-wal", &sealed), "what is there is found");
    assert!(holding("parlour.db-wal", room.as_bytes()), "what is there is found");
    assert!(holding("parlour.log", b"messages travel"), "what is there is found");
    println!("{} files searched", searched.len());
    trial.close().await;
}

/// Its rows, its files and what it says, when it says every statement with its values.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_postgresqls_holds_words_names_or_keys() {
    let Some(mut server) = Postgres::start().expect("PostgreSQL") else { return };
    let url = server.create_database().expect("a database");
    sqlx::any::install_default_drivers();
    let mut database = sqlx::AnyConnection::connect(&url).await.expect("the database");
    for sql in ["ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()"] {
        sqlx::query(sql).execute(&mut database).await.expect("set");
    }
    let with_password = url.replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let (mut trial, tokens, room) = practice(Some(with_password)).await;
    trial.kill_parlour().await;
    let (search, sealed) = canaries(&trial, &tokens).await;
    no_row_holds(&mut database, &search, &room).await;
    sqlx::query("CHECKPOINT").execute(&mut database).await.expect("written down");
    database.close().await.expect("closed");
    server.stop_server().expect("it stops");
    let (mut in_tables, mut in_changes, mut bytes_searched) = (0, 0, 0);
    for path in files(&server.folder().join("data")) {
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(search.first_in(&bytes), None, "in {}", path.display());
        let found = usize::from(holds(&bytes, &sealed)) + usize::from(holds(&bytes, room.as_bytes()));
        *(if path.iter().any(|part| part == "pg_wal") { &mut in_changes } else { &mut in_tables }) += found;
        bytes_searched += bytes.len();
    }
    assert!(in_tables > 1 && in_changes > 1, "what is there is found: {in_tables}, {in_changes}");
    let said = std::fs::read(server.folder().join("postgres.log")).expect("its log");
    assert_eq!(search.first_in(&said), None, "in PostgreSQL's log");
    assert!(holds(&said, room.as_bytes()) && holds(&said, &digits(&sealed)), "it says the values");
    let log = std::fs::read(trial.data.join("parlour.log")).expect("Parlour's log");
    assert_eq!(search.first_in(&log), None, "in Parlour's log");
    assert!(holds(&log, b"messages travel"), "what is there is found");
    println!("{} MB of files and {} KB of log searched", bytes_searched >> 20, said.len() >> 10);
    trial.close().await;
}

async fn no_row_holds(database: &mut sqlx::AnyConnection, search: &Search, room: &str) {
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = 'public'",
    )
    .fetch_all(&mut *database)
    .await
    .expect("tables");
    assert!(tables.len() > 10, "{tables:?}");
    let mut seen = 0;
    for (table,) in tables {
        // Bytes are shown as hexadecimal digits there.
        let sql = sqlx::AssertSqlSafe(format!("SELECT CAST(t AS TEXT) FROM {table} t"));
        let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&mut *database).await.expect("rows");
        for (row,) in rows {
            assert_eq!(search.first_in(row.as_bytes()), None, "in {table}");
            seen += usize::from(row.contains(room));
        }
    }
    assert!(seen > 0, "the search would find what is there: the id of a room is");
}
