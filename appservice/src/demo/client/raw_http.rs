//! Raw HTTP with one person's access token: for what a curious client might try and the SDK would not.

use std::fmt;

use reqwest::{Method, Url};
use serde_json::Value;

use super::ClientError;

/// Calls the homeserver (or the gateway before it) as one person.
#[derive(Clone)]
pub struct RawHttp {
    http: reqwest::Client,
    base: Url,
    token: String,
}

impl RawHttp {
    pub(super) fn new(base: Url, token: String) -> Self {
        Self { http: reqwest::Client::new(), base, token }
    }

    /// Calls `path` (from the root, with its query; already percent-encoded) and returns status and body.
    /// A body that is not JSON comes as a JSON string, none as `null`.
    ///
    /// # Errors
    /// [`ClientError::Http`] without an answer, [`ClientError::BadPath`] when the path leads elsewhere. Any
    /// status is a success here.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), ClientError> {
        let bad = || ClientError::BadPath(path.to_owned());
        let url = self.base.join(path).map_err(|_| bad())?;
        if url.origin() != self.base.origin() {
            return Err(bad()); // The token must not travel to another host.
        }
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = match serde_json::from_str(&text) {
            Ok(json) => json,
            Err(_) if text.is_empty() => Value::Null,
            Err(_) => Value::String(text),
        };
        Ok((status, body))
    }
}

impl fmt::Debug for RawHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawHttp").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}
