//! `creation`: a conversation with many patients is made; the bare side makes as many rooms with the same events.

use std::time::Instant;

use parlour_engine::CommitPoint;
use parlour_integration_tests::devices::Equipment;

use crate::{
    practice::{Practice, Wanted},
    replay::Plan,
    rows::{
        Context,
        sides::{Round, Sides},
    },
    say::say,
    table::Outcome,
    tap::Exchange,
};

pub async fn measure(context: &mut Context) -> Outcome {
    let (spokes, rounds) = (context.sizes.spokes, context.sizes.rounds);
    let equipment = Equipment { devices: 1, one_time_keys: 1 };
    let practice = Practice::open(Wanted { staff: 0, patients: spokes, equipment }).await;
    let token = practice.token(practice.person("Murphy")).await;
    // The first makes the owner's ghost too.
    let mut last = conversation(&practice, &token).await;
    let mut sides = Sides::of(spokes + 1);
    for number in 1..=rounds {
        let bare_first = number % 2 == 0;
        if bare_first {
            let plan = Plan::of_rooms(&last.asked);
            sides.bare(&practice, |_| &plan, &last.asked, number).await;
        }
        last = conversation(&practice, &token).await;
        sides.parlour(&last);
        if !bare_first {
            let plan = Plan::of_rooms(&last.asked);
            sides.bare(&practice, |_| &plan, &last.asked, number).await;
        }
        say!("creation: round {number} of {rounds}");
    }
    practice.close().await;
    let mut outcome = Outcome::default();
    sides.against_bare(
        &mut outcome,
        "creation",
        &format!("a conversation with {spokes} patients, wall time"),
        1.15,
    );
    outcome.note(sides.amounts());
    outcome.note(sides.kinds());
    outcome.note(last.course());
    outcome
}

async fn conversation(practice: &Practice, token: &str) -> Round {
    practice.rests().await;
    practice.is_alone().await;
    drop(practice.to_homeserver.take());
    let (before, began) = (practice.used(), Instant::now());
    practice.begin(token, "Flu clinic", &[], &practice.patients).await;
    practice.is_still().await;
    let cpu = practice.used().since(&before);
    let mut asked = practice.to_homeserver.take();

    // Whoever asks whether it is ready is asked who they are: all but the first of these are the bench's own doing.
    let mut known = false;
    asked.retain(|asked: &Exchange| match asked.point {
        Some(CommitPoint::WhoAmI) => !std::mem::replace(&mut known, true),
        _ => !asked.is_the_bots_poll(),
    });
    let ended = asked.iter().filter_map(|asked| asked.ended).max().expect("something was asked");
    Round { began, wall: ended - began, cpu, asked }
}
