//! One of the two databases is put back from a copy, and the other has gone on.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use parlour::demo::client::{Client, Message, Reading, Shield};
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, proxy::Fate, read, refusal, room_path, say, token, trial::Trial,
};
use reqwest::Method;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::all_that_stands;
use crate::{
    backup::{Scene, back_up, of_others, scene},
    crash::PROGRAM,
};

const LOOK: Duration = Duration::from_millis(50);

/// The device that encrypted each message, by its sender.
fn devices(messages: &[Message]) -> BTreeSet<String> {
    messages.iter().filter(|m| m.is_readable()).map(|m| m.sender.to_string()).collect()
}

fn put_parlour_back(trial: &Trial, copy: &Path) {
    let database = trial.data.join("parlour").join("parlour.db");
    for end in ["-wal", "-shm"] {
        let mut name = database.clone().into_os_string();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
    std::fs::copy(copy.join("parlour.database"), &database).expect("put in place");
}

#[tokio::test(flavor = "multi_thread")]
async fn database_restored_from_yesterday() {
    let Scene { mut trial, murphy, ann, talk } = scene(None).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let copy = trial.data.join("yesterday");
    back_up(&trial, &copy).await;

    // The world goes on: in the sessions that the copy knows, and in one that it does not.
    say(&murphy, &hub, "after").await;
    let after = read(&ann, &spoke, "after").await;
    ann.reply(&spoke, &after.event_id, "Ann after").await.expect("sent");
    read(&murphy, &hub, "Ann after").await;
    let room = murphy.matrix().get_room(&hub).expect("the hub");
    room.discard_room_key().await.expect("a new session");
    say(&murphy, &hub, "in a new session").await;
    read(&ann, &spoke, "in a new session").await;
    trial.quiet().await;

    // Only Parlour's file goes back, by hand; the homeserver has gone on.
    trial.kill_parlour().await;
    put_parlour_back(&trial, &copy);
    // What is written before it is up again.
    let meanwhile = say(&murphy, &hub, "meanwhile").await;
    trial.start_parlour().await;

    // The sender of what cannot be read any more hears of it: delivered or not.
    let lost =
        murphy.wait_for(&hub, LIMIT * 3, |m| m.msgtype == "m.notice" && m.body.contains("(KEY-4)")).await;
    let seen: Vec<_> = murphy.messages(&hub).await.expect("messages").into_iter().map(|m| m.body).collect();
    let lost = lost
        .unwrap_or_else(|error| panic!("{error}: {seen:?}; {}", trial.last_words()))
        .in_reply_to
        .expect("about an event");
    let said = murphy.messages(&hub).await.expect("messages");
    let body = said.iter().find(|m| m.event_id == lost).map(|m| m.body.as_str());
    assert_eq!(body, Some("in a new session"));
    let told = refusal(&murphy, &hub, &meanwhile).await;
    assert!(told.contains("(KEY-1)"), "written to the device that is no more: {told}");

    // Everything goes on, with new devices that no client warns of, and nothing is doubled.
    say(&murphy, &hub, "again").await;
    let again = read(&ann, &spoke, "again").await;
    ann.reply(&spoke, &after.event_id, "Ann again").await.expect("sent");
    let answer = read(&murphy, &hub, "Ann again").await;
    let asked = read(&murphy, &hub, "after").await;
    assert_eq!(answer.in_reply_to, Some(asked.event_id), "what was said after the backup is known");
    assert!(matches!(&again.reading, Reading::Readable { lax, .. } if *lax == Shield::None));
    trial.quiet().await;
    assert_eq!(of_others(&ann, &spoke).await, ["before", "after", "in a new session", "again"]);
    assert_eq!(of_others(&murphy, &hub).await, ["Ann before", "Ann after", "Ann again"]);
    assert!(!devices(&said).is_empty());
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// What Parlour goes through when its homeserver went back: it writes down that everybody is to be published again, takes in
/// the bot's inbox, publishes the bot, and reads the rooms back.
const MOMENTS: [&str; 8] = [
    "db.device-renewed",
    "db.machine-saved",
    "hs.end-device",
    "db.machine-renewed",
    "hs.upload-keys",
    "db.our-user-ready",
    "hs.read-history",
    "db.recovered",
];

async fn in_a_new_session(client: &Client, room: &RoomId, words: &str) {
    client.wait_for_room(LIMIT, |found| found.room_id == room).await.expect("in the room");
    let known = client.matrix().get_room(room).expect("their room");
    known.discard_room_key().await.expect("a new session");
    say(client, room, words).await;
}

/// A practice whose homeserver alone is put back from a copy. It has forgotten what was said since, who a ghost is, whose
/// one-time keys are used and which room keys it had for whom.
struct Practice {
    trial: Trial,
    murphy: Client,
    kim: Client,
    ann: Client,
    /// Phones that are off from before the copy to the end: Dr Murphy's and Ann's.
    away: [Client; 2],
    hub: OwnedRoomId,
    anns: OwnedRoomId,
    bens: OwnedRoomId,
    /// What Ann has before her from before the copy.
    before: OwnedEventId,
    copy: PathBuf,
}

impl Practice {
    /// Something is said, and the copy is made.
    async fn open() -> Self {
        let mut trial = Trial::open(PROGRAM, None, 0, None).await;
        let (murphy, kim) = (trial.sign_in("murphy", "first").await, trial.sign_in("kim", "first").await);
        let ann = trial.sign_in("ann", "first").await;
        let away = [trial.sign_in("murphy", "away").await, trial.sign_in("ann", "away").await];
        let talk = trial.begin(&murphy, "rebuilt", &["kim"], &["ann", "ben"]).await;
        let [anns, bens] = ["ann", "ben"].map(|name| talk.spoke(trial.person(name)));
        let hub = talk.hub();
        for (client, room) in away.iter().zip([&hub, &anns]) {
            client.wait_for_room(LIMIT, |found| found.room_id == *room).await.expect("in the room");
            client.pause().await;
        }
        say(&murphy, &hub, "before").await;
        let before = read(&ann, &anns, "before").await.event_id;
        say(&ann, &anns, "Ann before").await;
        read(&murphy, &hub, "Ann before").await;
        trial.quiet().await;
        let copy = trial.data.join("copy");
        trial.kill_homeserver().await;
        trial.copy_homeserver(&copy);
        trial.start_homeserver().await;
        trial.travels().await;
        Self { trial, murphy, kim, ann, away, hub, anns, bens, before, copy }
    }

    /// What the homeserver will have forgotten: words, sessions, Kim's ghost, Ben's device, which one-time keys were taken, and
    /// the rooms of a conversation.
    async fn forgotten(&self) {
        let Self { trial, murphy, kim, ann, hub, anns, bens, .. } = self;
        in_a_new_session(murphy, hub, "forgotten").await;
        read(ann, anns, "forgotten").await;
        say(kim, hub, "Kim, forgotten").await;
        read(ann, anns, "Kim, forgotten").await;
        in_a_new_session(ann, anns, "Ann, forgotten").await;
        read(murphy, hub, "Ann, forgotten").await;
        let ben = trial.sign_in("ben", "forgotten").await;
        read(&ben, bens, "forgotten").await;
        say(&ben, bens, "Ben, forgotten").await;
        read(murphy, hub, "Ben, forgotten").await;
        let talk = trial.begin(murphy, "since the copy", &[], &["ann"]).await;
        say(murphy, &talk.hub(), "forgotten with its room").await;
        read(ann, &talk.spoke(trial.person("ann")), "forgotten with its room").await;
        trial.quiet().await;
        ben.stop().await;
    }

    /// The homeserver goes back, and somebody writes before Parlour has looked: the key waits in the bot's inbox.
    async fn goes_back(&mut self, parlour_runs: bool) {
        if !parlour_runs {
            self.trial.kill_parlour().await;
        }
        self.trial.kill_homeserver().await;
        self.trial.put_homeserver_back(&self.copy);
        // Synapse takes what stands in an inbox as read when somebody asks from a place that it has not come to yet, so
        // phones that are on ask before anything is sent to them.
        self.trial.to_homeserver.judge(|_, _| Fate::CutRequest);
        let news = [&self.murphy, &self.kim, &self.ann].map(Client::updates);
        self.trial.start_homeserver().await;
        for mut news in news {
            timeout(LIMIT, news.changed()).await.expect("in time").expect("it syncs");
        }
        in_a_new_session(&self.murphy, &self.hub, "meanwhile").await;
        if !parlour_runs {
            self.breaks_off().await;
        }
        self.trial.to_homeserver.pass_all();
        let open = Instant::now();
        if !parlour_runs {
            self.trial.start_parlour().await;
        }
        read(&self.ann, &self.anns, "meanwhile").await;
        println!("after the homeserver went back, the first message was there in {:?}", open.elapsed());
    }

    /// Parlour is ended while it deals with that, at one moment after the other.
    async fn breaks_off(&mut self) {
        for place in MOMENTS {
            self.trial.to_homeserver.judge(|_, _| Fate::CutRequest);
            self.trial.spawn_parlour().await;
            assert_eq!(self.trial.order(&format!("end after {place} 1")).await, "armed");
            self.trial.to_homeserver.pass_all();
            assert!(self.trial.parlour_ends(LIMIT).await, "after {place}: {}", self.trial.last_words());
            assert_eq!(self.trial.ended_at().as_deref(), Some(&*format!("after {place}")));
        }
        self.trial.to_homeserver.judge(|_, _| Fate::CutRequest);
    }

    /// Everybody goes on; Ben on a device that is new.
    async fn goes_on(&self) -> Client {
        let Self { trial, murphy, kim, ann, hub, anns, bens, .. } = self;
        in_a_new_session(ann, anns, "Ann after").await;
        read(murphy, hub, "Ann after").await;
        // Her client does not know that the homeserver has lost its key for Dr Murphy's phone that was off.
        in_a_new_session(kim, hub, "Kim after").await;
        read(ann, anns, "Kim after").await;
        say(murphy, hub, "Murphy after").await;
        read(ann, anns, "Murphy after").await;
        // Who signs in now is given the one-time keys that were taken already, unless they are published anew.
        let ben = trial.sign_in("ben", "late").await;
        say(&ben, bens, "Ben after").await;
        read(murphy, hub, "Ben after").await;
        say(kim, hub, "Kim to Ben, too").await;
        read(&ben, bens, "Kim to Ben, too").await;
        ann.reply(anns, &self.before, "Ann answers").await.expect("sent");
        let answer = read(murphy, hub, "Ann answers").await;
        assert!(answer.in_reply_to.is_some(), "what it answers is known");
        trial.quiet().await;
        ben
    }
}

async fn homeserver_goes_back(parlour_runs: bool) {
    let mut practice = Practice::open().await;
    practice.forgotten().await;
    practice.goes_back(parlour_runs).await;
    let ben = practice.goes_on().await;
    let Practice { trial, murphy, kim, ann, away, hub, anns, .. } = practice;
    let [murphys, anns_away] = &away;
    let to_ann = ["before", "meanwhile", "Kim after", "Murphy after", "Kim to Ben, too"];
    all_that_stands(anns_away, &anns, &to_ann).await;
    let others = ["Ann before", "Ann after", "Kim after", "Ben after", "Kim to Ben, too", "Ann answers"];
    all_that_stands(murphys, &hub, &others).await;
    let log = trial.log();
    let told = log.matches("the homeserver's database was put back from a copy").count();
    assert_eq!(told, 1, "the operator is told: {log}");
    assert!(log.contains("a room cannot be read back"), "and of rooms that are gone: {log}");
    for client in away.into_iter().chain([murphy, kim, ann, ben]) {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_database_rebuilt() {
    homeserver_goes_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeserver_database_rebuilt_while_parlour_is_down() {
    homeserver_goes_back(false).await;
}

/// What a homeserver failed to keep counts until it starts anew: then it counts from a lower place, and has what it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_counts_from_a_lower_place_was_not_put_back() {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    let books = Books::of(&trial.data, None);
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "lower", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    trial.quiet().await;
    trial.kill_parlour().await;
    let higher = "UPDATE intake SET caught_up_to = 's9' || SUBSTR(caught_up_to, 2)";
    assert_eq!(books.change(higher).await, 1);
    say(&murphy, &hub, "meanwhile").await;
    trial.start_parlour().await;
    read(&ann, &spoke, "meanwhile").await;
    say(&ann, &spoke, "Ann after").await;
    read(&murphy, &hub, "Ann after").await;
    trial.quiet().await;
    let log = trial.log();
    assert_eq!(log.matches("counts events from a lower place").count(), 1, "{log}");
    assert!(!log.contains("put back from a copy"), "{log}");
    all_that_stands(&ann, &spoke, &["before", "meanwhile"]).await;
    all_that_stands(&murphy, &hub, &["Ann after"]).await;
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// What holds in a patient's room, for every client.
async fn is_read_only(trial: &Trial, ann: &Client, spoke: &RoomId) {
    let levels = room_path(spoke, "state/m.room.power_levels");
    let deadline = Instant::now() + LIMIT;
    loop {
        let (status, levels) = ann.http().call(Method::GET, &levels, None).await.expect("an answer");
        if status == 200 && levels["events_default"] == 50 {
            break;
        }
        assert!(Instant::now() < deadline, "{status} {levels}: {}", trial.last_words());
        sleep(LOOK).await;
    }
    let (status, _) = ann
        .http()
        .call(Method::PUT, &room_path(spoke, "send/m.room.encrypted/x"), Some(json!({})))
        .await
        .expect("an answer");
    assert_eq!(status, 403);
}

/// Waits until the mode of a conversation holds in all its rooms.
async fn is_one_way(trial: &Trial, caller: &Caller, talk: &Talk) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let told = caller.one(talk.id()).await;
        if (&told["mode"], &told["switching"]) == (&json!("one-way"), &json!(0)) {
            return;
        }
        assert!(Instant::now() < deadline, "{told}: {}", trial.last_words());
        sleep(LOOK).await;
    }
}

/// A conversation that was switched since the copy of Parlour's database was made stays so, and the bot says it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_the_database_has_forgotten() {
    let Scene { mut trial, murphy, ann, talk } = scene(None).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let copy = trial.data.join("yesterday");
    back_up(&trial, &copy).await;
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    assert_eq!(caller.switched(talk.id(), "one-way").await.expect("an answer").0, 200);
    say(&murphy, &hub, "only read").await;
    read(&ann, &spoke, "only read").await;
    trial.quiet().await;
    trial.kill_parlour().await;
    put_parlour_back(&trial, &copy);
    trial.start_parlour().await;
    is_one_way(&trial, &caller, &talk).await;
    is_read_only(&trial, &ann, &spoke).await;
    say(&murphy, &hub, "again").await;
    read(&ann, &spoke, "again").await;
    trial.quiet().await;
    let messages = ann.messages(&spoke).await.expect("messages");
    let told = messages.iter().filter(|m| m.body.contains("only the practice writes")).count();
    assert_eq!(told, 1, "{messages:?}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// The place in the order of all events up to which Parlour knows everything.
const KNOWN_PLACE: &str =
    "SELECT CAST(SUBSTR(caught_up_to, 2, INSTR(caught_up_to, '_') - 2) AS BIGINT) FROM intake";

/// Where the homeserver is.
async fn place_of(client: &Client) -> i64 {
    let path = "/_matrix/client/v3/sync?timeout=0";
    let (status, told) = client.http().call(Method::GET, path, None).await.expect("an answer");
    assert_eq!(status, 200, "{told}");
    let place = told["next_batch"].as_str().and_then(|place| place.strip_prefix('s')).expect("a place");
    place.split('_').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// A homeserver that was put back has its rooms as they were: they are switched once more. Whoever writes to it before that has
/// written as the room was then.
async fn homeserver_forgets_a_switch(meanwhile: &[&str]) {
    let Scene { mut trial, murphy, ann, talk } = scene(None).await;
    let books = Books::of(&trial.data, None);
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    trial.quiet().await;
    let copy = trial.data.join("copy");
    trial.kill_homeserver().await;
    trial.copy_homeserver(&copy);
    trial.start_homeserver().await;
    trial.travels().await;
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    assert_eq!(caller.switched(talk.id(), "one-way").await.expect("an answer").0, 200);
    trial.quiet().await;
    trial.kill_parlour().await;
    trial.kill_homeserver().await;
    trial.put_homeserver_back(&copy);
    trial.start_homeserver().await;
    let path = room_path(&spoke, "state/m.room.power_levels");
    let (_, levels) = ann.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_ne!(levels["events_default"], 50, "it has forgotten");
    for words in meanwhile {
        say(&ann, &spoke, words).await;
    }
    let known = books.number(KNOWN_PLACE).await;
    let now = place_of(&ann).await;
    assert!(meanwhile.is_empty() || now > known, "it has counted past {known}: {now}");
    trial.start_parlour().await;
    is_read_only(&trial, &ann, &spoke).await;
    is_one_way(&trial, &caller, &talk).await;
    for words in meanwhile {
        read(&murphy, &hub, words).await;
    }
    trial.quiet().await;
    // What it has lost it has lost: it is not taken for put back again.
    trial.kill_parlour().await;
    trial.start_parlour().await;
    trial.travels().await;
    let log = trial.log();
    let told = log.matches("the homeserver's database was put back from a copy").count();
    assert_eq!(told, 1, "the operator is told: {log}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_the_homeserver_has_forgotten() {
    homeserver_forgets_a_switch(&[]).await;
}

/// It has counted on past where it had been.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_the_homeserver_has_forgotten_and_goes_on() {
    homeserver_forgets_a_switch(&["one", "two", "three", "four", "five", "six", "seven", "eight"]).await;
}

/// The homeserver was put back and that was dealt with, and then Parlour's database, which is of before: what became of the rooms
/// since then stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_after_the_homeserver_went_back_that_the_database_has_forgotten() {
    let Scene { mut trial, murphy, ann, talk } = scene(None).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    let homeserver = trial.data.join("homeserver's copy");
    trial.kill_homeserver().await;
    trial.copy_homeserver(&homeserver);
    trial.start_homeserver().await;
    trial.travels().await;
    say(&murphy, &hub, "lost").await;
    read(&ann, &spoke, "lost").await;
    trial.quiet().await;
    let copy = trial.data.join("yesterday");
    back_up(&trial, &copy).await;
    trial.kill_parlour().await;
    trial.kill_homeserver().await;
    trial.put_homeserver_back(&homeserver);
    trial.start_homeserver().await;
    trial.start_parlour().await;
    trial.quiet().await;
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    assert_eq!(caller.switched(talk.id(), "one-way").await.expect("an answer").0, 200);
    is_read_only(&trial, &ann, &spoke).await;
    trial.quiet().await;
    trial.kill_parlour().await;
    put_parlour_back(&trial, &copy);
    trial.start_parlour().await;
    is_one_way(&trial, &caller, &talk).await;
    trial.quiet().await;
    is_read_only(&trial, &ann, &spoke).await;
    let log = trial.log();
    let told = log.matches("the homeserver's database was put back from a copy").count();
    assert_eq!(told, 2, "the old database knows nothing of the first time: {log}");
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}
