//! What was said is changed, reacted to, deleted by its writer's client, and deleted by the practice API. Wherever Parlour
//! ends meanwhile, it stands so in both patients' rooms soon after the next start, and once.

use std::collections::BTreeSet;

use parlour::demo::client::Client;
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, proxy::Fate, read, requests::point_of, room_path, say, token, trial::Trial,
};
use reqwest::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Killed, Scene, practice};
use crate::{
    crash::{Record, is_full},
    saying::{delete, edit, react},
};

const LOOK: Duration = Duration::from_millis(20);
const SIDES: [&str; 2] = ["before", "after"];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_is_changed_or_deleted_leaves_no_room_behind_on_sqlite() {
    deleting(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_is_changed_or_deleted_leaves_no_room_behind_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        deleting(Some(postgres.create_database().expect("a database"))).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Edit,
    React,
    Delete,
    DeleteByApi,
}

impl Act {
    const ALL: [Self; 4] = [Self::Edit, Self::React, Self::Delete, Self::DeleteByApi];

    fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::DeleteByApi)
    }
}

/// A message of Dr Murphy's in the hub, and what it is in the rooms of Ann and Ben.
struct Said {
    own: OwnedEventId,
    theirs: [OwnedEventId; 2],
}

/// A conversation of Dr Murphy with Ann and Ben.
struct Surgery {
    trial: Trial,
    books: Books,
    murphy: Client,
    patients: [Client; 2],
    talk: Talk,
    killed: Killed,
}

async fn deleting(database: Option<String>) {
    let begun = Instant::now();
    let mut scene = Surgery::open(database).await;
    let mut kills = 0;
    for act in Act::ALL {
        let record = scene.record(act).await;
        let places = if is_full() { record.chosen() } else { once_each(&record) };
        for place in &places {
            for side in SIDES {
                kills += usize::from(scene.is_killed(act, &format!("{side} {place}")).await);
            }
        }
        println!("{act:?}: {}", record.points.join(" "));
    }
    for side in SIDES {
        scene.is_about_nothing(side).await;
    }
    println!("{}: {kills} kills, {:.1} s", scene.books.name(), begun.elapsed().as_secs_f64());
    scene.killed.is_all_of(Scene::Deleting);
    scene.close().await;
}

/// The first passage of each point.
fn once_each(record: &Record) -> Vec<String> {
    record.points.iter().collect::<BTreeSet<_>>().into_iter().map(|point| format!("{point} 1")).collect()
}

impl Surgery {
    async fn open(database: Option<String>) -> Self {
        let trial = practice(database.clone(), 0).await;
        let books = Books::of(&trial.data, database.as_deref());
        let murphy = trial.sign_in("murphy", "first").await;
        let patients = [trial.sign_in("ann", "first").await, trial.sign_in("ben", "first").await];
        let talk = trial.begin(&murphy, "changed", &[], &["ann", "ben"]).await;
        Self { trial, books, murphy, patients, talk, killed: Killed::default() }
    }

    async fn close(self) {
        for client in self.patients.into_iter().chain([self.murphy]) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    fn rooms(&self) -> [OwnedRoomId; 2] {
        ["ann", "ben"].map(|name| self.talk.spoke(self.trial.person(name)))
    }

    /// Says something that both patients read; what is to be deleted is changed first.
    async fn say(&self, act: Act, words: &str) -> Said {
        let hub = self.talk.hub();
        let own = say(&self.murphy, &hub, words).await;
        let mut theirs = Vec::new();
        for (patient, room) in self.patients.iter().zip(self.rooms()) {
            theirs.push(read(patient, &room, words).await.event_id);
        }
        let said = Said { own, theirs: theirs.try_into().expect("two") };
        if act.deletes() {
            edit(&self.murphy, &hub, &said.own, "something else").await;
            self.settles(Act::Edit, &said, words).await;
        }
        self.trial.quiet().await;
        said
    }

    async fn does(&self, act: Act, said: &Said) {
        let (murphy, hub) = (&self.murphy, self.talk.hub());
        match act {
            Act::Edit => drop(edit(murphy, &hub, &said.own, "something else").await),
            Act::React => drop(react(murphy, &hub, &said.own, "👍").await),
            Act::Delete => drop(delete(murphy, &hub, &said.own).await),
            Act::DeleteByApi => {
                let path = format!("conversations/{}/messages/{}", self.talk.id(), said.own);
                let url = format!("{}/_parlour/v1/{path}", self.trial.public_url());
                // Nobody may hear the answer.
                drop(reqwest::Client::new().delete(url).bearer_auth(token(murphy)).send().await);
            }
        }
    }

    /// What stands about a message in the two rooms: how often it was changed or reacted to, or how often it was redacted if it
    /// is gone.
    async fn standing(&self, act: Act, said: &Said) -> [usize; 2] {
        let mut standing = [0; 2];
        for (place, (patient, room)) in self.patients.iter().zip(self.rooms()).enumerate() {
            let event = &said.theirs[place];
            let get = async |path: String| {
                let (status, found) = patient.http().call(Method::GET, &path, None).await.expect("an answer");
                assert_eq!(status, 200, "{found}");
                found
            };
            let relations = |kind: &str| {
                room_path(&room, &format!("relations/{event}/{kind}")).replacen("/v3/", "/v1/", 1)
            };
            let chunk = |found: Value| found["chunk"].as_array().cloned().unwrap_or_default();
            standing[place] = match act {
                Act::Edit => chunk(get(relations("m.replace")).await).len(),
                Act::React => chunk(get(relations("m.annotation")).await).len(),
                Act::Delete | Act::DeleteByApi => {
                    let gone = get(room_path(&room, &format!("event/{event}"))).await["content"] == json!({});
                    let events = chunk(get(room_path(&room, "messages?dir=b&limit=30")).await);
                    let of = |id: &EventId| {
                        events.iter().filter(|found| found["content"]["redacts"] == id.as_str()).count()
                    };
                    // The change goes with it.
                    let changes = chunk(get(relations("m.replace")).await);
                    if gone && changes.is_empty() { of(event) } else { 0 }
                }
            };
        }
        standing
    }

    /// Waits until it stands so in both rooms; not, when Parlour has ended before.
    async fn settles_or_ends(&mut self, act: Act, said: &Said, what: &str) -> bool {
        let deadline = Instant::now() + LIMIT;
        while self.standing(act, said).await != [1; 2] {
            if !self.trial.parlour_runs() {
                return false;
            }
            assert!(Instant::now() < deadline, "{what}: {}", self.trial.last_words());
            sleep(LOOK).await;
        }
        true
    }

    async fn settles(&self, act: Act, said: &Said, what: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let standing = self.standing(act, said).await;
            if standing == [1; 2] {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {standing:?}; {}", self.trial.last_words());
            sleep(LOOK).await;
        }
    }

    /// Which points an act goes through.
    async fn record(&mut self, act: Act) -> Record {
        let said = self.say(act, &format!("recorded for {act:?}")).await;
        self.trial.order("record").await;
        self.does(act, &said).await;
        self.settles(act, &said, "recorded").await;
        self.trial.quiet().await;
        Record::of(&self.trial.order("recorded").await)
    }

    /// Parlour ends at a place while something is done, and is started again. Whether it came to that place.
    async fn is_killed(&mut self, act: Act, place: &str) -> bool {
        let what = format!("{act:?} {place}");
        let said = self.say(act, &what).await;
        self.trial.order(&format!("end {place}")).await;
        self.does(act, &said).await;
        // What has settled may still be written down.
        let mut ended = !self.settles_or_ends(act, &said, &what).await;
        if !ended {
            ended = self.trial.order_if_it_runs("recorded").await.is_none();
        }
        if ended {
            assert!(self.trial.parlour_ends(LIMIT).await, "{what}: it ends");
            let at = self.trial.ended_at().unwrap_or_else(|| panic!("{what}: {}", self.trial.last_words()));
            self.killed.0.insert(at);
            self.trial.start_parlour().await;
            if act == Act::DeleteByApi {
                // Who has heard no answer asks again.
                self.does(act, &said).await;
            }
            self.settles(act, &said, &what).await;
        }
        self.trial.quiet().await;
        assert_eq!(self.standing(act, &said).await, [1; 2], "{what}");
        ended
    }

    /// What somebody reacts to is deleted before it was sent: there is nothing that the reaction could be about.
    async fn is_about_nothing(&mut self, side: &str) {
        let (hub, spokes) = (self.talk.hub(), self.rooms());
        let send = spokes.each_ref().map(|room| room_path(room, "send"));
        self.trial.to_homeserver.judge(move |method, path| {
            let is_event = point_of(method, path) == Some(CommitPoint::SendEvent);
            let fate = is_event && send.iter().any(|send| path.starts_with(send));
            if fate { Fate::Answer(502, "{}") } else { Fate::Pass }
        });
        let words = format!("for nobody, {side}");
        let first = say(&self.murphy, &hub, &format!("before {words}")).await;
        let put_off = "SELECT COUNT(*) FROM outbox WHERE state = 'waiting' AND next_attempt_at > 0";
        self.comes_to(put_off, 2).await;
        // Behind one that is not taken, nothing is encrypted.
        let own = say(&self.murphy, &hub, &words).await;
        react(&self.murphy, &hub, &own, "👍").await;
        self.comes_to("SELECT COUNT(*) FROM outbox WHERE state = 'waiting'", 6).await;
        delete(&self.murphy, &hub, &own).await;
        self.comes_to("SELECT COUNT(*) FROM outbox WHERE state = 'waiting'", 4).await;
        let place = format!("{side} db.leg-void");
        let passes = async |trial: &Trial| trial.to_homeserver.pass_all();
        self.killed.during(&mut self.trial, &place, passes).await;
        self.trial.start_parlour().await;
        let before = format!("before {words}");
        for (patient, room) in self.patients.iter().zip(&spokes) {
            read(patient, room, &before).await;
        }
        self.trial.quiet().await;
        for (patient, room) in self.patients.iter().zip(&spokes) {
            let seen = patient.messages(room).await.expect("messages");
            assert!(!seen.iter().any(|message| message.body == words), "{place}");
        }
        delete(&self.murphy, &hub, &first).await;
        self.trial.quiet().await;
    }

    async fn comes_to(&self, sql: &'static str, wanted: i64) {
        let came = self.books.comes_to(sql, wanted).await;
        came.unwrap_or_else(|found| panic!("{found}; {}", self.trial.last_words()));
    }
}
