//! A small TCP proxy between Parlour and the homeserver: it writes down every request that goes through, and cuts
//! connections before or after the request has done its work, or answers in the other's place, where it is told to.
//!
//! Each request gets a connection of its own behind the proxy (`Connection: close`), so an answer ends where that
//! connection does.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes through, and so does its answer.
    Pass,
    /// It never arrives; the connection is cut.
    CutRequest,
    /// It goes through, and so does its answer; the proxy keeps what was asked.
    Keep,
    /// It arrives and does its work; the connection is cut instead of an answer.
    CutAnswer,
    /// It goes through when the proxy lets all pass, and not before.
    Hold,
    /// It never arrives; the proxy keeps it, and answers in the other's place with this status and body.
    Answer(u16, &'static str),
}

/// A request that the proxy has kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its path, with the query.
    pub path: String,
    /// Its body.
    pub body: String,
}

type Judge = Box<dyn FnMut(&str, &str) -> Fate + Send>;

struct Shared {
    judge: Mutex<Judge>,
    seen: Mutex<Vec<String>>,
    cut: watch::Sender<u64>,
    /// How many wait, of how many were let pass so far.
    held: watch::Sender<(usize, u64)>,
    kept: watch::Sender<Vec<Kept>>,
}

/// A running proxy; dropping it ends it.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The longest head of a request.
const LONGEST_HEAD: usize = 64 << 10;

impl Proxy {
    /// A proxy on a port of its own, before `target` on this machine.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(target: u16) -> io::Result<Self> {
        Self::start_at(0, target).await
    }

    /// A proxy on a port that is given, before `target` on this machine.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start_at(port: u16, target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            judge: Mutex::new(Box::new(|_, _| Fate::Pass)),
            seen: Mutex::default(),
            cut: watch::Sender::new(0),
            held: watch::Sender::default(),
            kept: watch::Sender::default(),
        });
        let for_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_task);
                // A connection that breaks is what this is for.
                tokio::spawn(async move { drop(serve(client, target, &shared).await) });
            }
        });
        Ok(Self { port, shared, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on `judge` says what becomes of a request, by its method and path.
    pub fn judge(&self, judge: impl FnMut(&str, &str) -> Fate + Send + 'static) {
        *self.shared.judge.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(judge);
    }

    /// From now on everything goes through.
    pub fn pass_all(&self) {
        self.judge(|_, _| Fate::Pass);
        self.shared.held.send_modify(|(held, passes)| (*held, *passes) = (0, *passes + 1));
    }

    /// Waits until so many requests wait to be let pass.
    pub async fn holds(&self, wanted: usize) {
        let mut held = self.shared.held.subscribe();
        let holds = tokio::time::timeout(crate::LIMIT, held.wait_for(|(held, _)| *held >= wanted)).await;
        holds.expect("so many requests come").expect("it lives as long as this");
    }

    /// How many answers were cut so far; each counts when its request has done its work.
    pub fn answers_cut(&self) -> watch::Receiver<u64> {
        self.shared.cut.subscribe()
    }

    /// The requests that came since this was asked last, as `METHOD path`.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the proxy has kept something; all that it has kept since this was asked last.
    pub async fn kept(&self) -> Vec<Kept> {
        let mut kept = self.shared.kept.subscribe();
        loop {
            let mut all = Vec::new();
            self.shared.kept.send_if_modified(|kept| {
                all = std::mem::take(kept);
                false
            });
            if !all.is_empty() {
                return all;
            }
            let news = tokio::time::timeout(crate::LIMIT, kept.changed()).await;
            news.expect("the proxy is asked something").expect("it lives as long as this");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, target: u16, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > LONGEST_HEAD || client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let (mut length, mut headers) = (0, Vec::new());
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" => continue,
            _ => {}
        }
        headers.push(line);
    }
    while bytes.len() < head + length {
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}"));
    let keep = || {
        let body = String::from_utf8_lossy(&bytes[head..]).into_owned();
        shared.kept.send_modify(|kept| kept.push(Kept { path: path.to_owned(), body }));
    };
    // Before it is judged: what is let pass meanwhile is not held.
    let mut held = shared.held.subscribe();
    let passes = held.borrow_and_update().1;
    let fate = (shared.judge.lock().unwrap_or_else(PoisonError::into_inner))(method, path);
    match fate {
        Fate::CutRequest => return Ok(()),
        Fate::Answer(status, answer) => {
            keep();
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {length}"
            );
            return client.write_all(format!("{head}\r\nConnection: close\r\n\r\n{answer}").as_bytes()).await;
        }
        Fate::Keep => keep(),
        Fate::Hold => {
            shared.held.send_modify(|(held, _)| *held += 1);
            if held.wait_for(|(_, now)| *now > passes).await.is_err() {
                return Ok(());
            }
        }
        Fate::Pass | Fate::CutAnswer => {}
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    server.set_nodelay(true)?;
    let sent = format!("{first}\r\n{}\r\nConnection: close\r\n\r\n", headers.join("\r\n"));
    server.write_all(sent.as_bytes()).await?;
    server.write_all(&bytes[head..]).await?;
    if fate == Fate::CutAnswer {
        // Its work is done when it has answered.
        let done = server.read_to_end(&mut Vec::new()).await.map(drop);
        shared.cut.send_modify(|count| *count += 1);
        return done;
    }
    tokio::io::copy(&mut server, &mut client).await.map(drop)
}
