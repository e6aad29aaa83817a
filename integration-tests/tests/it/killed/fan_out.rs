//! Two messages, one right after the other, go to fifty patients. Wherever Parlour ends meanwhile, it goes on where it
//! stopped: each patient gets both, once and in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk,
    books::Books,
    crowd::{Caller, numbers},
    devices::{Device, Equipment, equip},
    proxy::Fate,
    requests, say, send, token,
    trial::Trial,
    witness,
};
use serde_json::json;
use sqlx::Connection as _;
use tokio::time::{Instant, sleep};

use super::practice;

const PATIENTS: usize = 50;
/// At most so many legs have a turn at the homeserver at once.
const TURNS: usize = 50;
/// So many have a real client; the others have a device that only reads.
const CLIENTS: usize = 3;
/// Each kill is begun with new sessions; what is lost by it may take a second key.
const ONE_TIME_KEYS: usize = 40;
const LOOK: Duration = Duration::from_millis(20);
/// How often a place is tried that was not come to.
const ATTEMPTS: usize = 3;
const SIDES: [&str; 2] = ["before", "after"];
/// Of the PUTs more than thirty are under way at once: at the fortieth some of the first message have landed, and others have
/// not. What has landed meanwhile is written down together, so there are fewer landings than legs.
const PLACES: [&str; 6] = [
    "hs.send-to-devices 1",
    "db.leg-sealed 1",
    "hs.send-event 40",
    "hs.send-event 75",
    "db.leg-landed 1",
    "db.leg-landed 3",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_message_goes_to_fifty_goes_on_where_it_stopped() {
    let begun = Instant::now();
    let mut scene = Broadcast::open(PATIENTS).await;
    println!("the rooms are made: {:.1} s", begun.elapsed().as_secs_f64());
    for place in PLACES {
        for side in SIDES {
            scene.is_killed(side, place).await;
        }
    }
    scene.everybody_reads_everything().await;
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    scene.close().await;
}

/// Of a message to more than have a turn at once, what waits for its turn when the message is deleted goes nowhere, and the rest goes
/// and is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_before_its_turn_comes_is_not_sent() {
    const MORE: usize = TURNS + 6;
    let scene = Broadcast::open(MORE).await;
    scene
        .trial
        .to_homeserver
        .judge(|_, path| if path.contains("/send/m.room.encrypted/") { Fate::Hold } else { Fate::Pass });
    let hub = scene.talk.hub();
    let words = say(&scene.murphy, &hub, "the wrong clinic").await;
    scene.trial.to_homeserver.holds(1).await;
    let sealed = "SELECT COUNT(*) FROM outbox WHERE state = 'waiting' AND ciphertext IS NOT NULL";
    let all = i64::try_from(MORE).expect("a number");
    let of = async |sql: &str, wanted: i64| {
        let comes = scene.books.comes_to(sql, wanted).await;
        comes.unwrap_or_else(|found| panic!("{found}, {sql}: {}", scene.trial.last_words()));
    };
    of(sealed, all).await;
    send(&scene.murphy, &hub, "m.room.redaction", json!({ "redacts": words })).await;
    of("SELECT COUNT(*) FROM messages WHERE deleted_at IS NOT NULL", 1).await;
    scene.trial.to_homeserver.pass_all();
    of("SELECT COUNT(*) FROM outbox WHERE state IN ('waiting', 'held')", 0).await;
    let not_sent = "SELECT COUNT(*) FROM outbox WHERE says = 'message' AND state = 'withdrawn'";
    let not_sent = scene.books.number(not_sent).await;
    // At most so many had a turn; on a slow machine fewer.
    let turns = i64::try_from(TURNS).expect("a number");
    assert!((all - turns..all).contains(&not_sent), "{not_sent} of {all}");
    // "hello" is in all rooms; the other in those whose turn it was, and gone.
    assert_eq!(scene.spokes_by_ciphertexts().await, [(1, not_sent), (2, all - not_sent)]);
    let redacted = "SELECT COUNT(*), 0 FROM events WHERE type = 'm.room.redaction' AND room_id <> $1";
    assert_eq!(scene.of_homeserver(redacted).await, [(all - not_sent, 0)]);
    scene.close().await;
}

/// A conversation of Dr Murphy with fifty patients, or more.
struct Broadcast {
    trial: Trial,
    books: Books,
    murphy: Client,
    clients: Vec<Client>,
    /// Of the patients who have no client.
    devices: Vec<Device>,
    talk: Talk,
    patients: usize,
    said: Vec<String>,
}

impl Broadcast {
    async fn open(patients: usize) -> Self {
        let trial = practice(None, patients).await;
        let books = Books::of(&trial.data, None);
        let murphy = trial.sign_in("murphy", "first").await;
        let names = numbers(patients);
        let mut clients = Vec::new();
        for name in &names[..CLIENTS] {
            clients.push(trial.sign_in(name, "first").await);
        }
        let people: Vec<_> = names.iter().map(|name| trial.person(name).clone()).collect();
        let equipment = Equipment { devices: 1, one_time_keys: ONE_TIME_KEYS };
        let http = reqwest::Client::new();
        let devices = equip(&http, &trial.homeserver_url(), &people[CLIENTS..], equipment).await;
        let devices = devices.into_iter().flatten().collect();
        let ids: Vec<_> = people.iter().map(|person| &person.user_id).collect();
        let wanted = json!({ "name": "flu", "mode": "two-way", "patients": ids });
        let caller = Caller::new(&trial.public_url(), &token(&murphy));
        let (_, told) = caller.begin(&wanted, None).await.expect("an answer");
        let talk = Talk { told: caller.made(told["id"].as_str().expect("an id")).await };
        let mut scene = Self { trial, books, murphy, clients, devices, talk, patients, said: Vec::new() };
        // Dr Murphy's ghost is made by it.
        scene.say("hello").await;
        assert!(scene.settles("hello").await);
        scene
    }

    async fn close(self) {
        for client in self.clients.into_iter().chain([self.murphy]) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    async fn say(&mut self, words: &str) {
        say(&self.murphy, &self.talk.hub(), words).await;
        self.said.push(words.to_owned());
    }

    /// Waits until all that was said has landed everywhere; not, when Parlour has ended before.
    async fn settles(&mut self, what: &str) -> bool {
        let wanted = i64::try_from(self.said.len() * self.patients).expect("a number");
        let deadline = Instant::now() + LIMIT;
        loop {
            if !self.trial.parlour_runs() {
                return false;
            }
            let standing = self.books.standing().await;
            if let Some(standing) = standing {
                assert!(standing.legs <= wanted, "{what}: {standing:?}");
                if (standing.legs, standing.legs_waiting, standing.events_waiting) == (wanted, 0, 0) {
                    return true;
                }
            }
            assert!(Instant::now() < deadline, "{what}: {standing:?}: {}", self.trial.last_words());
            sleep(LOOK).await;
        }
    }

    /// Parlour ends at a place while two messages are under way, and is started again.
    async fn is_killed(&mut self, side: &str, place: &str) {
        let place = format!("{side} {place}");
        for _ in 0..ATTEMPTS {
            self.anew().await;
            if place.contains("db.leg-landed") {
                self.hide_echoes();
            }
            self.trial.order(&format!("end {place}")).await;
            for number in 1..=2 {
                self.say(&format!("{place}, {number}")).await;
            }
            if !self.settles(&place).await {
                assert!(self.trial.parlour_ends(LIMIT).await, "it ends");
                return self.goes_on(&place).await;
            }
            self.each_spoke_has_all(&place).await;
        }
        panic!("never {place}");
    }

    /// Kills Parlour while it does nothing, and starts it anew; for what is said next there are new sessions.
    async fn anew(&mut self) {
        self.trial.kill_parlour().await;
        self.books.forget_sessions().await;
        self.trial.start_parlour().await;
        self.books.still().await;
        drop(self.trial.to_homeserver.seen());
    }

    /// As soon as something is sent, the homeserver cannot tell that it has come: only its answers do.
    fn hide_echoes(&self) {
        let sends = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&sends);
        self.trial.to_homeserver.judge(move |_, path| {
            begun.fetch_or(path.contains("/send/m.room.encrypted/"), Ordering::Relaxed);
            Fate::Pass
        });
        self.trial.to_parlour.judge(move |method, path| {
            let is_transaction = requests::is_transaction(&format!("{method} {path}"));
            if is_transaction && sends.load(Ordering::Relaxed) { Fate::CutRequest } else { Fate::Pass }
        });
    }

    /// Parlour, which has ended, is started again, and brings to an end what was begun.
    async fn goes_on(&mut self, place: &str) {
        let at = self.trial.ended_at().unwrap_or_else(|| panic!("{place}: {}", self.trial.last_words()));
        assert!(place.starts_with(&at), "{place}: {at}");
        let before = requests::counted(self.trial.to_homeserver.seen().iter().map(String::as_str));
        let unsealed = self.unsealed_of_the_first().await;
        self.trial.to_homeserver.pass_all();
        self.trial.to_parlour.pass_all();
        let begun = Instant::now();
        self.trial.start_parlour().await;
        assert!(self.settles(place).await, "{}", self.trial.last_words());
        let took = begun.elapsed().as_secs_f64();
        self.each_spoke_has_all(place).await;
        let after = requests::counted(self.trial.to_homeserver.seen().iter().map(String::as_str));
        let sent = [&before, &after].map(|counts| counts.get("hs.send-event").copied().unwrap_or_default());
        println!("{place}: sent {sent:?}, {unsealed} were not encrypted; {took:.1} s");
        if sent[0] > 0 {
            // What is encrypted is, and for the rest there is Olm. Room keys are sent for what is not, by two requests at most.
            assert_eq!(after.get("hs.claim-keys"), None, "{place}: {after:?}");
            let keys = after.get("hs.send-to-devices").copied().unwrap_or_default();
            assert!(keys <= unsealed.min(2), "{place}: {unsealed} were not encrypted: {after:?}");
        }
    }

    /// How many legs of the first of the two last messages, which alone needs new keys, are not encrypted.
    async fn unsealed_of_the_first(&self) -> usize {
        let last = (self.said.len() - 1) * PATIENTS;
        let sql = format!(
            "SELECT COUNT(*) FROM outbox
             WHERE state = 'waiting' AND ciphertext IS NULL AND seq > {} AND seq <= {last}",
            last - PATIENTS
        );
        usize::try_from(self.books.number(&sql).await).expect("a number")
    }

    /// By the homeserver's own database: in the room of each patient there stand as many ciphertexts as there should.
    async fn each_spoke_has_all(&self, place: &str) {
        let rooms = self.spokes_by_ciphertexts().await;
        let [said, patients] =
            [self.said.len(), PATIENTS].map(|count| i64::try_from(count).expect("a number"));
        assert_eq!(rooms, [(said, patients)], "{place}: how many ciphertexts stand in how many rooms");
    }

    /// How many ciphertexts stand in how many of the patients' rooms.
    async fn spokes_by_ciphertexts(&self) -> Vec<(i64, i64)> {
        self.of_homeserver(
            "SELECT events, COUNT(*) FROM (
                 SELECT COUNT(*) AS events FROM events WHERE type = 'm.room.encrypted' AND room_id <> $1 GROUP BY room_id
             ) GROUP BY events ORDER BY events",
        )
        .await
    }

    /// Two numbers of the homeserver's own database, of rooms other than the hub.
    async fn of_homeserver(&self, sql: &'static str) -> Vec<(i64, i64)> {
        let url = format!("sqlite://{}?mode=ro", self.trial.homeserver_database().display());
        let mut database = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        let rows = sqlx::query_as(sql).bind(self.talk.hub().as_str()).fetch_all(&mut database).await;
        database.close().await.expect("closed");
        rows.expect("numbers")
    }

    async fn everybody_reads_everything(&mut self) {
        let names = numbers(PATIENTS);
        let spokes: Vec<_> = names.iter().map(|name| self.talk.spoke(self.trial.person(name))).collect();
        for (client, spoke) in self.clients.iter().zip(&spokes) {
            assert_eq!(witness::others_words(client, spoke, self.said.len()).await, self.said);
        }
        for (device, spoke) in self.devices.iter_mut().zip(&spokes[CLIENTS..]) {
            assert_eq!(device.reads(spoke).await, self.said);
            assert_eq!(device.repeated(), 0, "no key came twice");
        }
    }
}
