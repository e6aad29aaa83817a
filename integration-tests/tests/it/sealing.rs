//! Sealing: nothing that people say, nobody's name and no key stands readable in any file that Parlour writes.

use std::path::{Path, PathBuf};

use parlour_integration_tests::{read, refusal, say, send, trial::Trial};
use serde_json::json;

const PARLOUR: &str = env!("CARGO_BIN_EXE_parlour-under-test");

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn holds(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// Bytes that are written in hexadecimal digits.
fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect()
}

async fn canaries(database: Option<String>) -> (Trial, Vec<(String, Vec<u8>)>, String) {
    let trial = Trial::open(PARLOUR, database, 0, None).await;
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
    for client in [murphy, ann, ben] {
        client.stop().await;
    }
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
    ]
    .map(|words| (words.to_owned(), words.as_bytes().to_vec()))
    .into();
    let master = std::fs::read_to_string(trial.data.join("master.key")).expect("the master key");
    canaries.push(("the master key in digits".to_owned(), master.trim().as_bytes().to_vec()));
    canaries.push(("the master key".to_owned(), bytes_of(master.trim())));
    (trial, canaries, spoke.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_parlours_holds_words_names_or_keys() {
    let (mut trial, canaries, room) = canaries(None).await;
    // With the write-ahead log as a power cut would leave it.
    trial.kill_parlour().await;
    let searched: Vec<_> = [trial.data.join("parlour"), trial.data.join("tmp")]
        .iter()
        .flat_map(|folder| files(folder))
        .chain([trial.data.join("parlour.log")])
        .collect();
    let names: Vec<_> = searched.iter().map(|path| path.file_name().expect("a name").to_owned()).collect();
    for wanted in ["parlour.db", "parlour.db-wal", "parlour.log"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is searched: {names:?}");
    }
    let mut seen = 0;
    for path in &searched {
        let bytes = std::fs::read(path).expect("readable");
        for (name, canary) in &canaries {
            assert!(!holds(&bytes, canary), "{name} stands in {}", path.display());
        }
        seen += usize::from(holds(&bytes, room.as_bytes()));
    }
    assert!(seen > 0, "the search would find what is there: the id of a room is");
    println!("{} files searched for {} canaries", searched.len(), canaries.len());
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_in_postgresql_holds_words_names_or_keys() {
    let Some(postgres) = parlour_test_postgres::shared() else { return };
    let url = postgres.create_database().expect("a database");
    let (trial, canaries, room) = canaries(Some(url.clone())).await;
    sqlx::any::install_default_drivers();
    let mut database = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.expect("the database");
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = 'public'",
    )
    .fetch_all(&mut database)
    .await
    .expect("tables");
    assert!(tables.len() > 10, "{tables:?}");
    let mut seen = 0;
    for (table,) in tables {
        // Bytes are shown as hexadecimal digits there.
        let sql = sqlx::AssertSqlSafe(format!("SELECT CAST(t AS TEXT) FROM {table} t"));
        let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&mut database).await.expect("rows");
        for (row,) in rows {
            for (name, canary) in &canaries {
                let digits: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
                assert!(!holds(row.as_bytes(), canary) && !row.contains(&digits), "{name} stands in {table}");
            }
            seen += usize::from(row.contains(&room));
        }
    }
    assert!(seen > 0, "the search would find what is there: the id of a room is");
    sqlx::Connection::close(database).await.expect("closed");
    trial.close().await;
}
