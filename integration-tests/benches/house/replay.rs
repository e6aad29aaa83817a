//! The bare side: the requests that Parlour made, made again by nobody in particular, as fast as kept-alive connections allow.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use parlour::edge::{SystemChance, random_hex};
use parlour_engine::CommitPoint;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::watch, task::JoinSet};

use crate::{http1::Reader, tap::Exchange};

/// How many requests are on their way at once, each on a connection of its own; the best of them counts.
pub const IN_FLIGHT: [usize; 3] = [16, 32, 50];
const ANYTHING: &[u8] = b"GET /_matrix/client/versions HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A request to be made, in one of two ways of waiting for others.
#[derive(Clone)]
struct Request {
    bytes: Vec<u8>,
    makes_room: bool,
}

/// Requests one after the other, in the room that the first of them makes, if it makes one.
#[derive(Clone, Default)]
struct Chain {
    requests: Vec<Request>,
    /// That room as it is called in the requests, without its `!`, which is written in two ways.
    room: Option<String>,
}

/// A chain that begins when others have ended.
#[derive(Clone)]
struct Step {
    chain: Chain,
    /// Their places in the plan, all of them before its own.
    after: Vec<usize>,
}

/// Everything to be made, side by side as far as nothing waits for something else.
pub struct Plan {
    steps: Vec<Step>,
}

/// How much of something went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Requests.
    pub requests: usize,
    /// Their bytes, heads and bodies.
    pub bytes: usize,
}

impl Amount {
    /// Of exchanges.
    pub fn of(exchanges: &[Exchange]) -> Self {
        let bytes = exchanges.iter().map(|exchange| exchange.request.bytes.len()).sum();
        Self { requests: exchanges.len(), bytes }
    }
}

impl Plan {
    /// A message to be sent: whatever prepares it kind by kind in the order of their first appearance, and the events side by
    /// side, each when what had been answered before it began has been answered again.
    pub fn of_sending(exchanges: &[Exchange]) -> Self {
        let (events, prepares): (Vec<_>, Vec<_>) =
            exchanges.iter().partition(|exchange| exchange.point == Some(CommitPoint::SendEvent));
        let mut kinds: Vec<Option<CommitPoint>> = Vec::new();
        for exchange in &prepares {
            if !kinds.contains(&exchange.point) {
                kinds.push(exchange.point);
            }
        }
        let alone = |exchange| Chain { requests: vec![request(exchange)], room: None };
        let mut steps: Vec<Step> = Vec::new();
        let mut answered = Vec::new();
        let mut before = 0..0;
        for kind in kinds {
            let begin = steps.len();
            for exchange in prepares.iter().filter(|exchange| exchange.point == kind) {
                steps.push(Step { chain: alone(exchange), after: before.clone().collect() });
                answered.push(exchange.ended);
            }
            before = begin..steps.len();
        }
        for event in events {
            let waits_for = |answered: &Option<Instant>| answered.is_none_or(|at| at <= event.request.began);
            let after = answered.iter().enumerate().filter(|(_, answered)| waits_for(answered));
            steps.push(Step { chain: alone(event), after: after.map(|(place, _)| place).collect() });
        }
        Self { steps }
    }

    /// Rooms to be made: what comes before the first, in its order; then each room with what follows in it, and whatever
    /// concerns none of them, side by side.
    pub fn of_rooms(exchanges: &[Exchange]) -> Self {
        let makes_room = |exchange: &Exchange| exchange.point == Some(CommitPoint::CreateRoom);
        let begin = exchanges.iter().position(makes_room).unwrap_or(exchanges.len());
        let (before, from_then) = exchanges.split_at(begin);
        let first = Chain { requests: before.iter().map(request).collect(), room: None };
        let made = from_then.iter().filter(|exchange| makes_room(exchange));
        let mut chains: Vec<Chain> = made
            .map(|exchange| {
                let answer: serde_json::Value = serde_json::from_slice(&exchange.answer).unwrap_or_default();
                let room = answer["room_id"].as_str().expect("a room was made");
                Chain { requests: vec![request(exchange)], room: Some(bare_id(room)) }
            })
            .collect();
        for exchange in from_then.iter().filter(|exchange| !makes_room(exchange)) {
            let text = String::from_utf8_lossy(&exchange.request.bytes);
            let about =
                chains.iter_mut().find(|chain| chain.room.as_ref().is_some_and(|room| text.contains(room)));
            match about {
                Some(chain) => chain.requests.push(request(exchange)),
                None => chains.push(Chain { requests: vec![request(exchange)], room: None }),
            }
        }
        let first = Step { chain: first, after: Vec::new() };
        let others = chains.into_iter().map(|chain| Step { chain, after: vec![0] });
        Self { steps: std::iter::once(first).chain(others).collect() }
    }

    /// The same in other rooms: pairs of room ids, of the same length, the known one first.
    #[must_use]
    pub fn in_rooms(mut self, rooms: &[(String, String)]) -> Self {
        for request in self.steps.iter_mut().flat_map(|step| &mut step.chain.requests) {
            for (known, other) in rooms {
                request.bytes = replaced(&request.bytes, local_part(known), local_part(other));
            }
        }
        self
    }

    /// Makes all requests anew over these connections, one at a time on each; from the first byte out to the last answer.
    pub async fn run(&self, connections: Vec<TcpStream>) -> Duration {
        let steps =
            self.steps.iter().map(|step| Step { chain: fresh(&step.chain), after: step.after.clone() });
        let waiting: Vec<(usize, Step)> = steps.enumerate().collect();
        let ended = Arc::new(watch::Sender::new(vec![false; waiting.len()]));
        let waiting = Arc::new(Mutex::new(waiting));
        let mut working = JoinSet::new();
        let began = Instant::now();
        for mut connection in connections {
            let (waiting, ended) = (Arc::clone(&waiting), Arc::clone(&ended));
            working.spawn(async move {
                let mut news = ended.subscribe();
                while let Some((place, chain)) = next(&waiting, &mut news).await {
                    follow(&mut connection, chain).await;
                    ended.send_modify(|ended| ended[place] = true);
                }
            });
        }
        working.join_all().await;
        began.elapsed()
    }
}

/// So many connections through a tap, over each of which something was asked already, as over Parlour's own.
pub async fn kept_alive(port: u16, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a connection");
        connection.set_nodelay(true).expect("an option");
        connection.write_all(ANYTHING).await.expect("the request goes out");
        let answer = Reader::default().next(&mut connection).await.expect("an answer").expect("an answer");
        assert_eq!(answer.words()[1], "200", "bare");
        connections.push(connection);
    }
    connections
}

/// The first chain that waits for nothing any more, and its place in the plan; none when all have begun.
async fn next(
    waiting: &Mutex<Vec<(usize, Step)>>,
    news: &mut watch::Receiver<Vec<bool>>,
) -> Option<(usize, Chain)> {
    loop {
        {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() {
                return None;
            }
            let ended = news.borrow_and_update();
            let found = waiting.iter().position(|(_, step)| step.after.iter().all(|place| ended[*place]));
            if let Some(found) = found {
                let (place, step) = waiting.remove(found);
                return Some((place, step.chain));
            }
        }
        news.changed().await.ok()?;
    }
}

async fn follow(connection: &mut TcpStream, chain: Chain) {
    let mut answers = Reader::default();
    let mut room: Option<(String, String)> = None;
    for request in chain.requests {
        let bytes = match &room {
            Some((known, made)) => replaced(&request.bytes, known, made),
            None => request.bytes,
        };
        connection.write_all(&bytes).await.expect("the request goes out");
        let answer = answers.next(connection).await.expect("an answer").expect("an answer");
        let status = answer.words()[1];
        assert!(status == "200", "bare: {status} {}", String::from_utf8_lossy(&answer.content()));
        if request.makes_room {
            let told: serde_json::Value = serde_json::from_slice(&answer.content()).expect("JSON");
            let made = told["room_id"].as_str().expect("a room");
            room = chain.room.clone().map(|known| (known, bare_id(made)));
        }
    }
}

/// A room's id without its `!` and without its server, which a path writes differently.
fn local_part(room: &str) -> &str {
    room.trim_start_matches('!').split(':').next().unwrap_or_default()
}

/// A room's id without its `!`.
fn bare_id(room: &str) -> String {
    room.trim_start_matches('!').to_owned()
}

fn request(exchange: &Exchange) -> Request {
    let makes_room = exchange.point == Some(CommitPoint::CreateRoom);
    Request { bytes: exchange.request.bytes.clone(), makes_room }
}

/// The same requests under other transaction ids of the same length, and without what tells Parlour that they are its own.
fn fresh(chain: &Chain) -> Chain {
    let requests = chain.requests.iter().map(|request| {
        let bytes = replaced(&request.bytes, "io.parlour.leg", "io.parlour.lag");
        let bytes = replaced(&bytes, "io.parlour.portal", "io.parlour.pertal");
        Request { bytes: with_another_transaction_id(&bytes), makes_room: request.makes_room }
    });
    Chain { requests: requests.collect(), room: chain.room.clone() }
}

fn with_another_transaction_id(bytes: &[u8]) -> Vec<u8> {
    let line = bytes.iter().position(|byte| *byte == b'\r').unwrap_or(0);
    let first = String::from_utf8_lossy(&bytes[..line]).into_owned();
    let mut words = first.split(' ');
    let path = words.nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
    let has_one = first.starts_with("PUT ")
        && ["/send/", "/sendToDevice/", "/redact/"].iter().any(|kind| path.contains(kind));
    let Some((_, id)) = path.rsplit_once('/').filter(|_| has_one) else { return bytes.to_vec() };
    let another = random_hex(&SystemChance, id.len());
    let mut fresh = first.replacen(&format!("/{id}"), &format!("/{another}"), 1).into_bytes();
    fresh.extend_from_slice(&bytes[line..]);
    fresh
}

/// One text for another of the same length, wherever it stands.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the length of a request stays what it is");
    let (mut bytes, from) = (bytes.to_vec(), from.as_bytes());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        at += found;
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        at += from.len();
    }
    bytes
}
