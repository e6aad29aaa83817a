//! What follows from what people do, one thing after the other: a file goes out with its words, staff read, a colleague comes back
//! and reads what was said before, an owner goes, a patient's room is closed, a patient comes, a sender is named, a team changes,
//! what was refused is removed, a device is signed, the practice is closed. Wherever Parlour ends meanwhile, it is done soon after the next start, once, and nothing that was said is lost.

use parlour::demo::client::Client;
use parlour_integration_tests::{
    LIMIT, Talk, books::Books, crowd::Caller, read, refusal, room_path, say, send, token, trial::Trial,
    witness,
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

    /// Waits until somebody takes part in the other conversation, since a time that is known, and all rooms are as they are to be.
    async fn is_in_the_other(&self, name: &str) {
        let sql = format!(
            "SELECT COUNT(*) + 100 * (SELECT COUNT(*) FROM portals WHERE revision_set < revision)
             FROM participants t JOIN people p ON p.id = t.person_id
             WHERE t.conversation_id = '{}' AND p.user_id = '{}' AND t.since IS NOT NULL",
            self.other.id(),
            self.trial.person(name).user_id
        );
        self.comes_to(&sql, 1).await;
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

    /// Sam, who is included before there is a device to hand history on to, gets one, and reads what was said before.
    async fn a_newcomer_gets_a_device(&mut self) {
        let (hub, _) = self.rooms();
        let place = "after hs.send-to-devices";
        let sam = self.trial.person("sam").user_id.clone();
        let caller = Caller::new(&self.trial.public_url(), &token(&self.murphy));
        caller.include(self.talk.id(), &sam).await.expect("an answer");
        self.are_set(4).await;
        self.trial.quiet().await;
        let mut phone = None;
        let comes = async |house: &Self| {
            let sam = house.trial.sign_in("sam", "first").await;
            sam.accept(&hub, LIMIT).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            phone = Some(sam);
        };
        self.is_killed(place, 1, comes).await;
        let phone = phone.expect("a phone");
        phone.history(&hub, 500).await.expect("messages");
        read(&phone, &hub, "hello").await;
        self.sam = Some(phone);
        caller.exclude(self.talk.id(), &sam).await.expect("an answer");
        self.are_set(3).await;
        self.trial.quiet().await;
    }

    /// Patients take part from now on who never did: their rooms are made, and they read what is said from then on.
    async fn patients_come(&mut self, side: &str) {
        let hub = self.other.hub();
        let caller = Caller::new(&self.trial.public_url(), &token(&self.murphy));
        let comers = match side {
            "before" => [("ben", "db.participants-kept"), ("cara", "db.portal-made")],
            _ => [("dan", "db.participants-kept"), ("eve", "db.portal-ready")],
        };
        for (name, point) in comers {
            let place = format!("{side} {point}");
            let user_id = self.trial.person(name).user_id.clone();
            say(&self.murphy, &hub, &format!("before {name}")).await;
            self.trial.quiet().await;
            let asks = async |house: &Self| drop(caller.include(house.other.id(), &user_id).await);
            self.is_killed(&place, 1, asks).await;
            // Who has heard no answer asks again.
            caller.include(self.other.id(), &user_id).await.expect("an answer");
            self.other = Talk { told: caller.made(self.other.id()).await };
            self.is_in_the_other(name).await;
            let words = format!("with {name}");
            say(&self.murphy, &hub, &words).await;
            let phone = self.trial.sign_in(name, "first").await;
            let spoke = self.other.spoke(self.trial.person(name));
            phone.wait_for_room(LIMIT, |found| found.room_id == spoke).await.expect("in the room");
            assert_eq!(witness::others_words(&phone, &spoke, 1).await, [words], "{place}");
            assert_eq!(phone.matrix().joined_rooms().len(), 1, "{place}");
            phone.stop().await;
            self.trial.quiet().await;
        }
    }

    /// Kim may write when it is one-way, and may not any more.
    async fn a_sender_is_named(&mut self, side: &str) {
        let (hub, _) = self.rooms();
        let place = format!("{side} db.mode-kept");
        let (kim, path) =
            (self.trial.person("kim").user_id.clone(), format!("conversations/{}", self.talk.id()));
        let levels = room_path(&hub, "state/m.room.power_levels");
        for (senders, level) in [(vec![&kim], 50), (vec![], 0)] {
            let body = json!({ "senders": senders });
            let asks = async |house: &Self| drop(house.ask(Method::PATCH, &path, Some(&body)).await);
            self.is_killed(&place, 1, asks).await;
            if side == "before" {
                self.ask(Method::PATCH, &path, Some(&body)).await.expect("an answer");
            }
            self.are_set(3).await;
            let (_, set) = self.murphy.http().call(Method::GET, &levels, None).await.expect("an answer");
            assert_eq!(set["users"][kim.as_str()], level, "{place}: {set}");
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

    /// Kim goes, so that Dr Murphy owns the conversation again, and comes back with a new phone, which reads what was said before.
    async fn a_colleague_comes_back(&mut self, side: &str) {
        let (hub, _) = self.rooms();
        let kim = self.trial.person("kim").user_id.clone();
        for point in ["hs.upload", "hs.claim-keys", "hs.send-to-devices"] {
            let place = format!("{side} {point}");
            let caller = Caller::new(&self.trial.public_url(), &token(&self.murphy));
            caller.exclude(self.talk.id(), &kim).await.expect("an answer");
            self.are_set(2).await;
            let away = format!("while Kim is away, {place}");
            self.says(&away).await;
            // Keys of the new phone are claimed when it is heard of, or when its history is handed on.
            let mut phone = None;
            let comes = async |house: &Self| {
                phone = Some(house.trial.sign_in("kim", &place).await);
                drop(caller.include(house.talk.id(), &kim).await);
            };
            self.is_killed(&place, 1, comes).await;
            let phone = phone.expect("a phone");
            // Who has heard no answer asks again.
            caller.include(self.talk.id(), &kim).await.expect("an answer");
            self.are_set(3).await;
            phone.accept(&hub, LIMIT).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            phone.history(&hub, 500).await.expect("messages");
            for words in ["hello", &away] {
                read(&phone, &hub, words).await;
            }
            self.says(&format!("Kim is back, {place}")).await;
            read(&phone, &hub, &format!("Kim is back, {place}")).await;
            phone.stop().await;
        }
    }

    /// Dr Murphy, who owns the conversation, goes, and comes back.
    async fn an_owner_goes(&mut self, side: &str) {
        let (hub, _) = self.rooms();
        let place = format!("{side} db.participants-kept");
        let murphy = self.trial.person("murphy").user_id.clone();
        let caller = |client: &Client, house: &Self| Caller::new(&house.trial.public_url(), &token(client));
        assert!(self.is_owned_by("murphy").await, "{place}");
        self.kim.history(&hub, 500).await.expect("messages");
        let before = self.told(&self.kim, &hub, OWNS).await;
        let asks = async |house: &Self| {
            drop(caller(&house.murphy, house).exclude(house.talk.id(), &murphy).await);
        };
        self.is_killed(&place, 1, asks).await;
        if side == "before" {
            // Nobody has heard that it would be done: whoever asked asks again.
            caller(&self.murphy, self).exclude(self.talk.id(), &murphy).await.expect("an answer");
        }
        self.are_set(2).await;
        assert!(self.is_owned_by("kim").await, "{place}");
        self.trial.quiet().await;
        let said = self.kim.wait_until(&hub, LIMIT, |seen| {
            let said = seen.iter().filter(|m| m.msgtype == "m.notice" && m.body.contains(OWNS)).count();
            (said > before).then_some(said)
        });
        assert_eq!(said.await.expect("the bot says it"), before + 1, "{place}: once");
        caller(&self.kim, self).include(self.talk.id(), &murphy).await.expect("an answer");
        self.are_set(3).await;
        self.murphy.accept(&hub, LIMIT).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        self.trial.quiet().await;
    }

    async fn is_owned_by(&self, name: &str) -> bool {
        let owns = format!(
            "SELECT COUNT(*) FROM conversations c JOIN people p ON p.id = c.owner_id WHERE c.id = '{}' AND p.user_id = '{}'",
            self.talk.id(),
            self.trial.person(name).user_id
        );
        self.books.number(&owns).await == 1
    }

    /// Ann does not take part any more: her room is closed, and opened again.
    async fn a_room_is_closed(&mut self, side: &str) {
        let (_, spoke) = self.rooms();
        let place = format!("{side} hs.set-state");
        let ann = self.trial.person("ann").user_id.clone();
        let caller = Caller::new(&self.trial.public_url(), &token(&self.murphy));
        let asks = async |house: &Self| drop(caller.exclude(house.talk.id(), &ann).await);
        self.is_killed(&place, 1, asks).await;
        self.are_set(2).await;
        let path = room_path(&spoke, "send/m.room.encrypted/x");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let (status, _) = self.ann.http().call(Method::PUT, &path, Some(body)).await.expect("an answer");
        assert_eq!(status, 403, "{place}");
        self.trial.quiet().await;
        caller.include(self.talk.id(), &ann).await.expect("an answer");
        self.are_set(3).await;
        self.closed += 1;
        self.says(&format!("Ann is back, {place}")).await;
        for words in ["You do not take part", "You take part in this conversation again"] {
            assert_eq!(self.told(&self.ann, &spoke, words).await, self.closed, "{place}: {words}");
        }
    }

    /// One of a team goes, and another comes.
    async fn a_team_changes(&mut self, side: &str) {
        let hub = self.other.hub();
        for (number, point) in ["db.participants-kept", "hs.kick", "hs.invite"].into_iter().enumerate() {
            let place = format!("{side} {point}");
            // Six times in all: Sam comes first.
            let sam_comes = (number + usize::from(side == "after")).is_multiple_of(2);
            let (comes, goes) = if sam_comes { ("sam", "kim") } else { ("kim", "sam") };
            let id = |name: &str| self.trial.person(name).user_id.clone();
            let (path, body) = (format!("teams/{}", self.team), json!({ "members": [id(comes)] }));
            let changes = async |house: &Self| drop(house.ask(Method::PATCH, &path, Some(&body)).await);
            self.is_killed(&place, 1, changes).await;
            if place == "before db.participants-kept" {
                self.ask(Method::PATCH, &path, Some(&body)).await.expect("an answer");
            }
            self.is_in_the_other(comes).await;
            let sam = self.sam.as_ref().expect("a device");
            let (comer, goer) = if comes == "sam" { (sam, &self.kim) } else { (&self.kim, sam) };
            comer.accept(&hub, LIMIT).await.unwrap_or_else(|error| panic!("{place}: {comes}: {error}"));
            let put = room_path(&hub, "send/m.room.encrypted/x");
            let event = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
            let (status, _) = goer.http().call(Method::PUT, &put, Some(event)).await.expect("an answer");
            assert_eq!(status, 403, "{place}: {goes}");
            self.trial.quiet().await;
        }
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
