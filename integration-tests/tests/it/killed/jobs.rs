//! What follows from what people do, one thing after the other: a file goes out with its words, staff read, a colleague comes back
//! and reads what was said before, an owner goes, a patient's room is closed, a patient comes, a sender is named, a team changes,
//! what was refused is removed, a device is signed, the practice is closed. Wherever Parlour ends meanwhile, it is done soon after
//! the next start, once, and nothing that was said is lost.

mod people;

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, read, refusal, say, send, token, trial::Trial, witness,
};
use reqwest::Method;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Killed, Scene, places_of, practice};
use crate::{reading::receipts, saying::gone};

const LOOK: Duration = Duration::from_millis(20);
const SIDES: [&str; 2] = ["before", "after"];
/// What the bot says when somebody else owns a conversation.
const OWNS: &str = "owns this conversation from now on";
/// What makes the practice closed at any time, in its configuration.
const NEVER_OPEN: &str = "\n[practice.hours]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_any_job_leaves_nothing_half_done() {
    let begun = Instant::now();
    let mut house = House::open().await;
    house.a_newcomer_gets_a_device().await;
    for side in SIDES {
        house.words_about_a_file(side).await;
        house.staff_read(side).await;
        house.an_owner_goes(side).await;
        house.a_colleague_comes_back(side).await;
        house.a_room_is_closed(side).await;
        house.a_team_changes(side).await;
        house.a_sender_is_named(side).await;
        house.what_was_refused_is_removed(side).await;
        house.patients_come(side).await;
    }
    house.devices_are_signed().await;
    house.it_is_closed().await;
    house.everything_is_there_once().await;
    println!("{} kills, {:.1} s", house.kills, begun.elapsed().as_secs_f64());
    house.close().await;
}

/// Conversations of Dr Murphy with Ann, one of them with Kim, the other with a team.
struct House {
    trial: Trial,
    books: Books,
    murphy: Client,
    kim: Client,
    /// None before the first device.
    sam: Option<Client>,
    ann: Client,
    /// A second device of Ann's, which reads nothing before the end.
    fresh: Client,
    talk: Talk,
    other: Talk,
    team: String,
    /// What Ann must have read in the first of them, and what she has written there.
    said: [Vec<String>; 2],
    /// How often the bot must have told Ann there that she does not take part, and that she does.
    closed: usize,
    killed: Killed,
    kills: usize,
}

impl House {
    async fn open() -> Self {
        let trial = practice(None, 0).await;
        let books = Books::of(&trial.data, None);
        let (murphy, kim) = (trial.sign_in("murphy", "first").await, trial.sign_in("kim", "first").await);
        let ann = trial.sign_in("ann", "first").await;
        let fresh = trial.sign_in("ann", "fresh").await;
        fresh.pause().await;
        let talk = trial.begin(&murphy, "jobs", &["kim"], &["ann"]).await;
        let other = trial.begin(&murphy, "teams", &[], &["ann"]).await;
        let mut house = Self {
            trial,
            books,
            murphy,
            kim,
            sam: None,
            ann,
            fresh,
            talk,
            other,
            team: String::new(),
            said: <[Vec<String>; 2]>::default(),
            closed: 0,
            killed: Killed::default(),
            kills: 0,
        };
        let members = [house.trial.person("kim").user_id.clone()];
        let wanted = json!({ "name": "Reception", "members": members });
        let (_, team) = house.ask(Method::POST, "teams", Some(&wanted)).await.expect("an answer");
        house.team = team["id"].as_str().expect("an id").to_owned();
        let path = format!("conversations/{}/participants/{}", house.other.id(), house.team);
        house.ask(Method::PUT, &path, None).await.expect("an answer");
        house.kim.accept(&house.other.hub(), LIMIT).await.expect("invited");
        house.says("hello").await;
        house
    }

    async fn close(self) {
        for client in [self.murphy, self.kim, self.ann, self.fresh].into_iter().chain(self.sam) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    fn rooms(&self) -> (OwnedRoomId, OwnedRoomId) {
        (self.talk.hub(), self.talk.spoke(self.trial.person("ann")))
    }

    /// Asks the practice API as Dr Murphy: status and body; none when nobody answers.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        asked(&self.trial, &self.murphy, method, path, body).await
    }

    /// Parlour ends at the passage of this number through a place while something is done, and is started again.
    async fn is_killed(&mut self, place: &str, passage: usize, work: impl AsyncFnOnce(&Self)) {
        self.trial.order(&format!("end {place} {passage}")).await;
        work(self).await;
        self.killed.ended(&mut self.trial, place).await;
        self.kills += 1;
        self.trial.start_parlour().await;
    }

    /// Dr Murphy says something that Ann reads.
    async fn says(&mut self, words: &str) {
        let (hub, spoke) = self.rooms();
        say(&self.murphy, &hub, words).await;
        read(&self.ann, &spoke, words).await;
        self.said[0].push(words.to_owned());
        self.trial.quiet().await;
    }

    async fn comes_to(&self, sql: &str, wanted: i64) {
        let came = self.books.comes_to(sql, wanted).await;
        came.unwrap_or_else(|found| panic!("{found}; {}", self.trial.last_words()));
    }

    /// Waits until so many people take part in the first conversation, and all rooms are as they are to be.
    async fn are_set(&self, people: i64) {
        let sql = format!(
            "SELECT COUNT(*) + 100 * (SELECT COUNT(*) FROM portals WHERE revision_set < revision)
             FROM participants WHERE conversation_id = '{}'",
            self.talk.id()
        );
        self.comes_to(&sql, people).await;
    }

    /// How often the bot has said something in a room, by what somebody's client shows.
    async fn told(&self, client: &Client, room: &RoomId, words: &str) -> usize {
        let seen = client.messages(room).await.expect("messages");
        seen.iter().filter(|message| message.msgtype == "m.notice" && message.body.contains(words)).count()
    }

    /// Ann sends a file, and then says something of it.
    async fn words_about_a_file(&mut self, side: &str) {
        let (hub, spoke) = self.rooms();
        for passage in 1..=2 {
            let name = format!("{side} {passage}.pdf");
            self.ann.send_file(&spoke, "m.file", &name, b"%PDF-1.4", None).await.expect("sent");
            self.comes_to("SELECT COUNT(*) FROM inbox WHERE state = 'wordless'", 1).await;
            let words = format!("about {name}");
            let says = async |house: &Self| drop(say(&house.ann, &spoke, &words).await);
            self.is_killed(&format!("{side} db.event-decided"), passage, says).await;
            read(&self.murphy, &hub, &words).await;
            self.said[1].extend([name, words]);
            self.trial.quiet().await;
        }
    }

    /// Dr Murphy reads what Ann has written: Ann sees it.
    async fn staff_read(&mut self, side: &str) {
        let (hub, spoke) = self.rooms();
        for place in places_of(Scene::Reading).iter().filter(|place| place.starts_with(side)) {
            let words = format!("read by staff, {place}");
            let own = say(&self.ann, &spoke, &words).await;
            let theirs = read(&self.murphy, &hub, &words).await.event_id;
            self.said[1].push(words);
            self.trial.quiet().await;
            let reads =
                async |house: &Self| house.murphy.read(&hub, &theirs).await.expect("a receipt is taken");
            self.is_killed(place, 1, reads).await;
            let deadline = Instant::now() + LIMIT;
            let is_shown = |(event, user, _): &(String, String, String)| {
                *event == own.as_str() && user.starts_with("@_parlour_")
            };
            while !receipts(&self.ann, &spoke).await.iter().any(is_shown) {
                assert!(Instant::now() < deadline, "{place}: {}", self.trial.last_words());
                sleep(LOOK).await;
            }
        }
    }

    /// A manager removes what was refused.
    async fn what_was_refused_is_removed(&mut self, side: &str) {
        let (hub, _) = self.rooms();
        let place = format!("{side} db.message-deleted");
        let caller = Caller::new(&self.trial.public_url(), &token(&self.murphy));
        let sticker = json!({ "body": "x", "info": {}, "url": "mxc://x/y" });
        let sticker = send(&self.kim, &hub, "m.sticker", sticker).await;
        assert!(refusal(&self.kim, &hub, &sticker).await.contains("(KIND-1)"), "{place}");
        self.trial.quiet().await;
        let asks = async |house: &Self| {
            caller.delete(house.talk.id(), &sticker).await;
        };
        self.is_killed(&place, 1, asks).await;
        if side == "before" {
            assert_eq!(caller.delete(self.talk.id(), &sticker).await, Some(200), "{place}");
        }
        gone(&self.kim, &hub, &sticker).await;
        let removed =
            format!("SELECT COUNT(*) FROM ledger WHERE what = 'removed' AND event_id = '{sticker}'");
        assert_eq!(self.books.number(&removed).await, 1, "{place}");
        self.trial.quiet().await;
    }

    /// What devices have written that nobody had signed is delivered when they are.
    async fn devices_are_signed(&mut self) {
        let (hub, spoke) = self.rooms();
        let mut kept = Vec::new();
        for side in SIDES {
            for passage in 1..=2 {
                let place = format!("{side} db.event-decided");
                let device = matrix_sdk::Client::builder().homeserver_url(self.trial.homeserver_url());
                let device = device.build().await.expect("a client");
                let ann = self.trial.person("ann");
                let login = device.matrix_auth().login_username(&ann.user_id, &ann.password);
                login.send().await.expect("signed in");
                device.sync_once(matrix_sdk::config::SyncSettings::new()).await.expect("a sync");
                let words = format!("from an unsigned device, {place} {passage}");
                let content = json!({ "msgtype": "m.text", "body": words });
                let room = device.get_room(&spoke).expect("the room");
                let event = room.send_raw("m.room.message", content).await.expect("sent").response.event_id;
                kept.push((place, passage, device, words, event));
            }
        }
        for (place, passage, device, words, event) in kept {
            assert!(refusal(&self.ann, &spoke, &event).await.contains("(TRUST-1)"), "{place}");
            self.trial.quiet().await;
            let device_id = device.device_id().expect("a device").to_owned();
            let own = self.ann.matrix().encryption().get_device(self.ann.user_id(), &device_id).await;
            let own = own.expect("asked").expect("her device");
            let signs = async |_: &Self| own.verify().await.expect("signed");
            self.is_killed(&place, passage, signs).await;
            read(&self.murphy, &hub, &words).await;
            self.said[1].push(words);
            self.trial.quiet().await;
        }
    }

    /// Who writes while the practice is closed hears so, once.
    async fn it_is_closed(&mut self) {
        self.trial.kill_parlour().await;
        self.trial.configure(|toml| toml + NEVER_OPEN);
        self.trial.start_parlour().await;
        for (side, talk) in SIDES.into_iter().zip([self.talk.clone(), self.other.clone()]) {
            let (hub, spoke) = (talk.hub(), talk.spoke(self.trial.person("ann")));
            let words = format!("is anybody there? {side}");
            let says = async |house: &Self| drop(say(&house.ann, &spoke, &words).await);
            self.is_killed(&format!("{side} db.event-decided"), 1, says).await;
            read(&self.murphy, &hub, &words).await;
            self.trial.quiet().await;
            let answer = self.ann.wait_for(&spoke, LIMIT, |m| m.body.contains("is closed now")).await;
            answer.unwrap_or_else(|error| panic!("{side}: {error}"));
            assert_eq!(self.told(&self.ann, &spoke, "is closed now").await, 1, "{side}");
            if talk.id() == self.talk.id() {
                self.said[1].push(words);
            }
        }
    }

    async fn everything_is_there_once(&self) {
        let (hub, spoke) = self.rooms();
        self.fresh.resume().await;
        assert_eq!(witness::others_words(&self.fresh, &spoke, self.said[0].len()).await, self.said[0]);
        let ghost = read(&self.murphy, &hub, self.said[1].last().expect("words")).await.sender;
        let anns: Vec<_> = self.murphy.history(&hub, 1000).await.expect("messages");
        let anns: Vec<_> = anns.into_iter().filter(|m| m.sender == ghost).map(|m| m.body).collect();
        assert_eq!(anns, self.said[1]);
        let counts = witness::ciphertexts(&self.murphy, &hub).await;
        assert_eq!(counts.get(ghost.as_str()), Some(&self.said[1].len()), "{counts:?}");
    }
}

async fn asked(
    trial: &Trial,
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Option<(u16, Value)> {
    let url = format!("{}/_parlour/v1/{path}", trial.public_url());
    let mut request = reqwest::Client::new().request(method, url).bearer_auth(token(client));
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.ok()?;
    Some((answer.status().as_u16(), answer.json().await.ok()?))
}
