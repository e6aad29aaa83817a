//! `kill -9` at the two moments that are known for losing messages. All other moments: `crash.rs`.

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Talk, books::Books, read, say, trial::Trial};
use ruma::OwnedEventId;
use tokio::time::{Duration, Instant, sleep};

use super::all_that_stands;
use crate::crash::{PROGRAM, Record};

/// How often it is tried to end Parlour when its 200 has arrived.
const ATTEMPTS: usize = 5;
const LOOK: Duration = Duration::from_millis(20);

struct Scene {
    trial: Trial,
    books: Books,
    murphy: Client,
    ann: Client,
    /// Second devices, which read nothing before the end.
    fresh: [Client; 2],
    talk: Talk,
}

impl Scene {
    async fn open(name: &str) -> Self {
        let trial = Trial::open(PROGRAM, None, 0, None).await;
        let books = Books::of(&trial.data, None);
        let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
        let fresh = [trial.sign_in("murphy", "fresh").await, trial.sign_in("ann", "fresh").await];
        let talk = trial.begin(&murphy, name, &[], &["ann"]).await;
        let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
        say(&murphy, &hub, "hello").await;
        read(&ann, &spoke, "hello").await;
        say(&ann, &spoke, "hello").await;
        read(&murphy, &hub, "hello").await;
        for client in &fresh {
            client.pause().await;
        }
        books.still().await;
        Self { trial, books, murphy, ann, fresh, talk }
    }

    /// Says something, has Parlour end there, and starts it again; the event, and whether Parlour did end.
    async fn crash(&mut self, place: &str, from_staff: bool, words: &str) -> (OwnedEventId, bool) {
        let (hub, spoke) = (self.talk.hub(), self.talk.spoke(self.trial.person("ann")));
        let (from, there) = if from_staff { (&self.murphy, &hub) } else { (&self.ann, &spoke) };
        self.trial.order(&format!("end {place}")).await;
        let event = say(from, there, words).await;
        let ended = self.trial.parlour_ends(LIMIT).await;
        (event, ended)
    }

    /// It is there, once Parlour is up again.
    async fn goes_on(&mut self, from_staff: bool, words: &str) {
        self.trial.start_parlour().await;
        let (hub, spoke) = (self.talk.hub(), self.talk.spoke(self.trial.person("ann")));
        let (to, there) = if from_staff { (&self.ann, &spoke) } else { (&self.murphy, &hub) };
        read(to, there, words).await;
        self.books.still().await;
    }

    /// Everything stands there once and in order, and nobody was told anything.
    async fn end(self, to_ann: &[String], to_murphy: &[String]) {
        let (hub, spoke) = (self.talk.hub(), self.talk.spoke(self.trial.person("ann")));
        let [murphy, ann] = &self.fresh;
        for (client, room, wanted) in [(murphy, &hub, to_murphy), (ann, &spoke, to_ann)] {
            all_that_stands(client, room, wanted).await;
        }
        for client in [self.murphy, self.ann].into_iter().chain(self.fresh) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    /// Whether the homeserver has taken note of Parlour's 200 for an event.
    async fn is_acknowledged(&self, event: &OwnedEventId) -> bool {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.trial.homeserver_still_sends(event).await {
            if Instant::now() > deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_after_ack_before_handling() {
    let mut scene = Scene::open("acknowledged").await;
    let mut said = [vec!["hello".to_owned()], vec!["hello".to_owned()]];
    for (side, said) in said.iter_mut().enumerate() {
        let from_staff = side == 0;
        let mut acknowledged = false;
        for attempt in 0..ATTEMPTS {
            if acknowledged {
                break;
            }
            let words = format!("acknowledged {attempt}");
            let (event, ended) = scene.crash("before db.event-decided 1", from_staff, &words).await;
            assert!(ended, "{}", scene.trial.last_words());
            assert_eq!(scene.trial.ended_at().as_deref(), Some("before db.event-decided"));
            let standing = scene.books.standing().await.expect("the database");
            assert_eq!((standing.events_waiting, standing.legs_waiting), (1, 0), "kept, and not handled");
            acknowledged = scene.is_acknowledged(&event).await;
            scene.goes_on(from_staff, &words).await;
            said.push(words);
        }
        assert!(acknowledged, "the homeserver never had its 200");
    }
    let [to_ann, to_murphy] = said;
    scene.end(&to_ann, &to_murphy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_between_encrypt_and_put() {
    let mut scene = Scene::open("encrypted").await;
    let mut said = vec!["hello".to_owned()];
    // One message by new sessions, to see which saves there are.
    scene.trial.kill_parlour().await;
    scene.books.forget_sessions().await;
    scene.trial.start_parlour().await;
    scene.trial.order("record").await;
    let (hub, spoke) = (scene.talk.hub(), scene.talk.spoke(scene.trial.person("ann")));
    say(&scene.murphy, &hub, "recorded").await;
    read(&scene.ann, &spoke, "recorded").await;
    scene.books.still().await;
    said.push("recorded".to_owned());
    let record = Record::of(&scene.trial.order("recorded").await);
    let saves = record.points.iter().filter(|point| *point == "db.machine-saved").count();
    assert!(saves > 2, "sharing and encrypting are saved: {:?}", record.points);
    let saves = (1..=saves).map(|number| format!("after db.machine-saved {number}"));
    let sealed = ["before db.leg-sealed 1", "after db.leg-sealed 1", "before hs.send-event 1"];
    let mut ended_at = Vec::new();
    for place in sealed.map(str::to_owned).into_iter().chain(saves) {
        scene.trial.kill_parlour().await;
        scene.books.forget_sessions().await;
        scene.trial.start_parlour().await;
        let (_, ended) = scene.crash(&place, true, &place).await;
        assert!(ended, "{place}: {}", scene.trial.last_words());
        ended_at.extend(scene.trial.ended_at());
        if place == "after db.leg-sealed 1" {
            let standing = scene.books.standing().await.expect("the database");
            assert_eq!(standing.legs_waiting, 1, "encrypted, and not sent");
        }
        scene.goes_on(true, &place).await;
        said.push(place);
    }
    for place in sealed.map(|place| place.trim_end_matches(" 1")) {
        assert!(ended_at.iter().any(|ended| ended == place), "{place}: {ended_at:?}");
    }
    scene.end(&said, &["hello".to_owned()]).await;
}
