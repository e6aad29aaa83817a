//! `cold`: somebody's first message ever, to patients with two devices each. Every round has another owner, whose ghost knows
//! nobody yet; the bare side claims one-time keys and sends room keys as often.

use parlour_engine::CommitPoint;
use parlour_integration_tests::devices::Equipment;

use crate::{
    practice::{Author, Practice, Wanted},
    replay::{IN_FLIGHT, Plan},
    rows::{
        Context,
        sides::{Round, Sides, broadcast},
    },
    say::say,
    table::Outcome,
};

/// The homeserver is asked for the one-time keys of so many people at once.
const PEOPLE_A_CLAIM: usize = 250;

pub async fn measure(context: &mut Context) -> Outcome {
    let (legs, rounds) = (context.sizes.spokes, context.sizes.rounds);
    // Each round takes one of each device for Parlour, and one for each time that the bare side runs; one more round goes
    // before all.
    let one_time_keys = (rounds + 1) * (1 + IN_FLIGHT.len()) + 10;
    let equipment = Equipment { devices: 2, one_time_keys };
    let practice = Practice::open(Wanted { staff: rounds + 1, patients: legs, equipment }).await;
    let mut last = first_message(&practice, 0, legs).await;
    let mut sides = Sides::of(legs);
    for number in 1..=rounds {
        let bare_first = number % 2 == 0;
        if bare_first {
            sides.bare(&practice, &Plan::of_sending(&last.asked), &last.asked, number).await;
        }
        last = first_message(&practice, number, legs).await;
        sides.parlour(&last);
        if !bare_first {
            sides.bare(&practice, &Plan::of_sending(&last.asked), &last.asked, number).await;
        }
        say!("cold: round {number} of {rounds}");
    }
    practice.close().await;
    let mut outcome =
        sides.outcome("cold", &format!("first message to {legs} patients, wall time"), 1.3, 4.0);
    outcome.note(sides.amounts());
    let claims = legs.div_ceil(PEOPLE_A_CLAIM);
    for (what, point, most) in [
        ("keys/query", CommitPoint::QueryKeys, 1),
        ("keys/claim", CommitPoint::ClaimKeys, claims),
        ("sendToDevice", CommitPoint::SendToDevices, 2),
        ("PUT send", CommitPoint::SendEvent, legs),
    ] {
        let most_seen = sides.most(point);
        outcome.entry("cold", format!("{what}, in any round"), most_seen as f64, most as f64, "requests");
    }
    outcome.note(sides.kinds());
    outcome.note(format!("of the last round's keys/query, {} are the bot's own", bots_queries(&last)));
    outcome
}

/// A member of staff who has never written begins a conversation with all patients, and writes.
async fn first_message(practice: &Practice, number: usize, legs: usize) -> Round {
    let author = Author::sign_in(practice, &practice.staff[number]).await;
    let talk = practice.begin(&author.token, "Flu clinic", &[], &practice.patients).await;
    author.comes_into(&talk.hub()).await;
    practice.rests().await;
    let words = format!("The flu clinic is on Thursday from 2 to 6, in room {number:03}.");
    let round = broadcast(practice, &author, &talk.hub(), legs, &words).await;
    practice.rests().await;
    author.client.stop().await;
    round
}

fn bots_queries(round: &Round) -> usize {
    let bots = round.asked.iter().filter(|asked| asked.path().contains("_parlour_bot"));
    bots.filter(|asked| asked.point == Some(CommitPoint::QueryKeys)).count()
}
