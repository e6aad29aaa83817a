//! `memory`: what Parlour takes with many ghosts known and some of them awake. A conversation with one patient has two ghosts from
//! its beginning, the owner's and the patient's: half as many conversations, each of other people, make them all known. Then
//! Parlour is started anew, and the conversations that it makes next wake the ghosts of their people.

use parlour_integration_tests::devices::Equipment;

use crate::{
    machine::memory,
    practice::{Practice, Wanted},
    rows::Context,
    say::say,
    table::Outcome,
};

const TELLING: usize = 50;

pub async fn measure(context: &mut Context) -> Outcome {
    let (known, awake) = context.sizes.ghosts;
    let equipment = Equipment { devices: 1, one_time_keys: 1 };
    let mut practice = Practice::open(Wanted { staff: known / 2, patients: known / 2, equipment }).await;
    for pair in 0..known / 2 {
        begin(&practice, pair).await;
        if pair % TELLING == 0 {
            say!("memory: {} of {known} ghosts are known", pair * 2);
        }
    }
    practice.rests().await;
    let (_, while_made) = memory(practice.parlour());
    practice.restart_parlour().await;
    practice.rests().await;
    let (at_first, _) = memory(practice.parlour());
    for pair in 0..awake / 2 {
        begin(&practice, pair).await;
    }
    practice.rests().await;
    let seen = practice.figure("parlour_machines_awake").await.unwrap_or_default();
    assert!(seen >= awake as f64, "{seen} machines are awake");
    let (now, most) = memory(practice.parlour());
    practice.close().await;
    let mut outcome = Outcome::default();
    let what = format!("memory, {known} ghosts known, {awake} awake");
    outcome.entry("memory", what, now, 120.0, "MB");
    outcome.entry("memory", "the same, at most since the start", most, 120.0, "MB");
    outcome.note(format!("{seen:.0} machines awake, the bot's among them; {at_first:.0} MB after the start"));
    outcome.note(format!("{while_made:.0} MB at most in the process before, with all {known} awake"));
    outcome
}

/// One of the staff begins a conversation with one patient.
async fn begin(practice: &Practice, pair: usize) {
    let token = practice.token(&practice.staff[pair]).await;
    let patient = std::slice::from_ref(&practice.patients[pair]);
    practice.begin(&token, "Blood test", &[], patient).await;
}
