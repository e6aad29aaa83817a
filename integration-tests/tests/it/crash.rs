//! `kill -9` at every commit of the database and every request to the homeserver: nothing is lost, nothing comes twice,
//! and everything stays in order.
//!
//! For each kind of traffic one message is recorded: which commit points it goes through. The list is held against two
//! witnesses outside of Parlour: the proxy on the way to the homeserver, and the database's own count of commits. Then,
//! for each point and each side of it, Parlour ends itself there, is started again, and the next message has to arrive.
//! In the end clients that have read nothing so far read everything, and the ciphertexts in the rooms are counted.
//!
//! A message to ten patients goes through the same points ten times: killed at are the first, the middle and the last
//! passage of each. `PARLOUR_TEST_SWEEP=full` has all of them killed at, for every kind of traffic.
//!
//! One file, though past 500 lines: scene, traffic, kills and their counting are read together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk,
    books::{Books, Standing},
    proxy::Fate,
    read, requests, say,
    trial::Trial,
    witness,
};
use parlour_test_postgres::Postgres;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use sqlx::Connection as _;
use tokio::time::{Instant, sleep};

use crate::killed::{self, Killed};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_parlour-under-test");
const SWITCH: &str = "PARLOUR_TEST_SWEEP";
const PATIENTS: usize = 10;
/// How often a point is tried that was in another place each time.
const ATTEMPTS: usize = 3;
/// How often Parlour and its database are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// From the start of the process until the message that was under way is delivered.
const LONGEST_RECOVERY: Duration = Duration::from_secs(5);
/// After this it is written down what is missing.
const SLOW: Duration = Duration::from_millis(3500);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_loses_and_doubles_nothing_on_sqlite() {
    sweep(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_loses_and_doubles_nothing_on_postgresql() {
    // A server of its own: its count of transactions is the server's.
    let Some(server) = Postgres::start().expect("PostgreSQL") else {
        println!("skipped: PostgreSQL is not installed");
        return;
    };
    let url = server.create_database().expect("a database");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("PostgreSQL");
    // It would be counted among the transactions.
    for sql in ["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"] {
        sqlx::query(sql).execute(&mut connection).await.expect("set");
    }
    connection.close().await.expect("closed");
    sweep(Some(url)).await;
}

/// Who does not notice a promise broken on purpose proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_shows_what_a_broken_promise_loses_or_doubles() {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    let books = Books::of(&trial.data, None);
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "faults", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "hello").await;
    let ghost = read(&ann, &spoke, "hello").await.sender;
    for (fault, place, copies) in [
        (None, "after hs.send-event 1", 1..=1),
        (Some("answer-first"), "before db.transaction-kept 1", 0..=0),
        // By the transaction and by what is asked for after a break.
        (Some("no-dedup"), "after db.transaction-kept 1", 2..=3),
        (Some("new-transaction-id"), "after hs.send-event 1", 2..=2),
    ] {
        let before = witness::ciphertexts(&ann, &spoke).await[ghost.as_str()];
        trial.kill_parlour().await;
        trial.break_promise(fault);
        trial.start_parlour().await;
        trial.order(&format!("end {place}")).await;
        // The first brings the message; a later one would bring the news that its leg stands in the room.
        let mut transactions = 0;
        let hides_echoes = fault == Some("new-transaction-id");
        trial.to_parlour.judge(move |method, path| {
            let is_transaction = requests::is_transaction(&format!("{method} {path}"));
            transactions += usize::from(is_transaction);
            if is_transaction && hides_echoes && transactions > 1 { Fate::CutRequest } else { Fate::Pass }
        });
        murphy.send_text(&hub, place).await.expect("sent");
        assert!(trial.parlour_ends(LIMIT).await, "{fault:?}: it ends {place}");
        trial.start_parlour().await;
        books.still().await;
        trial.to_parlour.pass_all();
        let after = witness::ciphertexts(&ann, &spoke).await[ghost.as_str()];
        assert!(copies.contains(&(after - before)), "{fault:?} {place}: {}", after - before);
    }
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

async fn sweep(postgres: Option<String>) {
    let mut scene = Scene::open(postgres).await;
    let mut everywhere = BTreeSet::new();
    for traffic in Traffic::ALL {
        let record = scene.record(traffic).await;
        let kills = scene.kill_everywhere(traffic, &record).await;
        report(scene.books.name(), traffic, &record, &kills);
        everywhere.extend(kills.at.into_keys());
    }
    scene.everything_is_there_once().await;
    Killed::at(&everywhere).is_all_of(killed::Scene::Traffic);
    scene.close().await;
}

/// Who writes to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Traffic {
    StaffToOne,
    PatientToHub,
    StaffToTen,
    StaffToOneOfTen,
}

impl Traffic {
    const ALL: [Self; 4] = [Self::StaffToOne, Self::PatientToHub, Self::StaffToTen, Self::StaffToOneOfTen];

    fn name(self) -> &'static str {
        match self {
            Self::StaffToOne => "staff to one patient",
            Self::PatientToHub => "a patient to staff",
            Self::StaffToTen => "staff to ten patients",
            Self::StaffToOneOfTen => "staff's answer to one of ten patients",
        }
    }

    fn legs(self) -> usize {
        if self == Self::StaffToTen { PATIENTS } else { 1 }
    }

    /// Whether each message goes by sessions of its own, so that keys are claimed and sent for it.
    fn is_by_new_sessions(self) -> bool {
        self != Self::StaffToOneOfTen
    }
}

/// Whether everything is to be killed at.
pub(crate) fn is_full() -> bool {
    std::env::var_os(SWITCH).is_some_and(|value| value == "full")
}

/// The commit points that were gone through, in order.
pub(crate) struct Record {
    pub(crate) points: Vec<String>,
}

impl Record {
    /// As Parlour tells it.
    pub(crate) fn of(told: &str) -> Self {
        Self { points: told.split_whitespace().map(str::to_owned).collect() }
    }

    fn count(&self, point: &str) -> usize {
        self.points.iter().filter(|passed| *passed == point).count()
    }

    /// Of each point the first, the middle and the last passage, as an order names them.
    pub(crate) fn chosen(&self) -> Vec<String> {
        let points: BTreeSet<_> = self.points.iter().collect();
        let of_each = points.into_iter().flat_map(|point| {
            let last = self.count(point);
            let passages = BTreeSet::from([1, last.div_ceil(2), last]);
            passages.into_iter().map(move |passage| format!("{point} {passage}"))
        });
        of_each.collect()
    }
}

/// What kills came to.
#[derive(Default)]
pub(crate) struct Kills {
    /// Where, as side and point, and how often.
    pub(crate) at: BTreeMap<String, usize>,
    /// How often everything was done without coming to the point that was meant.
    pub(crate) unharmed: usize,
    recoveries: Vec<Duration>,
}

impl Kills {
    pub(crate) fn count(&mut self, at: String, recovery: Duration) {
        *self.at.entry(at).or_default() += 1;
        self.recoveries.push(recovery);
        self.recoveries.sort();
    }
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |at: usize| self.recoveries.get(at).map_or(0.0, Duration::as_secs_f64);
        let (count, unharmed) = (self.recoveries.len(), self.unharmed);
        write!(f, "killed {count} times, unharmed {unharmed}; recovery {:.2} s median", seconds(count / 2))?;
        write!(f, ", {:.2} s at most", seconds(count.saturating_sub(1)))
    }
}

/// A practice, its people's clients, two conversations, and all that was said in them.
struct Scene {
    trial: Trial,
    books: Books,
    murphy: Client,
    ann: Client,
    /// Second devices, which read nothing before the end.
    fresh: Vec<(String, Client)>,
    one: Talk,
    ten: Talk,
    /// The message in the second hub that is answered, and who wrote it.
    answered: OwnedEventId,
    answered_patient: String,
    said: BTreeMap<Traffic, Vec<String>>,
    expected: Standing,
    /// What the present wait stood at when it had become long.
    slow: Option<String>,
    /// What had gone both ways by then.
    seen: [Vec<String>; 2],
}

/// What comes of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Settled,
    Ended,
}

impl Scene {
    async fn open(postgres: Option<String>) -> Self {
        let trial = Trial::open(PROGRAM, postgres.clone(), PATIENTS, None).await;
        let books = Books::of(&trial.data, postgres.as_deref());
        let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
        let numbers: Vec<_> = (1..=PATIENTS).map(|n| format!("number{n}")).collect();
        let mut fresh = Vec::new();
        for name in ["murphy", "ann"].into_iter().chain(numbers.iter().map(String::as_str)) {
            fresh.push((name.to_owned(), trial.sign_in(name, "fresh").await));
        }
        let one = trial.begin(&murphy, "one", &[], &["ann"]).await;
        let numbers: Vec<_> = numbers.iter().map(String::as_str).collect();
        let ten = trial.begin(&murphy, "ten", &[], &numbers).await;
        // What is said first has every ghost made, and is answered all the time.
        let answered_patient = numbers[PATIENTS / 2].to_owned();
        let patient = &fresh.iter().find(|(name, _)| *name == answered_patient).expect("a patient").1;
        let (hub, spoke) = (one.hub(), one.spoke(trial.person("ann")));
        say(&murphy, &hub, "hello, one").await;
        read(&ann, &spoke, "hello, one").await;
        say(&ann, &spoke, "hello from one").await;
        read(&murphy, &hub, "hello from one").await;
        say(&murphy, &ten.hub(), "hello, ten").await;
        let their_spoke = ten.spoke(trial.person(&answered_patient));
        read(patient, &their_spoke, "hello, ten").await;
        say(patient, &their_spoke, "hello from ten").await;
        let answered = read(&murphy, &ten.hub(), "hello from ten").await.event_id;
        murphy.reply(&ten.hub(), &answered, "hello, one of ten").await.expect("sent");
        read(patient, &their_spoke, "hello, one of ten").await;
        // The bot tells staff once how answers travel.
        murphy
            .wait_for(&ten.hub(), LIMIT, |message| message.msgtype == "m.notice")
            .await
            .expect("the bot's word");
        for (_, client) in &fresh {
            client.pause().await;
        }
        let mut scene = Self {
            trial,
            books,
            murphy,
            ann,
            fresh,
            one,
            ten,
            answered,
            answered_patient,
            said: BTreeMap::new(),
            expected: Standing { events: 0, events_waiting: 0, legs: 0, legs_waiting: 0 },
            slow: None,
            seen: Default::default(),
        };
        scene.expected = scene.books.still().await.0;
        scene
    }

    async fn close(self) {
        for client in
            [self.murphy, self.ann].into_iter().chain(self.fresh.into_iter().map(|(_, client)| client))
        {
            client.stop().await;
        }
        self.trial.close().await;
    }

    /// Kills Parlour while it does nothing, and starts it anew, so that everything begins from what is stored.
    async fn anew(&mut self, traffic: Traffic) {
        self.trial.kill_parlour().await;
        if traffic.is_by_new_sessions() {
            self.books.forget_sessions().await;
            let (client, room) = self.place(traffic);
            let room = client.matrix().get_room(&room).expect("their room");
            room.discard_room_key().await.expect("forgotten");
        }
        self.trial.to_parlour.pass_all();
        drop(self.trial.to_homeserver.seen());
        self.trial.start_parlour().await;
        self.asks("it waits for news", |request| request.contains("timeout=30000")).await;
        drop(self.trial.to_parlour.seen());
    }

    /// Waits until Parlour has looked in this way for what is new.
    async fn asks(&self, what: &str, looks: impl Fn(&str) -> bool) {
        let mut seen = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while !seen.iter().any(|request: &String| request.contains("/sync?") && looks(request)) {
            assert!(Instant::now() < deadline, "{what}: {seen:?}");
            sleep(LOOK).await;
            seen.extend(self.trial.to_homeserver.seen());
        }
    }

    /// Who writes, and where.
    fn place(&self, traffic: Traffic) -> (&Client, OwnedRoomId) {
        match traffic {
            Traffic::StaffToOne => (&self.murphy, self.one.hub()),
            Traffic::PatientToHub => (&self.ann, self.one.spoke(self.trial.person("ann"))),
            Traffic::StaffToTen | Traffic::StaffToOneOfTen => (&self.murphy, self.ten.hub()),
        }
    }

    /// The next message of this kind is sent.
    async fn say_next(&mut self, traffic: Traffic) {
        let number = self.said.get(&traffic).map_or(0, Vec::len) + 1;
        let words = format!("{} {number}", traffic.name());
        let (client, room) = self.place(traffic);
        let sent = match traffic {
            Traffic::StaffToOneOfTen => client.reply(&room, &self.answered, &words).await,
            _ => client.send_text(&room, &words).await,
        };
        sent.expect("sent");
        self.said.entry(traffic).or_default().push(words);
        let legs = i64::try_from(traffic.legs()).expect("a number");
        // The message itself, and each of its legs as it comes back.
        self.expected.events += 1 + legs;
        self.expected.legs += legs;
    }

    /// Whether everything has come, has been handled, was sent, and has come back.
    async fn is_settled(&self) -> bool {
        let Some(standing) = self.books.standing().await else { return false };
        let too_much = standing.events > self.expected.events || standing.legs > self.expected.legs;
        assert!(!too_much, "{standing:?} instead of {:?}", self.expected);
        standing == self.expected
    }

    /// Waits until everything has settled, or Parlour has ended; which of the two.
    async fn settles(&mut self) -> Outcome {
        let begun = Instant::now();
        (self.slow, self.seen) = (None, Default::default());
        loop {
            if !self.trial.parlour_runs() {
                return Outcome::Ended;
            }
            if self.is_settled().await {
                return Outcome::Settled;
            }
            let (standing, words) = (self.books.standing().await, self.trial.last_words());
            if begun.elapsed() > SLOW && self.slow.is_none() {
                self.seen = [self.trial.to_homeserver.seen(), self.trial.to_parlour.seen()];
                self.slow =
                    Some(format!("after {SLOW:?} {standing:?} of {:?}; {:?}", self.expected, self.seen));
            }
            assert!(begun.elapsed() < LIMIT, "{standing:?} instead of {:?}: {words}", self.expected);
            sleep(LOOK).await;
        }
    }

    /// Records one message, and holds the record against the witnesses.
    async fn record(&mut self, traffic: Traffic) -> Record {
        loop {
            self.anew(traffic).await;
            // What it asks for by the clock, soon after a start, belongs to no message.
            self.asks("it asks for what it missed", is_by_the_clock).await;
            self.books.still().await;
            let before = self.books.commits().await;
            self.trial.order("record").await;
            self.say_next(traffic).await;
            assert_eq!(self.settles().await, Outcome::Settled, "{}", self.trial.last_words());
            let (_, after) = self.books.still().await;
            let record = Record::of(&self.trial.order("recorded").await);
            let [mut out, mut back] = std::mem::take(&mut self.seen);
            out.extend(self.trial.to_homeserver.seen());
            back.extend(self.trial.to_parlour.seen());
            // Where SQLite has begun its log anew, there is no telling. Where the homeserver had lost sight of a transaction
            // that brings nothing new, this message's was refused once. And the clock may have struck. Then another message
            // is recorded.
            let Some(commits) = after.since(before) else { continue };
            let struck =
                record.count("db.caught-up") > 0 || out.iter().any(|request| is_by_the_clock(request));
            if struck || record.count("hs.ping") > 0 {
                continue;
            }
            let back = back.iter().filter(|request| requests::is_transaction(request)).count();
            self.is_complete(traffic, &record, commits, &out, back);
            return record;
        }
    }

    fn is_complete(&self, traffic: Traffic, record: &Record, written: i64, out: &[String], back: usize) {
        let (database, name) = (self.books.name(), traffic.name());
        let list = record.points.join(" ");
        let commits = record.points.iter().filter(|point| point.starts_with("db.")).count();
        assert_eq!(i64::try_from(commits), Ok(written), "{database}, {name}: commits: {list}");
        let mut recorded: BTreeMap<&str, usize> = BTreeMap::new();
        for point in record.points.iter().filter(|point| point.starts_with("hs.")) {
            *recorded.entry(point).or_default() += 1;
        }
        assert_eq!(
            recorded,
            requests::counted(out.iter().map(String::as_str)),
            "{database}, {name}: {out:?}"
        );
        // One commit a transaction, one a message, one for all of its legs that are encrypted together, at most one a leg that
        // lands: the echo may settle it with its transaction.
        assert_eq!(record.count("db.transaction-kept"), back, "{database}, {name}: {list}");
        assert_eq!(record.count("db.event-decided"), 1, "{database}, {name}: {list}");
        assert_eq!(record.count("db.leg-sealed"), 1, "{database}, {name}: {list}");
        assert!(record.count("db.leg-landed") <= traffic.legs(), "{database}, {name}: {list}");
        assert_eq!(record.count("hs.send-event"), traffic.legs(), "{database}, {name}: {list}");
    }

    /// Kills before and after each point.
    async fn kill_everywhere(&mut self, traffic: Traffic, record: &Record) -> Kills {
        let mut kills = Kills::default();
        for side in ["before", "after"] {
            if is_full() || traffic.legs() == 1 {
                // One run has more points than another: it ends where all of them were passed.
                let mut k = 1;
                while self
                    .kill(traffic, side, &k.to_string(), &mut kills)
                    .await
                    .is_none_or(|passed| k <= passed)
                {
                    k += 1;
                }
            } else {
                for place in record.chosen() {
                    self.kill(traffic, side, &place, &mut kills).await;
                }
            }
            // And one run goes through them in another order than the next.
            for point in record.points.iter().collect::<BTreeSet<_>>() {
                // What comes after the one is the next message's, and the other is done by the clock.
                if format!("{side} {point}") == "after hs.read-inbox" || point == "db.caught-up" {
                    continue;
                }
                for _ in 0..ATTEMPTS {
                    if !kills.at.contains_key(&format!("{side} {point}")) {
                        self.kill(traffic, side, &format!("{point} 1"), &mut kills).await;
                    }
                }
                assert!(
                    kills.at.contains_key(&format!("{side} {point}")),
                    "never {side} {point}: {:?}",
                    kills.at
                );
            }
        }
        kills
    }

    /// Kills at one place while the next message is under way, and starts again. When the message is done without
    /// that, how many points it went through.
    async fn kill(&mut self, traffic: Traffic, side: &str, place: &str, kills: &mut Kills) -> Option<usize> {
        self.anew(traffic).await;
        self.trial.order(&format!("end {side} {place}")).await;
        self.say_next(traffic).await;
        let passed = match self.settles().await {
            Outcome::Settled => self.trial.order_if_it_runs("recorded").await,
            Outcome::Ended => None,
        };
        if let Some(passed) = passed {
            kills.unharmed += 1;
            return Some(passed.split_whitespace().count());
        }
        assert!(self.trial.parlour_ends(LIMIT).await, "it ends");
        let at =
            self.trial.ended_at().unwrap_or_else(|| panic!("{side} {place}: {}", self.trial.last_words()));
        let begun = Instant::now();
        drop((self.trial.to_homeserver.seen(), self.trial.to_parlour.seen()));
        self.trial.start_parlour().await;
        let receiving = begun.elapsed();
        assert_eq!(self.settles().await, Outcome::Settled, "{}", self.trial.last_words());
        let recovery = begun.elapsed();
        let words = self.trial.last_words();
        assert!(
            recovery <= LONGEST_RECOVERY,
            "{at}: {recovery:?}, receiving after {receiving:?}; {:?}: {words}",
            self.slow
        );
        kills.count(at, recovery);
        None
    }

    /// What others have said in a room, in order, as it must stand there.
    fn others_words(&self, room: &RoomId) -> Vec<String> {
        let of = |traffic: Traffic| self.said.get(&traffic).cloned().unwrap_or_default();
        let ann = self.one.spoke(self.trial.person("ann"));
        let theirs = self.ten.spoke(self.trial.person(&self.answered_patient));
        let first = |words: &str| vec![words.to_owned()];
        if room == self.one.hub() {
            [first("hello from one"), of(Traffic::PatientToHub)].concat()
        } else if room == ann {
            [first("hello, one"), of(Traffic::StaffToOne)].concat()
        } else if room == self.ten.hub() {
            first("hello from ten")
        } else if room == theirs {
            let firsts = ["hello, ten", "hello, one of ten"].map(str::to_owned).to_vec();
            [firsts, of(Traffic::StaffToTen), of(Traffic::StaffToOneOfTen)].concat()
        } else {
            [first("hello, ten"), of(Traffic::StaffToTen)].concat()
        }
    }

    /// Every message stands in every room where it belongs, once and in order: read by clients that have read nothing
    /// before, and counted as ciphertexts.
    async fn everything_is_there_once(&self) {
        for (name, client) in &self.fresh {
            client.resume().await;
            let person = self.trial.person(name);
            let rooms = match &**name {
                "murphy" => vec![self.one.hub(), self.ten.hub()],
                "ann" => vec![self.one.spoke(person)],
                _ => vec![self.ten.spoke(person)],
            };
            for room in rooms {
                self.reads_all(name, client, &room).await;
                self.ciphertexts_are_as_many(name, client, &room).await;
            }
            client.pause().await;
        }
    }

    async fn reads_all(&self, name: &str, client: &Client, room: &RoomId) {
        let wanted = self.others_words(room);
        let read = witness::others_words(client, room, wanted.len()).await;
        assert_eq!(read, wanted, "what {name} reads");
    }

    async fn ciphertexts_are_as_many(&self, name: &str, client: &Client, room: &RoomId) {
        let mut counts = witness::ciphertexts(client, room).await;
        let own = counts.remove(client.user_id().as_str()).unwrap_or_default();
        assert_eq!(own, self.own_words(client.user_id(), room), "what {name} has written");
        let others: usize = counts.values().sum();
        // The bot's one word stands in the second hub.
        let notices = usize::from(room == self.ten.hub());
        assert_eq!(
            others,
            self.others_words(room).len() + notices,
            "ciphertexts that {name} got: {counts:?}"
        );
        assert_eq!(counts.len(), 1 + notices, "who has written to {name}: {counts:?}");
    }

    /// How many messages a person has written into a room themselves.
    fn own_words(&self, user: &UserId, room: &RoomId) -> usize {
        let of = |traffic: Traffic| self.said.get(&traffic).map_or(0, Vec::len);
        let answered = self.trial.person(&self.answered_patient);
        if room == self.one.hub() {
            1 + of(Traffic::StaffToOne)
        } else if user == self.trial.person("ann").user_id {
            1 + of(Traffic::PatientToHub)
        } else if room == self.ten.hub() {
            2 + of(Traffic::StaffToTen) + of(Traffic::StaffToOneOfTen)
        } else {
            usize::from(user == answered.user_id)
        }
    }
}

/// Whether a look for what is new is the one that is taken by the clock: it is no device's.
fn is_by_the_clock(request: &str) -> bool {
    request.contains("/sync?") && !request.contains("device_id=")
}

fn report(database: &str, traffic: Traffic, record: &Record, kills: &Kills) {
    let of = |kind: &str| record.points.iter().filter(|point| point.starts_with(kind)).count();
    println!(
        "{database}, {}: n = {} ({} commits, of them {} of Olm machines; {} requests; {} transactions; {} of {} legs \
         landed by the answer); {kills}",
        traffic.name(),
        record.points.len(),
        of("db."),
        record.count("db.machine-saved"),
        of("hs."),
        record.count("db.transaction-kept"),
        record.count("db.leg-landed"),
        traffic.legs(),
    );
    println!("  points: {}", record.points.join(" "));
    println!("  killed: {:?}", kills.at);
}
