//! A clamd that is none: it checks what is sent to it, and answers as told.

use std::sync::Arc;

use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

/// What the fake does.
#[derive(Clone, Debug)]
enum Clamd {
    /// Reads everything, then says this and hangs up.
    Says(Vec<u8>),
    /// The same, one byte at a time.
    Stutters(Vec<u8>),
    /// Says this after the first length, reads nothing more, and stays.
    Interrupts(Vec<u8>),
    /// The same, but it reads on to the end.
    InterruptsAndReads(Vec<u8>),
    /// Hangs up without a word.
    HangsUp,
    /// Reads everything and stays without a word.
    Broods,
    /// Reads nothing and stays without a word.
    Sleeps,
}

impl Clamd {
    /// Serves one connection and gives the file that it read, if it read one.
    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<Vec<u8>> {
        let mut command = [0; 10];
        match self {
            Self::HangsUp => return None,
            Self::Sleeps => std::future::pending().await,
            _ => stream.read_exact(&mut command).await.unwrap(),
        };
        assert_eq!(&command, b"zINSTREAM\0");
        if let Self::Interrupts(answer) | Self::InterruptsAndReads(answer) = &self {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            stream.write_all(answer).await.unwrap();
            if matches!(self, Self::Interrupts(_)) {
                std::future::pending::<()>().await;
            }
            // What comes may end at any time, for the other side has its answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return None;
        }
        let mut file = Vec::new();
        loop {
            let length = stream.read_u32().await.unwrap() as usize;
            assert!(length <= 64 * 1024, "a chunk of {length} bytes");
            if length == 0 {
                break;
            }
            let start = file.len();
            file.resize(start + length, 0);
            stream.read_exact(&mut file[start..]).await.unwrap();
        }
        match self {
            Self::Says(answer) => stream.write_all(&answer).await.unwrap(),
            Self::Stutters(answer) => {
                for byte in answer {
                    stream.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            _ => std::future::pending().await,
        }
        Some(file)
    }
}

/// One fake that waits for one connection.
struct Fake {
    address: ScannerAddress,
    read: JoinHandle<Option<Vec<u8>>>,
    _folder: Option<tempfile::TempDir>,
}

async fn on_tcp(clamd: Clamd) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
    let read = tokio::spawn(async move { clamd.serve(listener.accept().await.unwrap().0).await });
    Fake { address, read, _folder: None }
}

async fn on_unix(clamd: Clamd) -> Fake {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clamd.ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display()).parse().unwrap();
    let read = tokio::spawn(async move { clamd.serve(listener.accept().await.unwrap().0).await });
    Fake { address, read, _folder: Some(folder) }
}

/// The reason alone, for an I/O error cannot be compared.
fn reason(unscanned: &Unscanned) -> &'static str {
    match unscanned {
        Unscanned::Unreachable(_) => "unreachable",
        Unscanned::Broken(_) | Unscanned::HungUp => "hung up",
        Unscanned::TimedOut => "timed out",
        Unscanned::TooLarge => "too large",
        Unscanned::Failed => "failed",
        Unscanned::TooEarly => "too early",
        Unscanned::Nonsense => "nonsense",
    }
}

/// A file of this many bytes, no two chunks of which are alike.
fn file(length: usize) -> Arc<[u8]> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn infected(name: &str) -> Result<Verdict, &'static str> {
    Ok(Verdict::Infected { name: name.to_owned() })
}

#[tokio::test]
async fn only_a_whole_answer_to_a_whole_file_counts() {
    use Clamd::{Broods, HangsUp, Interrupts, InterruptsAndReads, Says, Sleeps, Stutters};
    let clean = Ok(Verdict::Clean);
    let says = |answer: &[u8]| Says(answer.to_vec());
    let long_name = [b"stream: ", &[b'x'; 999][..], b" FOUND\0"].concat();
    let too_large = b"INSTREAM size limit exceeded. ERROR\0".to_vec();
    let large = 5_000_000;
    let table = vec![
        ("clean", says(b"stream: OK\0"), 1000, LONG, clean.clone()),
        ("clean, nothing in it", says(b"stream: OK\0"), 0, LONG, clean.clone()),
        ("clean, one chunk", says(b"stream: OK\0"), 65_536, LONG, clean.clone()),
        ("clean, one chunk and a byte", says(b"stream: OK\0"), 65_537, LONG, clean.clone()),
        ("clean, large", says(b"stream: OK\0"), large, LONG, clean.clone()),
        ("clean, byte by byte", Stutters(b"stream: OK\0".to_vec()), 10, LONG, clean),
        ("found", says(b"stream: Eicar-Test-Signature FOUND\0"), 68, LONG, infected("Eicar-Test-Signature")),
        ("found, large", says(b"stream: Win.Test FOUND\0"), large, LONG, infected("Win.Test")),
        ("found, a long name", Says(long_name), 10, LONG, infected(&"x".repeat(100))),
        ("found, an odd name", says(b"stream: a\x1B[2J\xFF\n b FOUND\0"), 10, LONG, infected("a[2Jb")),
        ("found, an invisible name", says(b"stream: \n FOUND\0"), 10, LONG, infected("")),
        ("found early", Interrupts(b"stream: A FOUND\0".to_vec()), large, LONG, infected("A")),
        ("no name", says(b"stream:  FOUND\0"), 10, LONG, Err("nonsense")),
        ("too large", Says(too_large.clone()), 10, LONG, Err("too large")),
        ("too large, said early", Interrupts(too_large.clone()), large, LONG, Err("too large")),
        ("too large, said early, read on", InterruptsAndReads(too_large), large, LONG, Err("too large")),
        ("clean, said early", Interrupts(b"stream: OK\0".to_vec()), large, LONG, Err("too early")),
        ("failed", says(b"Can't allocate memory ERROR\0"), 10, LONG, Err("failed")),
        ("failed at the stream", says(b"stream: Can't open file ERROR\0"), 10, LONG, Err("failed")),
        ("another command's answer", says(b"PONG\0"), 10, LONG, Err("nonsense")),
        ("unknown command", says(b"UNKNOWN COMMAND\0"), 10, LONG, Err("nonsense")),
        ("another protocol", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 10, LONG, Err("hung up")),
        ("ok in small letters", says(b"stream: ok\0"), 10, LONG, Err("nonsense")),
        ("ok and more", says(b"stream: OK then\0"), 10, LONG, Err("nonsense")),
        ("ok with a line's end", says(b"stream: OK\n\0"), 10, LONG, Err("nonsense")),
        ("ok alone", says(b"OK\0"), 10, LONG, Err("nonsense")),
        ("a file's path", says(b"/var/x: OK\0"), 10, LONG, Err("nonsense")),
        ("two answers", says(b"stream: OK\0stream: A FOUND\0"), 10, LONG, Err("nonsense")),
        ("an empty answer", says(b"\0"), 10, LONG, Err("nonsense")),
        ("no answer", says(b""), 10, LONG, Err("hung up")),
        ("half an answer", says(b"stream: OK"), 10, LONG, Err("hung up")),
        ("an endless answer", Says(vec![b'x'; 100_000]), 10, LONG, Err("nonsense")),
        ("hangs up", HangsUp, large, LONG, Err("hung up")),
        ("hangs up on a small file", HangsUp, 10, LONG, Err("hung up")),
        ("never answers", Broods, 10, SHORT, Err("timed out")),
        ("never reads", Sleeps, large, SHORT, Err("timed out")),
        ("no time at all", Sleeps, large, Duration::ZERO, Err("timed out")),
    ];
    for (name, clamd, length, limit, expected) in table {
        for (socket, fake) in [("tcp", on_tcp(clamd.clone()).await), ("unix", on_unix(clamd.clone()).await)] {
            let bytes = file(length);
            let verdict = scan(&fake.address, &bytes, limit).await;
            let verdict = verdict.map_err(|unscanned| reason(&unscanned));
            assert_eq!(verdict, expected, "{name}, {socket}");
            if matches!(clamd, Says(_) | Stutters(_)) {
                // Who sends nonsense without end is not listened to until it is done.
                if name == "an endless answer" {
                    continue;
                }
                assert_eq!(
                    fake.read.await.unwrap().as_deref(),
                    Some(&bytes[..]),
                    "{name}, {socket}: as sent"
                );
            } else {
                fake.read.abort();
            }
        }
    }
}

#[tokio::test]
async fn nobody_there_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("tcp://{}", listener.local_addr().unwrap());
    drop(listener);
    let table = [
        ("a closed port", closed),
        ("no socket", format!("unix:{}/none", folder.path().display())),
        ("a folder", format!("unix:{}", folder.path().display())),
    ];
    for (name, address) in table {
        let unscanned = scan(&address.parse().unwrap(), b"x", LONG).await.unwrap_err();
        assert_eq!(reason(&unscanned), "unreachable", "{name}");
    }
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let one = |index: usize| async move {
        let answer = if index.is_multiple_of(2) {
            "stream: OK\0".to_owned()
        } else {
            format!("stream: V{index} FOUND\0")
        };
        let fake = on_unix(Clamd::Says(answer.into_bytes())).await;
        let bytes = file(index * 9999);
        let verdict = scan(&fake.address, &bytes, LONG).await.unwrap();
        assert_eq!(fake.read.await.unwrap().as_deref(), Some(&bytes[..]));
        assert_eq!(verdict == Verdict::Clean, index.is_multiple_of(2), "{index}: {verdict:?}");
    };
    let all: Vec<_> = (0..20).map(|index| tokio::spawn(one(index))).collect();
    for each in all {
        each.await.unwrap();
    }
}

#[test]
fn addresses_are_read_and_written() {
    let tcp = |host: &str, port| Ok(ScannerAddress::Tcp { host: host.to_owned(), port });
    use InvalidScannerAddress::{HostAndPort, Path, Scheme};
    let table = [
        ("tcp://127.0.0.1:3310", tcp("127.0.0.1", 3310)),
        ("tcp://clamd.internal:1", tcp("clamd.internal", 1)),
        ("tcp://clam_av:65535", tcp("clam_av", 65_535)),
        ("tcp://[::1]:3310", tcp("::1", 3310)),
        ("unix:/run/clamav/clamd.ctl", Ok(ScannerAddress::Unix("/run/clamav/clamd.ctl".into()))),
        ("", Err(Scheme)),
        ("127.0.0.1:3310", Err(Scheme)),
        ("http://clamd:3310", Err(Scheme)),
        ("tcp://clamd", Err(HostAndPort)),
        ("tcp://clamd:", Err(HostAndPort)),
        ("tcp://clamd:0", Err(HostAndPort)),
        ("tcp://clamd:+1", Err(HostAndPort)),
        ("tcp://clamd:65536", Err(HostAndPort)),
        ("tcp://clamd:3310/", Err(HostAndPort)),
        ("tcp://:3310", Err(HostAndPort)),
        ("tcp://user@clamd:3310", Err(HostAndPort)),
        ("tcp://::1:3310", Err(HostAndPort)),
        ("tcp://[::1:3310", Err(HostAndPort)),
        ("tcp://[clamd]:3310", Err(HostAndPort)),
        ("unix:", Err(Path)),
        ("unix:/", Err(Path)),
        ("unix:run/clamd.ctl", Err(Path)),
        ("unix:/run/a\0b", Err(Path)),
    ];
    for (text, expected) in table {
        let read = text.parse::<ScannerAddress>();
        assert_eq!(read, expected, "{text}");
        if let Ok(address) = read {
            assert_eq!(address.to_string(), text);
        }
    }
}
