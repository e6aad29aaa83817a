//! Who takes part: somebody comes without a device, comes for the first time, comes back with another phone, goes and leaves the
//! conversation to another, is put out, is named a sender; and a team changes.

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Talk, crowd::Caller, read, room_path, say, token, witness};
use reqwest::Method;
use serde_json::json;

use super::{House, OWNS};

impl House {
    /// Sam, who is included before there is a device to hand history on to, gets one, and reads what was said before.
    pub(super) async fn a_newcomer_gets_a_device(&mut self) {
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
    pub(super) async fn patients_come(&mut self, side: &str) {
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
    pub(super) async fn a_sender_is_named(&mut self, side: &str) {
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

    /// Kim goes, so that Dr Murphy owns the conversation again, and comes back with a new phone, which reads what was said before.
    pub(super) async fn a_colleague_comes_back(&mut self, side: &str) {
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
    pub(super) async fn an_owner_goes(&mut self, side: &str) {
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
    pub(super) async fn a_room_is_closed(&mut self, side: &str) {
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
    pub(super) async fn a_team_changes(&mut self, side: &str) {
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
}
