//! `latency`: what Parlour adds to a message on its way: from the transaction that brings it to the request that hands it on, with
//! five messages a second in as many conversations.

use std::time::Duration;

use parlour_engine::CommitPoint;
use parlour_integration_tests::devices::Equipment;
use ruma::{OwnedEventId, OwnedRoomId};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    figures::{Figures, millis},
    practice::{Author, Practice, Wanted},
    rows::Context,
    say::say,
    table::Outcome,
    tap::Exchange,
};

const CONVERSATIONS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

struct Conversation {
    hub: OwnedRoomId,
    spoke: OwnedRoomId,
    said: Vec<OwnedEventId>,
}

pub async fn measure(context: &mut Context) -> Outcome {
    let messages = context.sizes.messages;
    let equipment = Equipment { devices: 2, one_time_keys: 5 };
    let practice = Practice::open(Wanted { staff: 0, patients: CONVERSATIONS, equipment }).await;
    let author = Author::sign_in(&practice, practice.person("Murphy")).await;
    let mut conversations = Vec::new();
    for patient in &practice.patients {
        let talk = practice.begin(&author.token, "Blood test", &[], std::slice::from_ref(patient)).await;
        let (hub, spoke) = (talk.hub(), talk.spoke(patient));
        author.comes_into(&hub).await;
        author.says(&hub, "Hello.").await;
        conversations.push(Conversation { hub, spoke, said: Vec::new() });
    }
    practice.rests().await;
    practice.is_alone().await;
    say!("latency: {messages} messages");
    drop((practice.to_homeserver.take(), practice.to_parlour.take()));
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..messages {
        ticks.tick().await;
        let conversation = &mut conversations[number % CONVERSATIONS];
        let words = format!("Your result number {number} is in.");
        conversation.said.push(author.says(&conversation.hub, &words).await);
    }
    practice.rests().await;
    let added = added(&conversations, &practice.to_parlour.take(), &practice.to_homeserver.take());
    practice.close().await;
    let mut outcome = Outcome::default();
    for (percent, most) in [(50, 15.0), (99, 100.0)] {
        let what = format!("added latency at 5 messages/s, p{percent}");
        outcome.entry("latency", what, added.percentile(percent), most, "ms");
    }
    outcome.note(format!("{} messages in {CONVERSATIONS} conversations, {added} ms", added.count()));
    outcome
}

/// In each conversation, one message goes on after the other, in order: the first that is said is the first that is sent.
fn added(conversations: &[Conversation], transactions: &[Exchange], sends: &[Exchange]) -> Figures {
    let texts: Vec<_> = transactions
        .iter()
        .map(|exchange| {
            (exchange.request.began, String::from_utf8_lossy(&exchange.request.bytes).into_owned())
        })
        .collect();
    let mut added = Figures::default();
    for conversation in conversations {
        let room = conversation.spoke.as_str().trim_start_matches('!');
        let into =
            |sent: &&Exchange| sent.point == Some(CommitPoint::SendEvent) && sent.path().contains(room);
        let sent: Vec<_> = sends.iter().filter(into).collect();
        assert_eq!(sent.len(), conversation.said.len(), "each message goes on once");
        for (event, sent) in conversation.said.iter().zip(sent) {
            let came = texts.iter().find(|(_, text)| text.contains(event.as_str()));
            let (came, _) = came.expect("the transaction with the message");
            added.push(millis(sent.request.began - *came));
        }
    }
    added
}
