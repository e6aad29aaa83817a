//! clamd's word on a file, over TCP or a unix socket.
//!
//! It fails closed: only a whole, expected answer to a whole file counts. What clamd writes is never handed on, except a
//! virus's name, for an answer may hold parts of a file or paths of the scanner's machine.
//!
//! Source: `clamd(8)`, INSTREAM, and the answer's end in the `z` form. Note for whoever runs clamd: it answers OK for
//! what it did not look at whole, unless `AlertExceedsMax yes` stands in `clamd.conf`.

#[cfg(test)]
mod tests;

use std::{fmt, io, path::PathBuf, pin::pin, str::FromStr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// How long a connection may take to come about.
const CONNECTS: Duration = Duration::from_secs(3);
/// The most bytes of one chunk: 64 KiB.
const CHUNK: usize = 64 * 1024;
/// The most bytes of an answer.
const ANSWER: usize = 4 * 1024;
/// The most characters of a virus's name.
const NAME: usize = 100;

/// Where clamd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScannerAddress {
    /// `tcp://HOST:PORT`, not encrypted: only for this machine or a net that nobody else reads.
    Tcp {
        /// A name or an IP address, an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/PATH`, a socket on this machine.
    Unix(PathBuf),
}

/// Why a text names no scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScannerAddress {
    /// It begins with neither of the two schemes.
    #[error("the scanner's address must begin with `tcp://` or `unix:/`")]
    Scheme,
    /// Host or port is missing or malformed.
    #[error(
        "the scanner's address must be `tcp://HOST:PORT`, as in tcp://127.0.0.1:3310 or tcp://[::1]:3310"
    )]
    HostAndPort,
    /// The path is not absolute.
    #[error("the scanner's socket must be a whole path, as in unix:/run/clamav/clamd.ctl")]
    Path,
}

impl FromStr for ScannerAddress {
    type Err = InvalidScannerAddress;

    fn from_str(text: &str) -> Result<Self, InvalidScannerAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let whole = path.starts_with('/') && path.len() > 1 && !path.contains('\0');
            return whole.then(|| Self::Unix(path.into())).ok_or(InvalidScannerAddress::Path);
        }
        let wrong = InvalidScannerAddress::HostAndPort;
        let (host, port) = text
            .strip_prefix("tcp://")
            .ok_or(InvalidScannerAddress::Scheme)?
            .rsplit_once(':')
            .ok_or(wrong)?;
        // The number alone, for `parse` would also take a plus sign.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0).ok_or(wrong)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(address)) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) =>
            {
                host
            }
            _ => return Err(wrong),
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for ScannerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// What clamd says of a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It found nothing.
    Clean,
    /// It found something.
    Infected {
        /// What it calls it: at most 100 visible ASCII characters, perhaps none.
        name: String,
    },
}

/// Why there is no verdict. Such a file must not be handed on. A file that is [`Unscanned::TooLarge`] will not be scanned
/// another time either; all others are worth another try later.
#[derive(Debug, thiserror::Error)]
pub enum Unscanned {
    /// Nothing listens there.
    #[error("the scanner cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// The connection broke before there was an answer.
    #[error("the connection to the scanner broke: {0}")]
    Broken(#[source] io::Error),
    /// The scanner hung up before its answer was whole.
    #[error("the scanner hung up before it had answered")]
    HungUp,
    /// The time was up.
    #[error("the scanner did not answer in time")]
    TimedOut,
    /// The file is larger than `StreamMaxLength` in `clamd.conf`.
    #[error("the file is larger than the scanner takes; see StreamMaxLength in clamd.conf")]
    TooLarge,
    /// The scanner says that it failed.
    #[error("the scanner failed; its own log says why")]
    Failed,
    /// It found nothing in a file that it had not seen whole.
    #[error("the scanner answered before it had the whole file")]
    TooEarly,
    /// The answer is none of clamd's.
    #[error("the scanner's answer makes no sense; is it clamd?")]
    Nonsense,
}

impl Unscanned {
    /// Whether the same file may have a verdict later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::TooLarge)
    }
}

/// Has clamd look at a file. `limit` is for everything: to connect, to send, to wait for the answer.
///
/// # Errors
///
/// [`Unscanned`], whenever there is no whole answer to the whole file.
pub async fn scan(address: &ScannerAddress, bytes: &[u8], limit: Duration) -> Result<Verdict, Unscanned> {
    let talk = async {
        match address {
            ScannerAddress::Tcp { host, port } => {
                let connecting = TcpStream::connect((host.as_str(), *port));
                let stream = timeout(CONNECTS, connecting).await.map_err(|_| Unscanned::TimedOut)?;
                let stream = stream.map_err(Unscanned::Unreachable)?;
                // A length is four bytes; they must not wait for the other side's receipt of what went before.
                stream.set_nodelay(true).map_err(Unscanned::Broken)?;
                exchange(stream, bytes).await
            }
            ScannerAddress::Unix(path) => {
                exchange(UnixStream::connect(path).await.map_err(Unscanned::Unreachable)?, bytes).await
            }
        }
    };
    timeout(limit, talk).await.unwrap_or(Err(Unscanned::TimedOut))
}

/// Sends and listens at once, for clamd answers a file that is too large before it has read it, and then hangs up.
async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Result<Verdict, Unscanned> {
    let (reader, writer) = tokio::io::split(stream);
    let mut answer = pin!(receive(reader));
    // Sending comes first, for a file that is sent at the same moment as the answer comes is a whole one.
    let (sent, answer) = tokio::select! {
        biased;
        sent = send(writer, bytes) => (sent.is_ok(), answer.await),
        answer = &mut answer => (false, answer),
    };
    match verdict(&answer?)? {
        Verdict::Clean if !sent => Err(Unscanned::TooEarly),
        verdict => Ok(verdict),
    }
}

async fn send(writer: impl AsyncWrite, bytes: &[u8]) -> io::Result<()> {
    let mut writer = pin!(writer);
    writer.write_all(b"zINSTREAM\0").await?;
    for chunk in bytes.chunks(CHUNK) {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        writer.write_all(&length.to_be_bytes()).await?;
        writer.write_all(chunk).await?;
    }
    writer.write_all(&[0; 4]).await
}

/// The answer without the NUL that ends it.
async fn receive(reader: impl AsyncRead) -> Result<Vec<u8>, Unscanned> {
    let mut reader = pin!(reader.take(ANSWER as u64));
    let mut answer = Vec::new();
    loop {
        if reader.read_buf(&mut answer).await.map_err(Unscanned::Broken)? == 0 {
            // Nothing is left of what was allowed, or of what was sent.
            return Err(if answer.len() >= ANSWER { Unscanned::Nonsense } else { Unscanned::HungUp });
        }
        match answer.iter().position(|byte| *byte == 0) {
            Some(end) if end + 1 == answer.len() => {
                answer.truncate(end);
                return Ok(answer);
            }
            Some(_) => return Err(Unscanned::Nonsense),
            None => {}
        }
    }
}

fn verdict(answer: &[u8]) -> Result<Verdict, Unscanned> {
    if let Some(found) = answer.strip_prefix(b"stream: ") {
        if found == b"OK" {
            return Ok(Verdict::Clean);
        }
        if let Some(name) = found.strip_suffix(b" FOUND").filter(|name| !name.is_empty()) {
            let visible = name.iter().filter(|byte| byte.is_ascii_graphic());
            return Ok(Verdict::Infected {
                name: visible.take(NAME).map(|byte| char::from(*byte)).collect(),
            });
        }
    }
    Err(match answer {
        b"INSTREAM size limit exceeded. ERROR" => Unscanned::TooLarge,
        answer if answer.ends_with(b"ERROR") => Unscanned::Failed,
        _ => Unscanned::Nonsense,
    })
}
