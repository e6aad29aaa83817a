//! `warm`: one message to patients who have had one before.

use parlour_integration_tests::devices::Equipment;

use crate::{
    practice::{Author, Practice, Wanted},
    replay::Plan,
    rows::{
        Context,
        sides::{Sides, broadcast},
    },
    say::say,
    table::Outcome,
};

pub async fn measure(context: &mut Context) -> Outcome {
    let (legs, rounds) = (context.sizes.spokes, context.sizes.rounds);
    let equipment = Equipment { devices: 2, one_time_keys: 5 };
    let practice = Practice::open(Wanted { staff: 0, patients: legs, equipment }).await;
    let author = Author::sign_in(&practice, practice.person("Murphy")).await;
    say!("warm: a conversation with {legs} patients");
    let talk = practice.begin(&author.token, "Flu clinic", &[], &practice.patients).await;
    author.comes_into(&talk.hub()).await;
    practice.rests().await;
    broadcast(&practice, &author, &talk.hub(), legs, &words(0)).await;
    practice.rests().await;
    // Once more, so that nobody's first time counts.
    let mut last = broadcast(&practice, &author, &talk.hub(), legs, &words(0)).await;
    let mut sides = Sides::of(legs);
    for number in 1..=rounds {
        let bare_first = number % 2 == 0;
        if bare_first {
            let plan = Plan::of_sending(&last.asked);
            sides.bare(&practice, |_| &plan, &last.asked, number).await;
        }
        last = broadcast(&practice, &author, &talk.hub(), legs, &words(number)).await;
        sides.parlour(&last);
        if !bare_first {
            let plan = Plan::of_sending(&last.asked);
            sides.bare(&practice, |_| &plan, &last.asked, number).await;
        }
        say!("warm: round {number} of {}", rounds);
    }
    practice.close().await;
    let mut outcome = sides.outcome("warm", &format!("1 → {legs} spokes, wall time"), 1.15, 1.5);
    outcome.note(sides.amounts());
    outcome.note(sides.kinds());
    outcome.note(last.course());
    outcome
}

/// Words of one length.
fn words(number: usize) -> String {
    format!(
        "The flu clinic is on Thursday from 2 to 6, in room {number:03}. Please bring your card with you."
    )
}
