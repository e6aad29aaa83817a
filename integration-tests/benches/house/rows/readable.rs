//! `readable`: from the return key to the other person's screen, with a real client on both sides and nothing else going on.

use std::time::{Duration, Instant};

use parlour_integration_tests::{LIMIT, devices::Equipment, read};
use tokio::time::sleep;

use crate::{
    figures::{Figures, millis},
    practice::{Author, Practice, Wanted},
    rows::Context,
    say::say,
    table::Outcome,
};

const PAUSE: Duration = Duration::from_millis(500);

pub async fn measure(context: &mut Context) -> Outcome {
    let equipment = Equipment { devices: 0, one_time_keys: 0 };
    let practice = Practice::open(Wanted { staff: 0, patients: 0, equipment }).await;
    let murphy = Author::sign_in(&practice, practice.person("Murphy")).await.client;
    let ann = Author::sign_in(&practice, practice.person("Ann")).await.client;
    let token = parlour_integration_tests::token(&murphy);
    let patient = std::slice::from_ref(practice.person("Ann"));
    let talk = practice.begin(&token, "Blood test", &[], patient).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(&patient[0]));
    for (client, room) in [(&murphy, &hub), (&ann, &spoke)] {
        client.wait_for_room(LIMIT, |found| found.room_id == *room).await.expect("in the room");
    }
    let mut took = Figures::default();
    say!("readable: {} messages", context.sizes.messages / 3);
    for number in 0..2 + context.sizes.messages / 3 {
        practice.is_alone().await;
        sleep(PAUSE).await;
        let words = format!("Message number {number}.");
        let (from, to) = if number % 2 == 0 {
            ((&murphy, &hub), (&ann, &spoke))
        } else {
            ((&ann, &spoke), (&murphy, &hub))
        };
        let pressed = Instant::now();
        from.0.send_text(from.1, &words).await.expect("sent");
        read(to.0, to.1, &words).await;
        // Each one's first makes sessions, and ghosts: it does not count.
        if number >= 2 {
            took.push(millis(pressed.elapsed()));
        }
    }
    murphy.stop().await;
    ann.stop().await;
    practice.close().await;
    let mut outcome = Outcome::default();
    let what = "return pressed → readable at the other client, p95";
    outcome.entry("readable", what, took.percentile(95), 1000.0, "ms");
    outcome.note(format!("{} messages, both ways, {took} ms", took.count()));
    outcome
}
