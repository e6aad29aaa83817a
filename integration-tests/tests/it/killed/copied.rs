//! A database that was put back from a copy by other means than ours: nobody has marked it, and it is noticed all the same.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use parlour_integration_tests::{LIMIT, proxy::Fate, read, say, trial::Trial, witness};
use ruma::UserId;
use tokio::time::{Instant, sleep};

use super::{Killed, Scene, places_of, practice};

const LOOK: Duration = Duration::from_millis(20);

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// The devices of a user of ours, as the homeserver has them.
async fn devices(trial: &Trial, user: &UserId) -> Vec<String> {
    let path = "/_matrix/client/v3/devices";
    let (status, answer) = trial.as_ours(user, reqwest::Method::GET, path, None).await;
    assert_eq!(status, 200, "{answer}");
    let devices = answer["devices"].as_array().expect("devices");
    devices.iter().filter_map(|device| device["device_id"].as_str()).map(str::to_owned).collect()
}

/// What Parlour asks of everything that was said, from here on.
fn questions(trial: &Trial) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let keep = Arc::clone(&asked);
    trial.to_homeserver.judge(move |_, path| {
        if path.contains("/sync?") && !path.contains("device_id=") {
            keep.lock().expect("questions").push(path.to_owned());
        }
        Fate::Pass
    });
    asked
}

async fn display_name(trial: &Trial, user: &UserId) -> String {
    let path = format!("/_matrix/client/v3/profile/{user}/displayname");
    let (_, answer) = trial.as_ours(user, reqwest::Method::GET, &path, None).await;
    answer["displayname"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_put_back_from_a_plain_copy_is_noticed_and_doubles_nothing() {
    let mut trial = practice(None, 0).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let questions = questions(&trial);
    let (murphys, anns) = (trial.sign_in("murphy", "fresh").await, trial.sign_in("ann", "fresh").await);
    for client in [&murphys, &anns] {
        client.pause().await;
    }
    let talk = trial.begin(&murphy, "copied", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "before").await;
    let ghost = read(&ann, &spoke, "before").await.sender;
    say(&ann, &spoke, "Ann before").await;
    read(&murphy, &hub, "Ann before").await;
    trial.quiet().await;

    trial.kill_parlour().await;
    let (data, yesterday) = (trial.data.join("parlour"), trial.data.join("yesterday"));
    copy(&data, &yesterday);
    trial.start_parlour().await;
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    say(&ann, &spoke, "Ann after").await;
    read(&murphy, &hub, "Ann after").await;
    trial.quiet().await;
    let (before, called) = (devices(&trial, &ghost).await, display_name(&trial, &ghost).await);
    assert!(called.contains("Murphy"), "{called}");

    trial.kill_parlour().await;
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&yesterday, &data);
    let mut killed = Killed::default();
    for place in places_of(Scene::Copied) {
        killed.at_start(&mut trial, &place, 1).await;
    }
    killed.is_all_of(Scene::Copied);
    trial.care_every(Duration::from_millis(300));
    trial.start_parlour().await;
    let noticed = |trial: &Trial| trial.log().matches("put back from a copy by other means").count();
    // No question is asked twice, though the same place is known once more: it would be answered as before.
    let asked = questions.lock().expect("questions").clone();
    assert!(asked.len() > 4, "{asked:?}");
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "{asked:?}");
    // Killed before it was written down, it is noticed again.
    assert_eq!(noticed(&trial), 2, "{}", trial.last_words());

    // Nobody has spoken, and the ghost that spoke last has one device, and a new one; it is called as before.
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = devices(&trial, &ghost).await;
        if now.len() == 1 && now != before {
            break;
        }
        assert!(Instant::now() < deadline, "{before:?}, {now:?}: {}", trial.last_words());
        sleep(LOOK).await;
    }
    assert_eq!(display_name(&trial, &ghost).await, called);

    say(&murphy, &hub, "and on").await;
    let on = read(&ann, &spoke, "and on").await;
    ann.reply(&spoke, &on.event_id, "Ann goes on").await.expect("sent");
    read(&murphy, &hub, "Ann goes on").await;
    trial.quiet().await;
    // It is dealt with once, and not again.
    trial.kill_parlour().await;
    trial.start_parlour().await;
    assert_eq!(noticed(&trial), 2, "{}", trial.last_words());
    for (client, room, wanted) in [
        (&anns, &spoke, ["before", "after", "and on"]),
        (&murphys, &hub, ["Ann before", "Ann after", "Ann goes on"]),
    ] {
        client.resume().await;
        assert_eq!(witness::others_words(client, room, wanted.len()).await, wanted);
        let counts: Vec<_> = witness::ciphertexts(client, room).await.into_values().collect();
        assert_eq!(counts, [3, 3], "nothing stands twice, and nobody was told anything");
    }
    for client in [murphy, ann, murphys, anns] {
        client.stop().await;
    }
    trial.close().await;
}

/// After the copy nothing was said but in a conversation that it does not know. And one room cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_noticed_by_a_conversation_that_it_does_not_know_and_one_room_holds_up_nobody() {
    let mut trial = practice(None, 0).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let (damaged, whole) = (
        trial.begin(&murphy, "damaged", &[], &["ben"]).await,
        trial.begin(&murphy, "whole", &[], &["ann"]).await,
    );
    let (hub, spoke) = (whole.hub(), whole.spoke(trial.person("ann")));
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    trial.quiet().await;
    trial.kill_parlour().await;
    let (data, yesterday) = (trial.data.join("parlour"), trial.data.join("yesterday"));
    copy(&data, &yesterday);
    trial.start_parlour().await;
    let later = trial.begin(&murphy, "later", &[], &["ann"]).await;
    say(&murphy, &later.hub(), "after").await;
    read(&ann, &later.spoke(trial.person("ann")), "after").await;
    trial.quiet().await;

    trial.kill_parlour().await;
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&yesterday, &data);
    let history = parlour_integration_tests::room_path(&damaged.hub(), "messages");
    trial.to_homeserver.judge(move |_, path| match path.starts_with(&history) {
        true => Fate::Answer(500, r#"{"errcode":"M_UNKNOWN","error":"damaged"}"#),
        false => Fate::Pass,
    });
    trial.start_parlour().await;
    let log = trial.log();
    assert_eq!(log.matches("put back from a copy by other means").count(), 1, "{log}");
    assert!(log.contains("a room cannot be read back"), "{log}");
    assert_eq!(log.matches("every device is renewed").count(), 1, "{log}");
    say(&murphy, &hub, "and on").await;
    read(&ann, &spoke, "and on").await;
    assert_eq!(witness::others_words(&ann, &spoke, 2).await, ["before", "and on"]);
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}
