//! As much of HTTP/1.1 as is needed to know where a message ends (RFC 9112 §6): whole messages, taken from a connection one
//! after the other.

use std::{io, time::Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A request or an answer, exactly as it came.
#[derive(Clone, Debug)]
pub struct Message {
    /// When its first byte came.
    pub began: Instant,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Where its body begins.
    pub body: usize,
    chunked: bool,
}

/// What has been read of a connection and not been taken yet.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
}

/// How a body ends.
enum End {
    Length(usize),
    Chunked,
    Close,
}

impl Reader {
    /// The next message; none when the other side closes before it begins.
    ///
    /// # Errors
    /// When the connection breaks in the middle of one.
    pub async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<Option<Message>> {
        if self.buffer.is_empty() && from.read_buf(&mut self.buffer).await? == 0 {
            return Ok(None);
        }
        let began = Instant::now();
        let mut searched = 0;
        let body = loop {
            let found = self.buffer[searched..].windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(at) = found {
                break searched + at + 4;
            }
            searched = self.buffer.len().saturating_sub(3);
            self.more(from).await?;
        };
        let end = match end_of(&self.buffer[..body]) {
            End::Length(length) => {
                self.buffer.reserve(length);
                while self.buffer.len() < body + length {
                    self.more(from).await?;
                }
                body + length
            }
            End::Chunked => self.chunks(from, body).await?,
            End::Close => {
                from.read_to_end(&mut self.buffer).await?;
                self.buffer.len()
            }
        };
        let rest = self.buffer.split_off(end);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        let chunked = matches!(end_of(&bytes[..body]), End::Chunked);
        Ok(Some(Message { began, bytes, body, chunked }))
    }

    async fn more<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<()> {
        match from.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads until the last chunk is there; where it ends.
    async fn chunks<R: AsyncRead + Unpin>(&mut self, from: &mut R, body: usize) -> io::Result<usize> {
        let mut at = body;
        loop {
            match chunk(&self.buffer[at..]) {
                Some((0, data)) if self.buffer.len() >= at + data + 2 => return Ok(at + data + 2),
                Some((size, data)) if size > 0 && self.buffer.len() >= at + data + size + 2 => {
                    at += data + size + 2;
                }
                _ => self.more(from).await?,
            }
        }
    }
}

impl Message {
    /// The first line, as three words.
    pub fn words(&self) -> [&str; 3] {
        let line = self.bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = std::str::from_utf8(line).unwrap_or_default().splitn(3, ' ');
        [(); 3].map(|()| words.next().unwrap_or_default())
    }

    /// The body as it was meant, without the marks of chunks.
    pub fn content(&self) -> Vec<u8> {
        let mut rest = &self.bytes[self.body..];
        if !self.chunked {
            return rest.to_vec();
        }
        let mut content = Vec::new();
        while let Some((size, data)) = chunk(rest).filter(|(size, _)| *size > 0) {
            content.extend_from_slice(&rest[data..data + size]);
            rest = &rest[data + size + 2..];
        }
        content
    }
}

/// The size of the chunk that begins here, and where its data do.
fn chunk(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = bytes.windows(2).position(|window| window == b"\r\n")?;
    let size = std::str::from_utf8(&bytes[..line]).ok()?.split(';').next()?;
    Some((usize::from_str_radix(size.trim(), 16).ok()?, line + 2))
}

fn end_of(head: &[u8]) -> End {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            return End::Length(value.trim().parse().unwrap_or(0));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.to_ascii_lowercase().contains("chunked") {
            return End::Chunked;
        }
    }
    // A request without a length has no body; an answer without one ends with the connection, if it has a body at all.
    match first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)) {
        None => End::Length(0),
        Some(status) if status.starts_with('1') || status == "204" || status == "304" => End::Length(0),
        Some(_) => End::Close,
    }
}
