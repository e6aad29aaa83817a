//! `intake`: how soon the homeserver has its answer to a transaction of a hundred events, which may not come before all of them are
//! kept. The transactions are made up: encrypted events of patients in rooms that Parlour knows, with keys that nobody has.

use std::time::{Duration, Instant};

use parlour::edge::{SystemChance, random_hex};
use reqwest::Method;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    devices::Equipment,
    figures::{Figures, millis},
    practice::{Practice, Wanted},
    rows::Context,
    say::say,
    table::Outcome,
};

/// As many as a transaction can have.
const EVENTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// As long as that of a short message.
const CIPHERTEXT: usize = 400;

pub async fn measure(context: &mut Context) -> Outcome {
    let sizes = context.sizes;
    let equipment = Equipment { devices: 1, one_time_keys: 1 };
    let practice = Practice::open(Wanted { staff: 0, patients: sizes.spokes, equipment }).await;
    let token = practice.token(practice.person("Murphy")).await;
    let talk = practice.begin(&token, "Flu clinic", &[], &practice.patients).await;
    let places: Vec<_> =
        practice.patients.iter().map(|patient| (talk.spoke(patient), patient.user_id.clone())).collect();
    practice.rests().await;
    say!("intake: {} transactions of {EVENTS} events", sizes.transactions);
    let (http, url, token) = practice.inside();
    let mut took = Figures::default();
    for number in 0..sizes.transactions {
        let events: Vec<_> = (0..EVENTS).map(|event| encrypted(&places[event % places.len()])).collect();
        let body = json!({ "events": events }).to_string();
        // No number, so that it does not stand in the homeserver's own sequence.
        let url = format!("{url}/_matrix/app/v1/transactions/bench{number}");
        let request = http.request(Method::PUT, url).bearer_auth(token).body(body);
        let asked = Instant::now();
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "a transaction is taken");
        answer.bytes().await.expect("a whole answer");
        took.push(millis(asked.elapsed()));
        sleep(PAUSE).await;
    }
    practice.close().await;
    let mut outcome = Outcome::default();
    let what = format!("answer to a transaction of {EVENTS} events, SQLite, p99");
    outcome.entry("intake", what, took.percentile(99), 20.0, "ms");
    let (p50, p95) = (took.percentile(50), took.percentile(95));
    outcome.note(format!("{} transactions, {took} ms; p50 {p50:.1}, p95 {p95:.1} ms", took.count()));
    outcome
}

fn encrypted((room, sender): &(OwnedRoomId, OwnedUserId)) -> Value {
    let chance = |digits: usize| random_hex(&SystemChance, digits);
    json!({
        "type": "m.room.encrypted",
        "event_id": format!("${}", chance(43)),
        "room_id": room,
        "sender": sender,
        "origin_server_ts": 1_700_000_000_000_i64,
        "content": {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": chance(CIPHERTEXT),
            "device_id": "BENCH0",
            "sender_key": chance(43),
            "session_id": chance(43),
        },
        "unsigned": { "age": 10 },
    })
}
