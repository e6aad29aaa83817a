//! When people were seen, as Synapse tells an administrator. Synapse notes a device when it asks for something, and then
//! for two minutes not again.

use parlour_domain::Timestamp;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::Value;

use super::{Homeserver, HomeserverError, Intent, encoded};
use crate::commit_point::CommitPoint;

/// A device as the homeserver tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSeen {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// When it was seen last; none when it never was.
    pub seen_at: Option<Timestamp>,
    /// Whether it is the account's dehydrated device (MSC3814).
    pub dehydrated: bool,
}

/// How many accounts one request asks for.
const PAGE: usize = 250;
/// By how much fewer accounts may never have been seen than the last time, without one request more.
const FEWER: usize = 10;
const USERS: &str = "/_synapse/admin/v2/users";

impl Homeserver {
    /// The devices of a local account, those included that have no keys. An account that is not there has none.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn devices(&self, admin: &Intent, user: &UserId) -> Result<Vec<DeviceSeen>, HomeserverError> {
        let told = match self.ask(admin, &format!("{USERS}/{}/devices", encoded(user.as_str()))).await {
            Err(error) if error.is("M_NOT_FOUND") => return Ok(Vec::new()),
            told => told?,
        };
        let devices = told["devices"].as_array().ok_or(HomeserverError::Nonsense("/users/…/devices"))?;
        let device = |device: &Value| {
            let device_id =
                device["device_id"].as_str().ok_or(HomeserverError::Nonsense("/users/…/devices"))?;
            Ok(DeviceSeen {
                device_id: device_id.into(),
                seen_at: device["last_seen_ts"].as_i64().map(Timestamp::from_millis),
                // Without a dehydrated device, Synapse says of none whether it is.
                dehydrated: device["dehydrated"] == true,
            })
        };
        devices.iter().map(device).collect()
    }

    /// When a local account was seen, by any of its sessions of the last four weeks, also those that are ended: once for
    /// each access token and network address, and then the last time.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn connections(
        &self,
        admin: &Intent,
        user: &UserId,
    ) -> Result<Vec<Timestamp>, HomeserverError> {
        let told = self.ask(admin, &format!("/_synapse/admin/v1/whois/{}", encoded(user.as_str()))).await?;
        let sessions = told["devices"].as_object().into_iter().flat_map(|devices| devices.values());
        let sessions = sessions.flat_map(|device| device["sessions"].as_array().into_iter().flatten());
        let connections =
            sessions.flat_map(|session| session["connections"].as_array().into_iter().flatten());
        Ok(connections.filter_map(|c| c["last_seen"].as_i64()).map(Timestamp::from_millis).collect())
    }

    /// The accounts that were seen since, newest first. PostgreSQL puts those that never were before all others, SQLite
    /// behind them: `never` is how many stood before the others the last time, and is told anew.
    ///
    /// # Errors
    /// [`HomeserverError`].
    pub async fn seen_since(
        &self,
        admin: &Intent,
        since: Timestamp,
        never: &mut usize,
    ) -> Result<Vec<(OwnedUserId, Timestamp)>, HomeserverError> {
        let mut from = never.saturating_sub(FEWER);
        let mut page = self.seen_page(admin, from).await?;
        while from > 0 && page.first().is_none_or(|(_, seen_at)| seen_at.is_some()) {
            from = from.saturating_sub(PAGE);
            page = self.seen_page(admin, from).await?;
        }
        let (mut seen, mut first) = (Vec::new(), None);
        loop {
            let is_last = page.len() < PAGE;
            for (number, (user_id, seen_at)) in page.into_iter().enumerate() {
                match seen_at {
                    Some(seen_at) => {
                        *never = *first.get_or_insert(from + number);
                        if seen_at < since {
                            return Ok(seen);
                        }
                        seen.push((user_id, seen_at));
                    }
                    // Behind those that were seen, nobody else was.
                    None if first.is_some() => return Ok(seen),
                    None => {}
                }
            }
            if is_last {
                return Ok(seen);
            }
            from += PAGE;
            page = self.seen_page(admin, from).await?;
        }
    }

    async fn seen_page(
        &self,
        admin: &Intent,
        from: usize,
    ) -> Result<Vec<(OwnedUserId, Option<Timestamp>)>, HomeserverError> {
        // As whom we ask, in `user_id`, would be taken for whom we ask about, if there were no `name`: one of any letters.
        let query = format!("order_by=last_seen_ts&dir=b&guests=false&name=_&limit={PAGE}&from={from}");
        let told = self.ask(admin, &format!("{USERS}?{query}")).await?;
        let users = told["users"].as_array().ok_or(HomeserverError::Nonsense("/users"))?;
        let user = |user: &Value| {
            let user_id = user["name"].as_str().and_then(|name| UserId::parse(name).ok());
            let user_id = user_id.ok_or(HomeserverError::Nonsense("/users"))?;
            Ok((user_id, user["last_seen_ts"].as_i64().map(Timestamp::from_millis)))
        };
        users.iter().map(user).collect()
    }

    async fn ask(&self, admin: &Intent, path: &str) -> Result<Value, HomeserverError> {
        self.call(CommitPoint::ReadSeen, Some(admin), http::Method::GET, path, &Value::Null).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use ruma::owned_user_id;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::secret::Secret;

    /// A homeserver that has these accounts in this order, and how often it was asked.
    async fn of_accounts(seen: Vec<Option<i64>>) -> (Homeserver, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (asked, count) = (Arc::new(AtomicUsize::new(0)), seen.len());
        let accounts: Vec<_> = seen
            .iter()
            .enumerate()
            .map(|(n, at)| json!({ "name": format!("@u{n}:x"), "last_seen_ts": at }))
            .collect();
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let count = stream.read(&mut buffer).await.expect("a request");
                    head.extend_from_slice(&buffer[..count]);
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let head = String::from_utf8(head).expect("a head");
                let path = head.split(' ').nth(1).expect("a path");
                let url = url::Url::parse(&format!("http://x{path}")).expect("a URL");
                let number = |name: &str| {
                    let value = url.query_pairs().find(|(key, _)| key == name).expect("a parameter").1;
                    value.parse::<usize>().expect("a number")
                };
                let from = number("from").min(count);
                let page = &accounts[from..(from + number("limit")).min(count)];
                let body = json!({ "users": page, "total": count }).to_string();
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.expect("answered");
            }
        });
        let homeserver = Homeserver::new(&base, Secret::new("token".to_owned())).expect("a client");
        (homeserver, asked)
    }

    #[tokio::test]
    async fn who_was_seen_is_found_wherever_those_stand_who_never_were() {
        let bot = Intent::user(&owned_user_id!("@bot:x"));
        let seen = [Some(50), Some(40), Some(40), Some(30)];
        for (name, before, behind, since, known, wanted, requests, never_then) in [
            ("SQLite", 0, 700, 40, 0, 3, 1, 0),
            ("SQLite, all are seen", 0, 0, 30, 0, 4, 1, 0),
            ("SQLite, nobody since", 0, 700, 60, 0, 0, 1, 0),
            ("nobody ever", 700, 0, 0, 0, 0, 3, 0),
            ("PostgreSQL, for the first time", 600, 0, 40, 0, 3, 3, 600),
            ("PostgreSQL, as the last time", 600, 0, 40, 600, 3, 1, 600),
            ("PostgreSQL, nobody since", 600, 0, 60, 600, 0, 1, 600),
            ("PostgreSQL, some more never were", 620, 0, 40, 600, 3, 1, 620),
            ("PostgreSQL, some fewer never were", 595, 0, 40, 600, 3, 1, 595),
            ("PostgreSQL, many fewer never were", 300, 0, 40, 600, 3, 3, 300),
        ] {
            let never = |count| std::iter::repeat_n(None, count);
            let all = never(before).chain(if name == "nobody ever" { vec![] } else { seen.to_vec() });
            let (homeserver, asked) = of_accounts(all.chain(never(behind)).collect()).await;
            let mut place = known;
            let since = Timestamp::from_millis(since);
            let found = homeserver.seen_since(&bot, since, &mut place).await.expect("an answer");
            assert_eq!((found.len(), place), (wanted, never_then), "{name}");
            assert!(found.iter().all(|(_, at)| *at >= since), "{name}");
            assert_eq!(asked.load(Ordering::Relaxed), requests, "{name}");
        }
    }
}
