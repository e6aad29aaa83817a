//! Conversations with many patients: how a client begins one, and how it hears how far that has come.

use std::{collections::VecDeque, time::Duration};

use reqwest::{Method, Response};
use ruma::{EventId, UserId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::LIMIT;

/// How often it is looked how far something has come.
const LOOK: Duration = Duration::from_millis(50);
/// How long the making of a conversation with a crowd may take, for each of its rooms.
const A_ROOM: Duration = Duration::from_secs(3);

/// The words by which so many patients are meant that a world has beyond its own.
pub fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("number{number}")).collect()
}

/// A client of the practice API, which is at this address; with a person's token.
#[derive(Clone)]
pub struct Caller {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Caller {
    /// At `public_url`, with this token.
    pub fn new(public_url: &str, token: &str) -> Self {
        Self {
            url: format!("{public_url}/_parlour/v1/conversations"),
            token: token.to_owned(),
            http: reqwest::Client::new(),
        }
    }

    /// Begins a conversation, with a key of the client's or without: status and body. None when nobody answers.
    pub async fn begin(&self, wanted: &Value, key: Option<&str>) -> Option<(u16, Value)> {
        let mut request = self.http.post(&self.url).bearer_auth(&self.token).json(wanted);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// Asks for a mode: status and body. None when nobody answers.
    pub async fn switch(&self, id: &str, mode: &str) -> Option<(u16, Value)> {
        let request = self.http.patch(format!("{}/{id}", self.url)).bearer_auth(&self.token);
        let answer = request.json(&json!({ "mode": mode })).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// The same until it holds in all rooms, which must stand.
    pub async fn switched(&self, id: &str, mode: &str) -> Option<(u16, Value)> {
        loop {
            let answer = self.switch(id, mode).await?;
            if answer.0 != 202 {
                return Some(answer);
            }
        }
    }

    /// Asks that somebody takes part: status and body. None when nobody answers.
    pub async fn include(&self, id: &str, user_id: &UserId) -> Option<(u16, Value)> {
        self.participant(Method::PUT, id, user_id).await
    }

    /// Asks that somebody does not take part any more: status and body. None when nobody answers.
    pub async fn exclude(&self, id: &str, user_id: &UserId) -> Option<(u16, Value)> {
        self.participant(Method::DELETE, id, user_id).await
    }

    /// Deletes a message, with a reason: the status. None when nobody answers.
    pub async fn delete(&self, id: &str, event: &EventId) -> Option<u16> {
        let url = format!("{}/{id}/messages/{event}", self.url);
        let request = self.http.delete(url).bearer_auth(&self.token).json(&json!({ "reason": "a mistake" }));
        Some(request.send().await.ok()?.status().as_u16())
    }

    async fn participant(&self, method: Method, id: &str, user_id: &UserId) -> Option<(u16, Value)> {
        let url = format!("{}/{id}/participants/{user_id}", self.url);
        let answer = self.http.request(method, url).bearer_auth(&self.token).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// A conversation as it stands.
    pub async fn one(&self, id: &str) -> Value {
        let asked = self.http.get(format!("{}/{id}", self.url)).bearer_auth(&self.token).send().await;
        asked.expect("an answer").json().await.expect("JSON")
    }

    /// A conversation once it is made.
    pub async fn made(&self, id: &str) -> Value {
        let begun = Instant::now();
        loop {
            let told = self.one(id).await;
            if told["ready"] == true {
                return told;
            }
            let rooms =
                u32::try_from(told["progress"]["of"].as_u64().expect("a number")).expect("not so many");
            assert!(begun.elapsed() < LIMIT + A_ROOM * rooms, "{}", told["progress"]);
            sleep(LOOK).await;
        }
    }

    /// Waits until all rooms are as they are to be: who is in them, who may write; the conversation then.
    pub async fn settled(&self, id: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let told = self.one(id).await;
            if told["switching"] == 0 {
                return told;
            }
            assert!(Instant::now() < deadline, "{}", told["switching"]);
            sleep(LOOK).await;
        }
    }

    /// Listens to how far a conversation has come; the status when that is refused, with the body.
    pub async fn listen(&self, id: &str) -> Result<Events, (u16, Value)> {
        let url = format!("{}/{id}/events", self.url);
        let asked = self.http.get(url).bearer_auth(&self.token).header("Accept", "text/event-stream");
        let answer = asked.send().await.expect("an answer");
        if answer.status() != 200 {
            return Err((answer.status().as_u16(), answer.json().await.expect("JSON")));
        }
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Ok(Events { answer, text: String::new(), come: VecDeque::new() })
    }
}

/// A stream of events.
pub struct Events {
    answer: Response,
    text: String,
    come: VecDeque<Value>,
}

impl Events {
    /// The next event, with its kind as `event`; none when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(event) = self.come.pop_front() {
                return Some(event);
            }
            let piece = timeout_at(deadline, self.answer.chunk()).await.expect("something within the limit");
            let piece = piece.ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&piece).expect("text"));
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                self.come.extend(parsed(event));
                self.text = rest.to_owned();
            }
        }
    }
}

/// An event as it is written in a stream; none is a comment.
fn parsed(text: &str) -> Option<Value> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let mut event: Value = serde_json::from_str(field("data:")?).expect("JSON");
    event["event"] = json!(field("event:"));
    Some(event)
}
