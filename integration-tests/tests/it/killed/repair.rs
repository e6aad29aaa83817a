//! What a phone could not read is sent again from the record. Whenever Parlour ends meanwhile, it is done soon after the next
//! start, and once: the words can be read, in their order, and what could not be read is void.

use std::time::Duration;

use futures_util::future::join_all;
use parlour::demo::client::{Client, Message, Reading};
use parlour_integration_tests::{LIMIT, Talk, proxy::Fate, read, say, trial::Trial, witness};
use ruma::{OwnedEventId, OwnedRoomId};
use sqlx::Connection as _;
use tokio::time::{Instant, sleep};

use super::{Killed, Scene, places_of, practice};
use crate::{
    cut::{all_are_cut, cut_for},
    production::wedged::copy_of_store,
};

const LOOK: Duration = Duration::from_millis(20);
const CARE: Duration = Duration::from_millis(300);
const WORDS: [&str; 2] = ["can you read this?", "and this?"];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_something_is_sent_again_loses_and_doubles_nothing() {
    let begun = Instant::now();
    let places = places_of(Scene::Repair);
    // For each kill a patient, and one for what is cut.
    let names: Vec<_> = (1..=places.len() + 1).map(|number| format!("number{number}")).collect();
    let mut trial = practice(None, names.len()).await;
    trial.kill_parlour().await;
    trial.care_every(CARE);
    trial.start_parlour().await;
    let (murphy, fresh) = (trial.sign_in("murphy", "first").await, trial.sign_in("murphy", "fresh").await);
    fresh.pause().await;
    put_back(&trial, &murphy, &names).await;
    println!("the phones are put back: {:.1} s", begun.elapsed().as_secs_f64());

    let mut killed = Killed::default();
    let mut hubs = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let phone = trial.sign_in(name, "restored").await;
        let wedged = Wedged::of(&trial, &murphy, phone, name).await;
        match places.get(number) {
            Some(place) => {
                let answers = async |trial: &Trial| wedged.answers(trial).await;
                killed.during(&mut trial, place, answers).await;
                trial.start_parlour().await;
            }
            None => wedged.redactions_are_cut(&trial).await,
        }
        let place = places.get(number).map_or("cut", |place| place);
        wedged.is_repaired(&trial, &murphy, place).await;
        hubs.push(wedged.talk.hub());
        wedged.phone.stop().await;
    }
    fresh.resume().await;
    for hub in hubs {
        assert_eq!(witness::others_words(&fresh, &hub, 2).await, ["I cannot read it", "now I can"]);
        let mut counts: Vec<_> = witness::ciphertexts(&fresh, &hub).await.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 3]);
    }
    killed.is_all_of(Scene::Repair);
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    for client in [murphy, fresh] {
        client.stop().await;
    }
    trial.close().await;
}

/// Gives all these patients a phone, which Dr Murphy's ghost has an Olm session with, and puts its store back to what it was
/// before that session went on: what the ghost sends by it from here on the phone cannot read.
async fn put_back(trial: &Trial, murphy: &Client, names: &[String]) {
    let patients: Vec<_> = names.iter().map(String::as_str).collect();
    let talk = trial.begin(murphy, "before", &[], &patients).await;
    let phones = join_all(names.iter().map(|name| trial.sign_in(name, "first"))).await;
    say(murphy, &talk.hub(), "hello").await;
    for (name, phone) in names.iter().zip(phones) {
        read(&phone, &talk.spoke(trial.person(name)), "hello").await;
        phone.stop().await;
        copy_of_store(&trial.client_store(name, "first"), &trial.client_store(name, "restored")).await;
    }
    for phone in join_all(names.iter().map(|name| trial.sign_in(name, "first"))).await {
        let person =
            trial.people.iter().find(|person| person.user_id == *phone.user_id()).expect("a patient");
        let words = format!("good morning from {}", person.name);
        say(&phone, &talk.spoke(person), &words).await;
        read(murphy, &talk.hub(), &words).await;
        phone.stop().await;
    }
    ghosts_have_read(trial, &talk.rooms()).await;
}

/// Waits until the inboxes of the ghosts in these rooms are empty: they have read what was in them.
async fn ghosts_have_read(trial: &Trial, rooms: &[OwnedRoomId]) {
    let rooms: Vec<_> = rooms.iter().map(|room| format!("'{room}'")).collect();
    let sql = format!(
        "SELECT COUNT(*) FROM device_inbox WHERE user_id LIKE '@\\_parlour\\_%' ESCAPE '\\'
         AND user_id NOT LIKE '%bot:%' AND user_id IN
         (SELECT user_id FROM local_current_membership WHERE membership = 'join' AND room_id IN ({}))",
        rooms.join(", ")
    );
    let url = format!("sqlite://{}?mode=ro", trial.homeserver_database().display());
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut connection = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        let (count,): (i64,) = sqlx::query_as(sqlx::AssertSqlSafe(sql.clone()))
            .fetch_one(&mut connection)
            .await
            .expect("how many keys there are");
        connection.close().await.expect("closed");
        if count == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{count} keys stay: {}", trial.last_words());
        sleep(LOOK).await;
    }
}

/// A patient whose phone could not read what was written.
struct Wedged {
    name: String,
    phone: Client,
    talk: Talk,
    unreadable: Vec<OwnedEventId>,
}

impl Wedged {
    async fn of(trial: &Trial, murphy: &Client, phone: Client, name: &str) -> Self {
        let talk = trial.begin(murphy, name, &[], &[name]).await;
        let spoke = talk.spoke(trial.person(name));
        for words in WORDS {
            say(murphy, &talk.hub(), words).await;
        }
        let all = |seen: &[Message]| {
            let unreadable = seen.iter().filter(|m| matches!(m.reading, Reading::Undecryptable { .. }));
            let ids: Vec<_> = unreadable.map(|message| message.event_id.clone()).collect();
            (ids.len() == WORDS.len()).then_some(ids)
        };
        let unreadable = phone.wait_until(&spoke, LIMIT, all).await.expect("they cannot be read");
        // The patient's ghost has read Dr Murphy's keys, which is another matter.
        ghosts_have_read(trial, &talk.rooms()).await;
        trial.quiet().await;
        Self { name: name.to_owned(), phone, talk, unreadable }
    }

    fn spoke(&self, trial: &Trial) -> OwnedRoomId {
        self.talk.spoke(trial.person(&self.name))
    }

    /// The phone begins Olm anew, which the ghost hears with the key of what is written next.
    async fn answers(&self, trial: &Trial) {
        say(&self.phone, &self.spoke(trial), "I cannot read it").await;
    }

    /// Of the redactions, one is answered to nobody, and the next never arrives.
    async fn redactions_are_cut(&self, trial: &Trial) {
        let plans = cut_for(Scene::Repair, [Fate::CutAnswer, Fate::CutRequest], trial);
        self.answers(trial).await;
        all_are_cut(&plans, trial).await;
    }

    /// The words can be read, once and in order; what could not be read is void; and they go on.
    async fn is_repaired(&self, trial: &Trial, murphy: &Client, place: &str) {
        let (hub, spoke) = (self.talk.hub(), self.spoke(trial));
        read(murphy, &hub, "I cannot read it").await;
        let void = |seen: &[Message]| {
            let mut void = self.unreadable.iter().map(|id| {
                seen.iter().any(|message| message.event_id == *id && message.reading == Reading::Redacted)
            });
            void.all(|is_void| is_void).then_some(())
        };
        if let Err(error) = self.phone.wait_until(&spoke, LIMIT, void).await {
            panic!("{place}: {error}: {}", trial.last_words());
        }
        say(murphy, &hub, "good").await;
        read(&self.phone, &spoke, "good").await;
        say(&self.phone, &spoke, "now I can").await;
        read(murphy, &hub, "now I can").await;
        trial.quiet().await;
        let heard: Vec<_> = [&["(redacted)"; 2][..], &WORDS, &["good"]].concat();
        assert_eq!(crate::production::heard(&self.phone, &spoke).await, heard, "{place}");
        assert_eq!(crate::production::told(&self.phone, &spoke).await, 0, "{place}");
        let mut counts: Vec<_> = witness::ciphertexts(&self.phone, &spoke).await.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 3], "{place}: the words once more, and no more than that");
        // A device that comes only now has the same.
        let fresh = trial.sign_in(&self.name, "fresh").await;
        fresh.wait_for_room(LIMIT, |found| found.room_id == spoke).await.expect("in the room");
        fresh.history(&spoke, 100).await.expect("the history");
        for words in [&WORDS[..], &["good"]].concat() {
            read(&fresh, &spoke, words).await;
        }
        assert_eq!(crate::production::heard(&fresh, &spoke).await, heard, "{place}");
        fresh.stop().await;
    }
}
