//! What is said while Parlour comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parlour_integration_tests::{proxy::Fate, read, requests, say, trial::Trial, witness};
use tokio::time::timeout;

use crate::crash::PROGRAM;

const ROUNDS: usize = 15;
/// For how long somebody writes before Parlour is started.
const BEFORE: Duration = Duration::from_millis(300);
/// How long somebody goes on writing after messages travel again.
const MEANWHILE: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(10);
/// Less than the ten seconds after which it is asked for anyhow.
const AT_ONCE: Duration = Duration::from_secs(6);

/// The homeserver takes for delivered what it never sends, at the moment when it finds Parlour reachable again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_sight_of_while_parlour_comes_back_is_asked_for_at_once() {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    let (murphy, ann) = (trial.sign_in("murphy", "first").await, trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "lost sight of", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    trial.quiet().await;
    trial.kill_parlour().await;
    trial.to_parlour.judge(|method, path| {
        let is_transaction = requests::is_transaction(&format!("{method} {path}"));
        if is_transaction { Fate::Answer(200, "{}") } else { Fate::Pass }
    });
    trial.start_parlour().await;
    say(&murphy, &hub, "lost").await;
    let found = timeout(AT_ONCE, read(&ann, &spoke, "lost")).await;
    assert!(found.is_ok(), "it is not there: {}", trial.last_words());
    let lost = trial.to_parlour.kept().await;
    assert!(!lost.is_empty(), "a transaction was lost");
    trial.to_parlour.pass_all();
    say(&murphy, &hub, "after").await;
    read(&ann, &spoke, "after").await;
    trial.quiet().await;
    assert_eq!(witness::others_words(&ann, &spoke, 3).await, ["hello", "lost", "after"]);
    for client in [murphy, ann] {
        client.stop().await;
    }
    trial.close().await;
}

/// The homeserver may still hold a connection to the Parlour of before, and finds out by calling: that is no reason to begin
/// everything anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_goes_to_the_parlour_of_before_is_asked_for_once_more() {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    trial.quiet().await;
    trial.kill_parlour().await;
    let mut calls = 0;
    trial.to_parlour.judge(move |_, path| {
        calls += u32::from(path.ends_with("/ping"));
        if path.ends_with("/ping") && calls == 1 { Fate::CutRequest } else { Fate::Pass }
    });
    drop(trial.to_homeserver.seen());
    trial.start_parlour().await;
    let asked = trial.to_homeserver.seen();
    let pings: Vec<_> = (0..asked.len()).filter(|place| asked[*place].contains("/ping?")).collect();
    let [first, second] = pings[..] else { panic!("{asked:?}") };
    let between = &asked[first..second];
    let redone = between.iter().any(|request| request.contains("/sync"));
    assert!(!redone, "{between:?}: {}", trial.last_words());
    trial.close().await;
}

/// Synapse 1.163 gives back what waited for an application service one transaction at a time, and when it finds none
/// left takes the service for reachable. A transaction that it makes between the one and the other it neither sends at
/// once nor looks for again: it lies in `application_services_txns` until another one fails.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_parlour_comes_back_arrives_soon_and_in_order() {
    let mut trial = Trial::open(PROGRAM, None, 0, None).await;
    let (murphy, ann) =
        (Arc::new(trial.sign_in("murphy", "first").await), trial.sign_in("ann", "first").await);
    let talk = trial.begin(&murphy, "coming back", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(trial.person("ann")));
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    let mut said = vec!["hello".to_owned()];
    for round in 0..ROUNDS {
        trial.kill_parlour().await;
        let goes_on = Arc::new(AtomicBool::new(true));
        let (writer, room, still) = (Arc::clone(&murphy), hub.clone(), Arc::clone(&goes_on));
        let writing = tokio::spawn(async move {
            let mut words = Vec::new();
            while still.load(Ordering::Relaxed) {
                words.push(format!("{round}.{}", words.len()));
                writer.send_text(&room, &words[words.len() - 1]).await.expect("sent");
            }
            words
        });
        tokio::time::sleep(BEFORE).await;
        trial.start_parlour().await;
        tokio::time::sleep(MEANWHILE).await;
        goes_on.store(false, Ordering::Relaxed);
        said.extend(writing.await.expect("written"));
        let all = timeout(SOON, witness::others_words(&ann, &spoke, said.len())).await;
        let kept_back = trial.transactions_kept_back().await;
        assert!(
            all.is_ok(),
            "round {round}: not all has come; the homeserver keeps {kept_back} transactions"
        );
        assert_eq!(all.ok(), Some(said.clone()), "round {round}");
    }
    ann.stop().await;
    if let Some(murphy) = Arc::into_inner(murphy) {
        murphy.stop().await;
    }
    trial.close().await;
}
