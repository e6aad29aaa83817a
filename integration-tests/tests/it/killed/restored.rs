//! A backup was put in place of what has gone on. Whenever Parlour ends while it catches up, it catches up at the next start:
//! what stands in rooms is not sent again, what is said next arrives, and of the devices from before none is left.

use std::path::{Path, PathBuf};

use parlour::demo::client::Client;
use parlour_integration_tests::{Talk, proxy::Fate, read, say, trial::Trial, witness};
use reqwest::Method;
use ruma::{OwnedUserId, UserId};
use tokio::time::Instant;

use super::{Killed, Scene, database_files, places_of, practice};
use crate::{
    backup::back_up,
    cut::{Plan, cut_for},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_restored_database_catches_up_loses_and_doubles_nothing() {
    let begun = Instant::now();
    let mut scene = Yesterday::open().await;
    for place in places_of(Scene::Restored) {
        let copy = scene.goes_on(&place).await;
        scene.put_in_place(&copy).await;
        scene.killed.at_start(&mut scene.trial, &place, 1).await;
        scene.trial.start_parlour().await;
        scene.talks_again(&place).await;
    }
    scene.devices_are_ended_although_cut().await;
    scene.is_restored_again_and_again().await;
    scene.everything_is_there_once().await;
    scene.killed.is_all_of(Scene::Restored);
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    scene.close().await;
}

/// A conversation of Dr Murphy with Ann.
struct Yesterday {
    trial: Trial,
    murphy: Client,
    ann: Client,
    /// Second devices, which read nothing before the end.
    fresh: [Client; 2],
    talk: Talk,
    /// What both have said, each time both the same.
    said: Vec<String>,
    ours: Vec<OwnedUserId>,
    killed: Killed,
}

impl Yesterday {
    async fn open() -> Self {
        let trial = practice(None, 0).await;
        let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
        let fresh = [trial.sign_in("murphy", "fresh").await, trial.sign_in("ann", "fresh").await];
        for client in &fresh {
            client.pause().await;
        }
        let talk = trial.begin(&murphy, "yesterday", &[], &["ann"]).await;
        let bot = UserId::parse("@_parlour_bot:demo.parlour.local").expect("a user id");
        let mut scene = Self {
            trial,
            murphy,
            ann,
            fresh,
            talk,
            said: Vec::new(),
            ours: vec![bot],
            killed: Killed::default(),
        };
        let ghosts = scene.they_talk("hello").await;
        scene.ours.extend(ghosts);
        scene
    }

    async fn close(self) {
        for client in [self.murphy, self.ann].into_iter().chain(self.fresh) {
            client.stop().await;
        }
        self.trial.close().await;
    }

    /// Both say something, and both arrive; the ghosts that have said it.
    async fn they_talk(&mut self, words: &str) -> [OwnedUserId; 2] {
        let (hub, spoke) = (self.talk.hub(), self.talk.spoke(self.trial.person("ann")));
        say(&self.murphy, &hub, words).await;
        let murphys = read(&self.ann, &spoke, words).await.sender;
        let answer = answer_to(words);
        say(&self.ann, &spoke, &answer).await;
        let anns = read(&self.murphy, &hub, &answer).await.sender;
        self.said.push(words.to_owned());
        self.trial.quiet().await;
        [murphys, anns]
    }

    /// A backup is made, and what is said afterwards is not in it.
    async fn goes_on(&mut self, name: &str) -> PathBuf {
        // By sessions that the backup knows, for nobody's devices change afterwards.
        self.people_know_our_devices().await;
        self.they_talk(&format!("in the backup: {name}")).await;
        let copy = self.trial.data.join(name.replace(' ', "-"));
        back_up(&self.trial, &copy).await;
        self.they_talk(&format!("not in the backup: {name}")).await;
        copy
    }

    /// Parlour is ended, and has the database of the backup; the homeserver has gone on.
    async fn put_in_place(&mut self, copy: &Path) {
        self.trial.kill_parlour().await;
        let [database, beside @ ..] = database_files(&self.trial);
        for file in beside {
            drop(std::fs::remove_file(file));
        }
        std::fs::copy(copy.join("parlour.database"), database).expect("put in place");
    }

    /// Messages travel again, and nobody of ours has another device than the one that is used.
    async fn talks_again(&mut self, place: &str) {
        self.people_know_our_devices().await;
        self.they_talk(&format!("again: {place}")).await;
        for user in &self.ours {
            assert_eq!(self.devices_of(user).await, 1, "devices of {user}, {place}");
        }
    }

    /// Whoever writes before their client has heard of the bot's new device is told to send it again (KEY-1).
    async fn people_know_our_devices(&self) {
        for client in [&self.murphy, &self.ann] {
            for user in &self.ours {
                client.matrix().encryption().request_user_identity(user).await.expect("asked");
            }
        }
    }

    async fn devices_of(&self, user: &UserId) -> usize {
        let (status, told) = self.trial.as_ours(user, Method::GET, "/_matrix/client/v3/devices", None).await;
        assert_eq!(status, 200, "{told}");
        told["devices"].as_array().expect("devices").len()
    }

    /// Of the requests by which devices are ended, one never arrives, and the next is answered to nobody.
    async fn devices_are_ended_although_cut(&mut self) {
        let copy = self.goes_on("cut").await;
        self.put_in_place(&copy).await;
        let plans = cut_for(Scene::Restored, [Fate::CutRequest, Fate::CutAnswer], &self.trial);
        self.trial.start_parlour().await;
        self.talks_again("cut").await;
        assert!(plans.iter().all(Plan::is_done), "not everything was cut: {plans:?}");
        self.trial.to_homeserver.pass_all();
    }

    /// The same backup is put in place three times: the devices that were made in between are in no database.
    async fn is_restored_again_and_again(&mut self) {
        let copy = self.goes_on("the same").await;
        for _ in 0..3 {
            self.put_in_place(&copy).await;
            self.trial.start_parlour().await;
        }
        self.talks_again("the same").await;
    }

    async fn everything_is_there_once(&self) {
        let [murphy, ann] = &self.fresh;
        let (hub, spoke) = (self.talk.hub(), self.talk.spoke(self.trial.person("ann")));
        let answers: Vec<_> = self.said.iter().map(|words| answer_to(words)).collect();
        for (client, room, wanted) in [(murphy, hub, &answers), (ann, spoke, &self.said)] {
            client.resume().await;
            let words = witness::others_words(client, &room, wanted.len()).await;
            assert_eq!(words, *wanted, "what {} reads", client.user_id());
            let counts = witness::ciphertexts(client, &room).await;
            // Two write in each room; nobody was told anything.
            let numbers: Vec<_> = counts.values().copied().collect();
            assert_eq!(numbers, [wanted.len(); 2], "{counts:?}");
        }
    }
}

fn answer_to(words: &str) -> String {
    format!("{words}, says Ann")
}
