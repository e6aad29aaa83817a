//! `cold`: somebody's first message ever, to patients with two devices each. Every round has another owner, whose ghost knows
//! nobody yet; the bare side claims one-time keys and sends room keys as often, and each of its messages, too, is the first
//! in its rooms: the owner begins a conversation for each of them as well.

use parlour_engine::CommitPoint;
use parlour_integration_tests::{Talk, devices::Equipment};

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
            sides.bare(&practice, |turn| &last.plans[turn], &last.round.asked, number).await;
        }
        last = first_message(&practice, number, legs).await;
        sides.parlour(&last.round);
        if !bare_first {
            sides.bare(&practice, |turn| &last.plans[turn], &last.round.asked, number).await;
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
    outcome.note(last.round.course());
    outcome.note(format!("of the last round's keys/query, {} are the bot's own", bots_queries(&last.round)));
    outcome
}

/// A first message, and how the bare side sends the same, once at each number in flight.
struct First {
    round: Round,
    plans: Vec<Plan>,
}

/// A member of staff who has never written begins conversations with all patients, and writes in one of them.
async fn first_message(practice: &Practice, number: usize, legs: usize) -> First {
    let author = Author::sign_in(practice, &practice.staff[number]).await;
    let mut talks = Vec::new();
    for _ in 0..=IN_FLIGHT.len() {
        talks.push(practice.begin(&author.token, "Flu clinic", &[], &practice.patients).await);
    }
    let hub = talks[0].hub();
    author.comes_into(&hub).await;
    practice.rests().await;
    let words = format!("The flu clinic is on Thursday from 2 to 6, in room {number:03}.");
    let round = broadcast(practice, &author, &hub, legs, &words).await;
    practice.rests().await;
    author.client.stop().await;
    let plan_in = |talk: &Talk| {
        let rooms: Vec<_> = practice
            .patients
            .iter()
            .map(|patient| (talks[0].spoke(patient).to_string(), talk.spoke(patient).to_string()))
            .collect();
        Plan::of_sending(&round.asked).in_rooms(&rooms)
    };
    let plans = talks[1..].iter().map(plan_in).collect();
    First { round, plans }
}

fn bots_queries(round: &Round) -> usize {
    let bots = round.asked.iter().filter(|asked| asked.path().contains("_parlour_bot"));
    bots.filter(|asked| asked.point == Some(CommitPoint::QueryKeys)).count()
}
