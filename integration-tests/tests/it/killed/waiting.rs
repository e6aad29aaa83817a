//! Something waits: for a reader, for the homeserver, for the database. Whenever Parlour ends meanwhile, it goes on waiting,
//! and comes once.

use parlour::demo::client::Client;
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, proxy::Fate, read, requests::point_of, room_path, say, token,
    trial::Trial, witness,
};
use reqwest::Method;
use ruma::OwnedRoomId;
use serde_json::json;
use tokio::time::Instant;

use super::{Killed, Scene, practice};

const SIDES: [&str; 2] = ["before", "after"];
/// What passes.
const AWAY: Fate = Fate::Answer(502, r#"{"errcode":"M_UNKNOWN","error":"away"}"#);
/// What does not pass.
const BAD: Fate = Fate::Answer(400, r#"{"errcode":"M_BAD_JSON","error":"never"}"#);
const FORBIDDEN: Fate = Fate::Answer(403, r#"{"errcode":"M_FORBIDDEN","error":"not in the room"}"#);
/// A minute less than what a leg is put off for at most, in milliseconds.
const FOUR_MINUTES: i64 = 240_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_waits_loses_and_doubles_nothing_on_sqlite() {
    waiting(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_waits_loses_and_doubles_nothing_on_postgresql() {
    if let Some(postgres) = parlour_test_postgres::shared() {
        waiting(Some(postgres.create_database().expect("a database"))).await;
    }
}

async fn waiting(database: Option<String>) {
    let begun = Instant::now();
    let mut scene = Stay::open(database).await;
    for side in SIDES {
        scene.put_off(side).await;
        scene.woken(side).await;
        scene.given_up(side).await;
        scene.leaves(side).await;
        scene.comes_back(side).await;
        scene.is_not_in_the_room(side).await;
        scene.database_refuses(side).await;
    }
    for (number, side) in SIDES.into_iter().enumerate() {
        scene.nobody_reads(side, &format!("number{}", number + 1)).await;
    }
    for side in SIDES {
        for point in ["db.devices-known", "hs.read-seen"] {
            scene.a_phone_comes(&format!("{side} {point}")).await;
        }
    }
    scene.everything_is_there_once().await;
    scene.killed.is_all_of(Scene::Waiting);
    println!("{}: {:.1} s", scene.books.name(), begun.elapsed().as_secs_f64());
    scene.close().await;
}

/// A conversation of Dr Murphy with Ann.
struct Stay {
    trial: Trial,
    books: Books,
    murphy: Client,
    ann: Client,
    /// Second devices, which read nothing before the end.
    fresh: [Client; 2],
    talk: Talk,
    /// What Ann must have read, and what she has written.
    said: [Vec<String>; 2],
    /// What the bot must have told staff, each by a word of it, in order.
    told: Vec<&'static str>,
    killed: Killed,
}

impl Stay {
    async fn open(database: Option<String>) -> Self {
        let trial = practice(database.clone(), SIDES.len()).await;
        let books = Books::of(&trial.data, database.as_deref());
        let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
        let fresh = [trial.sign_in("murphy", "fresh").await, trial.sign_in("ann", "fresh").await];
        let talk = trial.begin(&murphy, "waiting", &[], &["ann"]).await;
        for client in &fresh {
            client.pause().await;
        }
        let (said, told, killed) = (<[Vec<String>; 2]>::default(), Vec::new(), Killed::default());
        let mut scene = Self { trial, books, murphy, ann, fresh, talk, said, told, killed };
        scene.they_talk("hello").await;
        scene
    }

    async fn close(self) {
        for client in [self.murphy, self.ann].into_iter().chain(self.fresh) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    fn hub(&self) -> OwnedRoomId {
        self.talk.hub()
    }

    fn spoke(&self) -> OwnedRoomId {
        self.talk.spoke(self.trial.person("ann"))
    }

    /// Both say something, and both arrive.
    async fn they_talk(&mut self, words: &str) {
        let (hub, spoke) = (self.hub(), self.spoke());
        let answer = format!("{words}, says Ann");
        say(&self.murphy, &hub, words).await;
        read(&self.ann, &spoke, words).await;
        say(&self.ann, &spoke, &answer).await;
        read(&self.murphy, &hub, &answer).await;
        self.said[0].push(words.to_owned());
        self.said[1].push(answer);
        self.trial.quiet().await;
    }

    /// Dr Murphy says something, at which Parlour ends.
    async fn ends_when_it_is_said(&mut self, place: &str, words: &str) {
        let (murphy, hub) = (&self.murphy, self.talk.hub());
        let says = async |_: &Trial| drop(say(murphy, &hub, words).await);
        self.killed.during(&mut self.trial, place, says).await;
    }

    /// What becomes of events that are sent to Ann.
    fn to_ann(&self, fate: Fate) {
        let spoke = room_path(&self.spoke(), "send");
        self.trial.to_homeserver.judge(move |method, path| {
            let is_event = point_of(method, path) == Some(CommitPoint::SendEvent);
            if is_event && path.starts_with(&spoke) { fate } else { Fate::Pass }
        });
    }

    /// The homeserver does not take a leg for a while.
    async fn put_off(&mut self, side: &str) {
        let words = format!("put off, {side}");
        self.to_ann(AWAY);
        self.ends_when_it_is_said(&format!("{side} db.leg-put-off"), &words).await;
        self.trial.to_homeserver.pass_all();
        self.trial.start_parlour().await;
        self.arrives(words).await;
    }

    /// Ann reads what she has waited for, and they go on.
    async fn arrives(&mut self, words: String) {
        read(&self.ann, &self.spoke(), &words).await;
        self.said[0].push(words);
        let next = format!("after {}", self.said[0].len());
        self.they_talk(&next).await;
    }

    /// Says something that the homeserver does not take, and ends Parlour once it was refused.
    async fn is_refused(&mut self, words: &str, fate: Fate) {
        self.to_ann(fate);
        say(&self.murphy, &self.hub(), words).await;
        let put_off = "SELECT COUNT(*) FROM outbox WHERE state = 'waiting' AND next_attempt_at > 0";
        self.comes_to(put_off, 1).await;
        self.trial.kill_parlour().await;
    }

    /// Waits until the database has a number; nothing tells of that.
    async fn comes_to(&self, sql: &'static str, wanted: i64) {
        let came = self.books.comes_to(sql, wanted).await;
        came.unwrap_or_else(|found| panic!("{found}; {}", self.trial.last_words()));
    }

    /// A leg is put off for minutes, and the homeserver is there again.
    async fn woken(&mut self, side: &str) {
        let words = format!("woken, {side}");
        self.is_refused(&words, AWAY).await;
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
        let later = i64::try_from(now).expect("a time") + FOUR_MINUTES;
        let put_off = format!("UPDATE outbox SET next_attempt_at = {later} WHERE state = 'waiting'");
        assert_eq!(self.books.change(&put_off).await, 1);
        self.trial.to_homeserver.pass_all();
        self.killed.at_start(&mut self.trial, &format!("{side} db.outbox-woken"), 1).await;
        let waits = "SELECT COUNT(*) FROM outbox WHERE state = 'waiting' AND next_attempt_at > 0";
        assert_eq!(self.books.number(waits).await, i64::from(side == "before"));
        self.trial.start_parlour().await;
        self.arrives(words).await;
    }

    /// The homeserver never takes a leg: its sender is told, once.
    async fn given_up(&mut self, side: &str) {
        let words = format!("given up, {side}");
        self.is_refused(&words, BAD).await;
        // As after three quarters of an hour.
        let last = "UPDATE outbox SET attempts = 15, next_attempt_at = 0 WHERE state = 'waiting'";
        assert_eq!(self.books.change(last).await, 1);
        self.killed.at_start(&mut self.trial, &format!("{side} db.leg-failed"), 1).await;
        self.trial.start_parlour().await;
        self.told.push("(SEND-1)");
        self.staff_are_told().await;
        self.trial.to_homeserver.pass_all();
        self.they_talk(&format!("after it was {words}")).await;
    }

    /// Waits until the bot has told staff what it must have.
    async fn staff_are_told(&self) {
        let (count, hub) = (self.told.len(), self.hub());
        let told = self.murphy.wait_until(&hub, LIMIT, |seen| {
            let words: Vec<_> =
                seen.iter().filter(|m| m.msgtype == "m.notice").map(|m| m.body.clone()).collect();
            (words.len() >= count).then_some(words)
        });
        let told = told.await.unwrap_or_else(|error| panic!("{error}: {}", self.trial.last_words()));
        let as_wanted = told.iter().zip(&self.told).all(|(words, wanted)| words.contains(wanted));
        assert!(told.len() == count && as_wanted, "{told:?} instead of {:?}", self.told);
    }

    /// Ann leaves: whether she is there is looked up.
    async fn leaves(&mut self, side: &str) {
        let (http, leave) = (self.ann.http(), room_path(&self.spoke(), "leave"));
        let leaves = async |_: &Trial| {
            let (status, _) = http.call(Method::POST, &leave, Some(json!({}))).await.expect("an answer");
            assert_eq!(status, 200);
        };
        self.killed.during(&mut self.trial, &format!("{side} hs.read-state"), leaves).await;
        self.trial.start_parlour().await;
        self.told.push("has left");
        self.staff_are_told().await;
    }

    /// She is brought back. What was said while she was not there does not reach her.
    async fn comes_back(&mut self, side: &str) {
        self.comes_to("SELECT COUNT(*) FROM portals WHERE revision_set < revision", 0).await;
        let legs = "SELECT COUNT(*) FROM outbox";
        let before = self.books.number(legs).await;
        say(&self.murphy, &self.hub(), &format!("while you were away, {side}")).await;
        self.trial.quiet().await;
        assert_eq!(self.books.number(legs).await, before, "it goes nowhere");
        let includes = async |trial: &Trial| {
            let caller = Caller::new(&trial.public_url(), &token(&self.murphy));
            caller.include(self.talk.id(), self.ann.user_id()).await;
        };
        self.killed.during(&mut self.trial, &format!("{side} db.member-came"), includes).await;
        self.trial.start_parlour().await;
        self.told.push("takes part");
        self.staff_are_told().await;
        self.comes_to("SELECT COUNT(*) FROM portals WHERE revision_set < revision", 0).await;
        self.they_talk(&format!("back, {side}")).await;
    }

    /// The homeserver says that the ghost is not in the room.
    async fn is_not_in_the_room(&mut self, side: &str) {
        let words = format!("not in the room, {side}");
        self.to_ann(FORBIDDEN);
        self.ends_when_it_is_said(&format!("{side} db.member-gone"), &words).await;
        self.trial.to_homeserver.pass_all();
        self.trial.start_parlour().await;
        self.arrives(words).await;
    }

    /// The database takes no event, and is asked whether it takes anything.
    async fn database_refuses(&mut self, side: &str) {
        let words = format!("nothing was taken, {side}");
        let (refuse, accept) = if self.books.name() == "SQLite" {
            (
                "CREATE TRIGGER refuses BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'full'); END",
                "DROP TRIGGER refuses",
            )
        } else {
            (
                "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full'; END $$;
                 CREATE TRIGGER refuses BEFORE INSERT ON inbox EXECUTE FUNCTION refuses()",
                "DROP TRIGGER refuses ON inbox; DROP FUNCTION refuses",
            )
        };
        self.books.change(refuse).await;
        self.ends_when_it_is_said(&format!("{side} db.probed"), &words).await;
        self.books.change(accept).await;
        self.trial.start_parlour().await;
        self.arrives(words).await;
    }

    /// What is said to somebody who has never signed in is held until they have.
    async fn nobody_reads(&mut self, side: &str, patient: &str) {
        let talk = self.trial.begin(&self.murphy, patient, &[], &[patient]).await;
        let (hub, spoke) = (talk.hub(), talk.spoke(self.trial.person(patient)));
        let murphy = &self.murphy;
        let says = async |_: &Trial| drop(say(murphy, &hub, "for later").await);
        self.killed.during(&mut self.trial, &format!("{side} db.leg-held"), says).await;
        self.trial.start_parlour().await;
        say(&self.murphy, &hub, "and this").await;
        let both = "SELECT COUNT(*) FROM outbox WHERE state IN ('held', 'waiting')";
        self.comes_to(both, 2).await;
        let theirs = self.trial.sign_in(patient, "first").await;
        read(&theirs, &spoke, "and this").await;
        say(&theirs, &spoke, "here I am").await;
        read(&self.murphy, &hub, "here I am").await;
        self.trial.quiet().await;
        assert_eq!(witness::others_words(&theirs, &spoke, 2).await, ["for later", "and this"]);
        let counts: Vec<_> = witness::ciphertexts(&theirs, &spoke).await.into_values().collect();
        assert_eq!(counts.iter().sum::<usize>(), 3, "{counts:?}");
        let counts: Vec<_> = witness::ciphertexts(&self.murphy, &hub).await.into_values().collect();
        assert_eq!(counts.iter().sum::<usize>(), 3, "{counts:?}");
        theirs.stop().await;
    }

    /// Ann has one phone more: that is heard of, and the homeserver is asked who is there.
    async fn a_phone_comes(&mut self, place: &str) {
        let mut phone = None;
        let comes = async |trial: &Trial| phone = Some(trial.sign_in("ann", place).await);
        self.killed.during(&mut self.trial, place, comes).await;
        self.trial.start_parlour().await;
        self.comes_to("SELECT COUNT(*) FROM device_looks WHERE news > 0", 0).await;
        self.comes_to("SELECT COUNT(*) FROM devices_seen WHERE fresh = 1", 0).await;
        let words = format!("with a new phone, {place}");
        self.they_talk(&words).await;
        let phone = phone.expect("a phone");
        read(&phone, &self.spoke(), &words).await;
        assert_eq!(
            self.books.number("SELECT COUNT(*) FROM ledger WHERE what = 'repair'").await,
            0,
            "{place}"
        );
        phone.stop().await;
    }

    async fn everything_is_there_once(&self) {
        let [murphy, ann] = &self.fresh;
        for (client, room, others, own, told) in [
            // She was told each time that she takes part again, and that she may write.
            (ann, self.spoke(), &self.said[0], self.said[1].len(), 2 * SIDES.len()),
            // What was given up stands in the hub, and what was said while Ann was away.
            (murphy, self.hub(), &self.said[1], self.said[0].len() + 2 * SIDES.len(), self.told.len()),
        ] {
            client.resume().await;
            let words = witness::others_words(client, &room, others.len()).await;
            assert_eq!(words, *others, "what {} reads", client.user_id());
            let mut counts = witness::ciphertexts(client, &room).await;
            assert_eq!(counts.remove(client.user_id().as_str()), Some(own), "{counts:?}");
            let mut wanted = [others.len(), told];
            let mut counts: Vec<_> = counts.into_values().collect();
            counts.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(counts, wanted, "ciphertexts that {} got", client.user_id());
        }
        self.staff_are_told().await;
    }
}
