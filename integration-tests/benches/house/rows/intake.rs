//! `intake`: how soon the homeserver has its answer to a transaction of a hundred events, which may not come before all of them are
//! kept. The transactions are made up: events of patients in rooms that Parlour knows, well encrypted with keys that it was not
//! given. So they wait, and Parlour looks at all that wait again and again while the next ones come.

use std::time::{Duration, Instant};

use matrix_sdk_crypto::vodozemac::megolm::{GroupSession, SessionConfig};
use parlour::{
    demo::practice::DemoPerson,
    edge::{SystemChance, random_hex},
};
use parlour_integration_tests::{Talk, devices::Equipment};
use reqwest::Method;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    figures::{Figures, millis},
    practice::{Practice, Wanted},
    rows::Context,
    say::say,
    table::Outcome,
};

/// As many as a transaction can have.
const EVENTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(200);
const WORDS: &[u8] =
    br#"{"type":"m.room.message","content":{"msgtype":"m.text","body":"May I come at four?"}}"#;

pub async fn measure(context: &mut Context) -> Outcome {
    let sizes = context.sizes;
    let equipment = Equipment { devices: 1, one_time_keys: 1 };
    let practice = Practice::open(Wanted { staff: 0, patients: sizes.spokes, equipment }).await;
    let token = practice.token(practice.person("Murphy")).await;
    let talk = practice.begin(&token, "Flu clinic", &[], &practice.patients).await;
    let mut writers: Vec<_> = practice.patients.iter().map(|patient| Writer::new(&talk, patient)).collect();
    practice.rests().await;
    practice.is_alone().await;
    say!("intake: {} transactions of {EVENTS} events", sizes.transactions);
    let (http, url, token) = practice.inside();
    let mut took = Figures::default();
    for number in 0..sizes.transactions {
        let count = writers.len();
        let events: Vec<_> = (0..EVENTS).map(|event| writers[event % count].writes()).collect();
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

/// A patient who writes in their spoke.
struct Writer {
    room: OwnedRoomId,
    user: OwnedUserId,
    session: GroupSession,
}

impl Writer {
    fn new(talk: &Talk, patient: &DemoPerson) -> Self {
        let session = GroupSession::new(SessionConfig::version_1());
        Self { room: talk.spoke(patient), user: patient.user_id.clone(), session }
    }

    fn writes(&mut self) -> Value {
        let chance = |digits: usize| random_hex(&SystemChance, digits);
        json!({
            "type": "m.room.encrypted",
            "event_id": format!("${}", chance(43)),
            "room_id": self.room,
            "sender": self.user,
            "origin_server_ts": 1_700_000_000_000_i64,
            "content": {
                "algorithm": "m.megolm.v1.aes-sha2",
                "ciphertext": self.session.encrypt(WORDS).to_base64(),
                "device_id": "BENCH0",
                "sender_key": chance(43),
                "session_id": self.session.session_id(),
            },
            "unsigned": { "age": 10 },
        })
    }
}
