//! A tap on the way between Parlour and the homeserver: whole messages pass through over kept-alive connections, and each is
//! written down with its times. Turned into a sink, it answers in the other's place, at once, and hands over later.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use parlour_engine::CommitPoint;
use parlour_integration_tests::requests::point_of;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::http1::{Message, Reader};

/// A request that went through, and its answer.
#[derive(Clone)]
pub struct Exchange {
    /// The request as it came.
    pub request: Message,
    /// What it is for, as far as the way of Parlour to the homeserver goes.
    pub point: Option<CommitPoint>,
    /// When the last byte of its answer went out.
    pub ended: Option<Instant>,
    /// The status of its answer; 0 before.
    pub status: u16,
    /// The answer's body, if it is short.
    pub answer: Vec<u8>,
}

/// An answer that is longer is not kept.
const LONGEST_ANSWER: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);
const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[derive(Default)]
struct Log {
    next: u64,
    exchanges: BTreeMap<u64, Exchange>,
    last: Option<Instant>,
}

struct Shared {
    target: u16,
    log: Mutex<Log>,
    /// How many events were sent with success since the log was taken.
    sent: watch::Sender<usize>,
    /// What was answered in the other's place; none while everything passes through.
    sink: Mutex<Option<Vec<Message>>>,
}

/// A running tap; dropping it ends it.
pub struct Tap {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Exchange {
    /// Its path, with the query.
    pub fn path(&self) -> &str {
        self.request.words()[1]
    }

    /// Whether it is the bot's look into its inbox, or for what it has missed: it goes on all the time.
    pub fn is_the_bots_poll(&self) -> bool {
        self.point == Some(CommitPoint::ReadInbox) && self.path().contains("_parlour_bot")
    }
}

impl Tap {
    /// A tap before a port of this machine.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn before(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target,
            log: Mutex::default(),
            sent: watch::Sender::new(0),
            sink: Mutex::default(),
        });
        let for_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_task);
                // A connection that breaks is its two ends' matter.
                tokio::spawn(async move { drop(serve(client, &shared).await) });
            }
        });
        Ok(Self { port, shared, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What went through since this was asked last, in the order of its beginning.
    pub fn take(&self) -> Vec<Exchange> {
        let mut log = lock(&self.shared.log);
        self.shared.sent.send_replace(0);
        std::mem::take(&mut log.exchanges).into_values().collect()
    }

    /// Waits until so many events were sent with success since the log was taken; whether they were in time.
    pub async fn have_been_sent(&self, count: usize, limit: Duration) -> bool {
        let mut sent = self.shared.sent.subscribe();
        tokio::time::timeout(limit, sent.wait_for(|sent| *sent >= count)).await.is_ok()
    }

    /// How long nothing has begun or ended; none while something is on its way. The bot's poll does not count.
    pub fn still_for(&self) -> Option<Duration> {
        let log = lock(&self.shared.log);
        let busy = log.exchanges.values().any(|seen| seen.ended.is_none() && !seen.is_the_bots_poll());
        if busy { None } else { Some(log.last.map_or(Duration::MAX, |last| last.elapsed())) }
    }

    /// Whether the bot's poll is on its way.
    pub fn bot_polls(&self) -> bool {
        lock(&self.shared.log).exchanges.values().any(|seen| seen.ended.is_none() && seen.is_the_bots_poll())
    }

    /// From now on everything is answered here, with 200 and `{}`.
    pub fn close_off(&self) {
        lock(&self.shared.sink).get_or_insert_default();
    }

    /// Hands over what was answered here, in order, and then lets everything pass again.
    ///
    /// # Errors
    /// When the target does not take it.
    pub async fn hand_over(&self) -> io::Result<()> {
        let mut target = TcpStream::connect((Ipv4Addr::LOCALHOST, self.shared.target)).await?;
        let mut answers = Reader::default();
        loop {
            let kept = {
                let mut sink = lock(&self.shared.sink);
                match sink.as_mut().map(std::mem::take) {
                    None => return Ok(()),
                    Some(kept) if kept.is_empty() => {
                        *sink = None;
                        return Ok(());
                    }
                    Some(kept) => kept,
                }
            };
            for message in kept {
                // Where it says that it has to catch up first, it is asked again.
                let deadline = Instant::now() + PATIENCE;
                loop {
                    target.write_all(&message.bytes).await?;
                    let answer = answers.next(&mut target).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    match answer.words()[1] {
                        "200" => break,
                        status if Instant::now() > deadline => {
                            return Err(io::Error::other(status.to_owned()));
                        }
                        _ => tokio::time::sleep(AGAIN).await,
                    }
                }
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn begins(&self, request: &Message) -> u64 {
        let [method, path, _] = request.words();
        let exchange = Exchange {
            point: point_of(method, path),
            request: request.clone(),
            ended: None,
            status: 0,
            answer: Vec::new(),
        };
        let polls = exchange.is_the_bots_poll();
        let mut log = lock(&self.log);
        if !polls {
            log.last = Some(Instant::now());
        }
        log.next += 1;
        let number = log.next;
        log.exchanges.insert(number, exchange);
        number
    }

    fn breaks(&self, number: u64) {
        let mut log = lock(&self.log);
        let now = Instant::now();
        log.last = Some(now);
        if let Some(exchange) = log.exchanges.get_mut(&number) {
            exchange.ended = Some(now);
        }
    }

    fn ends(&self, number: u64, answer: &Message) {
        let status = answer.words()[1].parse().unwrap_or(0);
        let mut log = lock(&self.log);
        let now = Instant::now();
        let Some(exchange) = log.exchanges.get_mut(&number) else {
            log.last = Some(now);
            return;
        };
        exchange.ended = Some(now);
        exchange.status = status;
        if answer.bytes.len() <= LONGEST_ANSWER {
            exchange.answer = answer.content();
        }
        let (polls, sent) = (exchange.is_the_bots_poll(), exchange.point == Some(CommitPoint::SendEvent));
        if !polls {
            log.last = Some(now);
        }
        if sent && status == 200 {
            self.sent.send_modify(|count| *count += 1);
        }
    }
}

/// One connection, request after request.
async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut requests, mut answers) = (Reader::default(), Reader::default());
    let mut target: Option<TcpStream> = None;
    loop {
        let request = tokio::select! {
            request = requests.next(&mut client) => request?,
            () = closes(target.as_ref()) => return Ok(()),
        };
        let Some(request) = request else { return Ok(()) };
        let number = shared.begins(&request);
        let sunk = lock(&shared.sink).as_mut().map(|kept| kept.push(request.clone())).is_some();
        if sunk {
            client.write_all(DONE).await?;
            if let Some(answer) = Reader::default().next(&mut &*DONE).await? {
                shared.ends(number, &answer);
            }
            continue;
        }
        match pass(&request, &mut target, &mut answers, shared.target).await {
            Ok(Some(answer)) => {
                client.write_all(&answer.bytes).await?;
                shared.ends(number, &answer);
            }
            broken => {
                shared.breaks(number);
                return broken.map(drop);
            }
        }
    }
}

/// Hands a request on over a connection that is kept; its answer, unless the other side closes.
async fn pass(
    request: &Message,
    target: &mut Option<TcpStream>,
    answers: &mut Reader,
    port: u16,
) -> io::Result<Option<Message>> {
    let server = match target {
        Some(server) => server,
        none => {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            server.set_nodelay(true)?;
            none.insert(server)
        }
    };
    server.write_all(&request.bytes).await?;
    answers.next(server).await
}

/// Ends when the target closes a connection on which nothing is asked.
async fn closes(target: Option<&TcpStream>) {
    match target {
        Some(target) => drop(target.peek(&mut [0]).await),
        None => std::future::pending().await,
    }
}

/// A poisoned lock holds what was last written whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
