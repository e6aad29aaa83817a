//! `growth` and `reply`, in one practice with many patients: what a leg costs as conversations grow, and how long a single reply
//! takes while a broadcast goes out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parlour::demo::client::Client;
use parlour_integration_tests::{LIMIT, Talk, devices::Equipment, read};
use ruma::{OwnedEventId, OwnedRoomId};
use tokio::time::sleep;

use crate::{
    figures::{Figures, millis},
    practice::{Author, Practice, Wanted},
    rows::{Context, Sizes, sides::broadcast},
    say::say,
    table::Outcome,
};

/// The practice of both rows.
pub struct Large {
    practice: Practice,
    author: Author,
    kim: Client,
    ann: Client,
    ben: Client,
    /// One conversation a size, the largest last; it has a patient more, who looks on.
    talks: Vec<(usize, Talk)>,
}

const PAUSE: Duration = Duration::from_millis(200);
/// A message may take so long.
const PATIENCE: Duration = Duration::from_secs(300);

impl Large {
    /// Makes it, with all its conversations.
    pub async fn open(sizes: Sizes) -> Self {
        let equipment = Equipment { devices: 2, one_time_keys: 8 };
        let patients = sizes.growth.iter().copied().max().unwrap_or_default();
        say!("a practice with {patients} patients");
        let practice = Practice::open(Wanted { staff: 0, patients, equipment }).await;
        let author = Author::sign_in(&practice, practice.person("Murphy")).await;
        let [kim, ann, ben] = ["Kim", "Ann", "Ben"].map(|name| practice.sign_in(practice.person(name)));
        let (kim, ann, ben) = (kim.await, ann.await, ben.await);
        let mut talks = Vec::new();
        for size in sizes.growth {
            say!("a conversation with {size} patients");
            let mut patients = practice.patients[..size].to_vec();
            if size == practice.patients.len() {
                patients[size - 1] = practice.person("Ann").clone();
            }
            let staff = [practice.person("Kim")];
            let talk = practice.begin(&author.token, "Flu clinic", &staff, &patients).await;
            author.comes_into(&talk.hub()).await;
            talks.push((size, talk));
        }
        for client in [&kim, &ann, &ben] {
            client.pause().await;
        }
        practice.rests().await;
        let large = Self { practice, author, kim, ann, ben, talks };
        for (size, talk) in &large.talks {
            say!("the first messages to {size} patients");
            for number in 0..2 {
                broadcast(&large.practice, &large.author, &talk.hub(), *size, &words(number)).await;
                large.practice.rests().await;
            }
        }
        large
    }

    /// Ends it.
    pub async fn close(self) {
        for client in [self.author.client, self.kim, self.ann, self.ben] {
            client.stop().await;
        }
        self.practice.close().await;
    }
}

/// What a leg costs at each size.
pub async fn growth(context: &mut Context) -> Outcome {
    let rounds = context.sizes.rounds;
    let large = context.large().await;
    let mut costs: Vec<_> =
        large.talks.iter().map(|(size, _)| (*size, Figures::default(), Figures::default())).collect();
    for number in 1..=rounds {
        for ((size, talk), (_, wall, cpu)) in large.talks.iter().zip(&mut costs) {
            let round = broadcast(&large.practice, &large.author, &talk.hub(), *size, &words(number)).await;
            wall.push(millis(round.wall) / *size as f64);
            cpu.push(millis(round.cpu.parlour) / *size as f64);
        }
        say!("growth: round {number} of {rounds}");
    }
    let mut outcome = Outcome::default();
    let sizes: Vec<_> = costs.iter().map(|(size, ..)| size.to_string()).collect();
    let sizes = sizes.join(", ");
    let dearer = |of: fn(&(usize, Figures, Figures)) -> f64| {
        let costs: Vec<_> = costs.iter().map(of).collect();
        let pairs =
            costs.iter().enumerate().flat_map(|(at, small)| costs[at..].iter().map(move |l| l / small));
        pairs.fold(1.0, f64::max)
    };
    let (wall, cpu) = (dearer(|cost| cost.1.median()), dearer(|cost| cost.2.median()));
    outcome.entry("growth", format!("wall time a leg at {sizes} spokes, largest rise"), wall, 1.2, "×");
    outcome.entry("growth", format!("own processor time a leg at {sizes}, largest rise"), cpu, 1.2, "×");
    for (size, wall, cpu) in &costs {
        outcome.note(format!("{size} spokes: {wall} ms a leg, own processor time {cpu} ms a leg"));
    }
    outcome.note(format!("{rounds} rounds"));
    outcome
}

/// Words of one length.
fn words(number: usize) -> String {
    format!("The flu clinic is on Thursday from 2 to 6, in room {number:03}.")
}

/// How long one reply takes, and one message elsewhere, while a message goes to everybody.
pub async fn reply(context: &mut Context) -> Outcome {
    let broadcasts = context.sizes.broadcasts;
    let large = context.large().await;
    let Large { practice, author, kim, ann, ben, talks } = large;
    for client in [kim, ann, ben] {
        client.resume().await;
    }
    let (size, talk) = talks.last().expect("a conversation");
    let ways = large.ways(talk).await;
    let (mut replies, mut others) = (Figures::default(), Figures::default());
    for number in 0..broadcasts {
        practice.rests().await;
        practice.is_alone().await;
        drop(practice.to_homeserver.take());
        author.says(&talk.hub(), &words(900 + number)).await;
        let over = AtomicBool::new(false);
        let broadcast = async {
            practice.to_homeserver.have_been_sent(*size, PATIENCE).await;
            over.store(true, Ordering::Relaxed);
        };
        let [reply, elsewhere] = &ways;
        tokio::join!(
            broadcast,
            reply.again_until(&over, number, &mut replies),
            elsewhere.again_until(&over, number, &mut others),
        );
        let (replies, others) = (replies.count(), others.count());
        say!("reply: broadcast {} of {broadcasts}, {replies} replies, {others} elsewhere", number + 1);
    }
    practice.rests().await;
    for client in [kim, ann, ben] {
        client.pause().await;
    }
    let mut outcome = Outcome::default();
    for (what, took) in [("to one patient of it", &replies), ("in another conversation", &others)] {
        let what = format!("a reply during {size} spokes' broadcast, {what}, p95");
        outcome.entry("reply", what, took.percentile(95), 3000.0, "ms");
        outcome.note(format!("{}, {took} ms", took.count()));
    }
    outcome
}

impl Large {
    /// Kim's reply to Ann in the large conversation, and her messages to Ben in another; each has gone once.
    async fn ways(&self, talk: &Talk) -> [Way<'_>; 2] {
        let Self { practice, kim, ann, ben, .. } = self;
        let (hub, spoke) = (talk.hub(), talk.spoke(practice.person("Ann")));
        let bens = std::slice::from_ref(practice.person("Ben"));
        let token = parlour_integration_tests::token(kim);
        let elsewhere = practice.begin(&token, "Blood test", &[], bens).await;
        let (other_hub, other_spoke) = (elsewhere.hub(), elsewhere.spoke(&bens[0]));
        for (client, room) in [(kim, &hub), (kim, &other_hub), (ann, &spoke), (ben, &other_spoke)] {
            client.wait_for_room(LIMIT, |found| found.room_id == *room).await.expect("in the room");
        }
        ann.send_text(&spoke, "May I come at four?").await.expect("sent");
        let question = read(kim, &hub, "May I come at four?").await.event_id;
        let reply = Way { from: kim, room: hub, to: ann, into: spoke, answers: Some(question) };
        let elsewhere = Way { from: kim, room: other_hub, to: ben, into: other_spoke, answers: None };
        for way in [&reply, &elsewhere] {
            way.goes("Good morning.").await;
        }
        [reply, elsewhere]
    }
}

/// From one person's client to another's.
struct Way<'a> {
    from: &'a Client,
    room: OwnedRoomId,
    to: &'a Client,
    into: OwnedRoomId,
    /// The message that is answered.
    answers: Option<OwnedEventId>,
}

impl Way<'_> {
    /// From the return key to the other's screen.
    async fn goes(&self, words: &str) -> Duration {
        let pressed = Instant::now();
        let sent = match &self.answers {
            Some(answered) => self.from.reply(&self.room, answered, words).await,
            None => self.from.send_text(&self.room, words).await,
        };
        sent.expect("sent");
        let arrived = self.to.wait_for(&self.into, PATIENCE, |message| message.body == words).await;
        arrived.expect("it arrives in the end");
        pressed.elapsed()
    }

    /// One after the other until it is over. Whatever was begun before counts, however long it takes.
    async fn again_until(&self, over: &AtomicBool, number: usize, took: &mut Figures) {
        for turn in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            took.took(self.goes(&format!("Message {turn} during {number}.")).await);
            sleep(PAUSE).await;
        }
    }
}
