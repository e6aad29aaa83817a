//! Who is there to read: what the homeserver tells of devices, what Parlour keeps of it, and what is sent again when nobody
//! was there.

use std::time::Duration;

use parlour::{demo::client::Client, run::Extras};
use parlour_domain::Clock;
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    LIMIT, Stage, books::Books, dehydrated::dehydrate, devices::Device, read, requests::point_of, say, token,
};
use reqwest::Method;
use ruma::UserId;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::{Instant, sleep};

use crate::production::{heard, told};

const LOOK: Duration = Duration::from_millis(20);
const AN_HOUR: i64 = 60 * 60 * 1000;
const SIX_DAYS: i64 = 6 * 24 * AN_HOUR;
/// From the coming back of a device that is known until it has what was held for it.
const KNOWN_WITHIN: Duration = Duration::from_mins(3);

/// What the homeserver tells the bot, who is an administrator.
async fn asked(stage: &Stage, path: &str) -> Value {
    let (status, answer) = stage.as_ours(&stage.bot(), Method::GET, path, None).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn devices(stage: &Stage, user: &UserId) -> Vec<Value> {
    let told = asked(stage, &format!("/_synapse/admin/v2/users/{user}/devices")).await;
    told["devices"].as_array().expect("devices").clone()
}

fn now() -> i64 {
    parlour::edge::SystemClock.now().millis()
}

/// Changes something in the homeserver's database once there is something to change: it writes every five seconds when it has
/// seen whom.
async fn in_the_homeservers_books(stage: &Stage, sql: &str) {
    let file = stage.world.place.data.join("homeserver").join("homeserver.db");
    let url = format!("sqlite://{}?mode=rw", file.display());
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut database = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
        let changed =
            sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut database).await.expect("changed");
        database.close().await.expect("closed");
        if changed.rows_affected() > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "it was seen");
        sleep(LOOK).await;
    }
}

/// As if so many milliseconds had passed since anything was seen of somebody, or sent to anybody, as far as the homeserver and
/// Parlour remember.
async fn time_passes_for(stage: &Stage, books: &Books, user: &UserId, millis: i64) {
    // They are written together, a device's row is there before.
    for table in ["user_ips", "devices"] {
        let seen = format!("UPDATE {table} SET last_seen = last_seen - {millis} WHERE user_id = '{user}'");
        in_the_homeservers_books(stage, &seen).await;
    }
    let known = format!(
        "UPDATE outbox SET landed_at = landed_at - {millis};
         UPDATE device_looks SET looked_at = looked_at - {millis} WHERE user_id = '{user}';
         UPDATE devices_seen SET seen_at = seen_at - {millis}, heard_at = heard_at - {millis} WHERE user_id = '{user}'"
    );
    assert!(books.change(&known).await > 0);
}

/// Of everybody who was there: their devices are known, and nothing is to be dealt with.
async fn all_is_known(books: &Books, people: i64) {
    let known = "SELECT COUNT(*) FROM device_looks WHERE looked_at IS NOT NULL AND news = 0";
    books.comes_to(known, people).await.expect("it comes to that");
}

async fn sign_out(client: Client) {
    let (status, answer) = client
        .http()
        .call(Method::POST, "/_matrix/client/v3/logout", Some(json!({})))
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{answer}");
    client.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_homeserver_tells_of_devices() {
    let stage = Stage::open().await;
    let begun = now();
    let (ann, ben) = (stage.person("ann").clone(), stage.person("ben").clone());
    assert_eq!(devices(&stage, &ann.user_id).await, [Value::Null; 0]);
    let phone = stage.sign_in("ann").await;
    // A device that has just signed in was seen, before anything of that stands in the database.
    let told = devices(&stage, &ann.user_id).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let seen = told[0]["last_seen_ts"].as_i64().expect("a time");
    assert!((begun..=now()).contains(&seen), "{seen}");
    assert!(told[0]["dehydrated"].is_null(), "{told:?}");

    // A dehydrated device is flagged, was never seen, and is there for everybody who asks for keys.
    let dehydrated = dehydrate(&phone, &stage.recovery_key("ann")).await;
    let told = devices(&stage, &ann.user_id).await;
    let flags: Vec<_> = told
        .iter()
        .map(|device| (device["device_id"] == dehydrated.as_str(), &device["dehydrated"]))
        .map(|(is_it, flag)| (is_it, flag == true))
        .collect();
    assert_eq!(flags.iter().filter(|flag| **flag == (true, true)).count(), 1, "{told:?}");
    assert_eq!(flags.iter().filter(|flag| **flag == (false, false)).count(), 1, "{told:?}");
    let it = told.iter().find(|device| device["device_id"] == dehydrated.as_str()).expect("the device");
    assert!(it["last_seen_ts"].is_null(), "{it}");
    let query = json!({ "device_keys": { ann.user_id.as_str(): [] } });
    let path = "/_matrix/client/v3/keys/query";
    let (_, keys) = phone.http().call(Method::POST, path, Some(query)).await.expect("keys");
    let keys = &keys["device_keys"][ann.user_id.as_str()][dehydrated.as_str()];
    assert_eq!(keys["dehydrated"], true, "{keys}");
    assert_eq!(keys["signatures"][ann.user_id.as_str()].as_object().map(|s| s.len()), Some(2), "{keys}");

    // Who was seen comes newest first, then who never was.
    let tablet = stage.sign_in("ben").await;
    let newest = "/_synapse/admin/v2/users?order_by=last_seen_ts&dir=b&guests=false&name=_&limit=250";
    let deadline = Instant::now() + LIMIT;
    let users = loop {
        // It is written down every five seconds.
        let told = asked(&stage, newest).await;
        let users = told["users"].as_array().expect("users").clone();
        if users.iter().filter(|user| user["last_seen_ts"].is_i64()).count() == 2 {
            break users;
        }
        assert!(Instant::now() < deadline, "{users:?}");
        sleep(LOOK).await;
    };
    assert_eq!([&users[0]["name"], &users[1]["name"]], [ben.user_id.as_str(), ann.user_id.as_str()]);
    assert!(users.len() > 2 && users[2..].iter().all(|user| user["last_seen_ts"].is_null()), "{users:?}");

    // A device that is signed out is gone; that it was seen stays known of its owner.
    let whois = format!("/_synapse/admin/v1/whois/{}", ann.user_id);
    sign_out(phone).await;
    assert_eq!(devices(&stage, &ann.user_id).await.len(), 1, "the dehydrated one stays");
    let told = asked(&stage, &whois).await;
    let connections = told["devices"][""]["sessions"][0]["connections"].as_array().expect("connections");
    assert_eq!(connections.len(), 1, "{told}");
    assert_eq!(connections[0]["last_seen"], seen);
    tablet.stop().await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_finds_known_who_is_there() {
    let (stage, proxies) = Stage::open_between_proxies(Extras::default()).await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "ahead", "two-way", &[], &["ann", "ben"]).await;
    all_is_known(&books, 3).await;
    let known = "SELECT COUNT(*) FROM devices_seen WHERE gone = 0 AND fresh = 0";
    assert_eq!(books.number(known).await, 2, "Ben has never signed in");
    drop(proxies.to_homeserver.seen());
    say(&murphy, &talk.hub(), "hello").await;
    let spoke = talk.spoke(stage.person("ann"));
    read(&ann, &spoke, "hello").await;
    let is_question = |request: &&String| {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        point_of(method, path) == Some(CommitPoint::ReadSeen)
    };
    let requests = proxies.to_homeserver.seen();
    assert_eq!(requests.iter().filter(is_question).collect::<Vec<_>>(), [""; 0]);
    // A device that comes is known as soon as its owner has signed it, and nothing is to be sent again for it.
    let second = stage.device("ann", "second", false).await;
    books.comes_to(known, 3).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM device_looks WHERE news > 0", 0).await.expect("it comes to that");
    say(&murphy, &talk.hub(), "hello again").await;
    read(&second, &spoke, "hello again").await;
    assert_eq!(heard(&ann, &spoke).await, ["hello", "hello again"]);
    for client in [murphy, ann, second] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_got_is_sent_again_when_a_new_device_comes() {
    let stage =
        Stage::open_with(Extras { care: Some(Duration::from_millis(300)), ..Extras::default() }).await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let (ann, ben) = (stage.sign_in("ann").await, stage.sign_in("ben").await);
    let talk = stage.begin(&murphy, "nobody", "two-way", &["kim"], &["ann", "ben"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    all_is_known(&books, 4).await;
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let user_id = ann.user_id().to_owned();
    ann.stop().await;
    // An hour later no device of hers is there, and Ben reads.
    time_passes_for(&stage, &books, &user_id, AN_HOUR).await;
    let mut own = Vec::new();
    for (client, words) in [(&murphy, "one"), (&kim, "two"), (&murphy, "three")] {
        own.push(say(client, &hub, words).await);
        read(&ben, &talk.spoke(stage.person("ben")), words).await;
    }
    let phone = stage.device("ann", "second", false).await;
    phone.wait_for_room(LIMIT, |found| found.room_id == spoke).await.expect("in the room");
    let words = ["one", "two", "three"];
    for words in words {
        read(&phone, &spoke, words).await;
    }
    let repaired = "SELECT COUNT(*) FROM ledger WHERE what = 'repair' AND code = 'dead-device'";
    assert_eq!(books.number(repaired).await, 3);
    books.comes_to("SELECT COUNT(*) FROM ledger WHERE what = 'redacted'", 3).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM repair_sessions", 0).await.expect("it comes to that");
    // What was read before stays as it is; what nobody could read is void; each stands there once, of whom it is.
    say(&murphy, &hub, "and on").await;
    read(&phone, &spoke, "and on").await;
    let mut stands = heard(&phone, &spoke).await;
    assert_eq!(stands.pop().as_deref(), Some("and on"));
    assert_eq!(stands[..4], ["before", "(redacted)", "(redacted)", "(redacted)"]);
    stands[4..].sort();
    assert_eq!(stands[4..], ["one", "three", "two"]);
    // What became of a message names the event that can be read.
    let stand = phone.messages(&spoke).await.expect("messages");
    for (own, words) in own.iter().zip(words) {
        let path = format!("/conversations/{}/messages/{own}/status", talk.id());
        let (_, told) = stage.api(Method::GET, &path, Some(&token(&murphy)), None).await;
        let readable = stand.iter().find(|message| message.is_readable() && message.body == words);
        let readable = readable.expect("it stands there").event_id.as_str();
        let people = told["people"].as_array().expect("people");
        assert!(people.iter().any(|person| person["sent_as"] == readable), "{words}: {told}");
    }
    let bens = talk.spoke(stage.person("ben"));
    assert_eq!(heard(&ben, &bens).await, ["before", "one", "two", "three", "and on"]);
    assert_eq!((told(&phone, &spoke).await, told(&murphy, &hub).await), (0, 0));
    // A device more changes nothing.
    let third = stage.device("ann", "third", false).await;
    let known = "SELECT COUNT(*) FROM devices_seen d JOIN people p ON p.user_id = d.user_id
                 WHERE p.role = 'patient' AND d.fresh = 0";
    books.comes_to(known, 4).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM device_looks WHERE news > 0", 0).await.expect("it comes to that");
    say(&murphy, &hub, "to all of hers").await;
    read(&third, &spoke, "to all of hers").await;
    assert_eq!(books.number(repaired).await, 3);
    for client in [murphy, kim, ben, phone, third] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_went_and_could_never_read_has_got_nothing() {
    let stage =
        Stage::open_with(Extras { care: Some(Duration::from_millis(300)), ..Extras::default() }).await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "came and went", "two-way", &["kim"], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    all_is_known(&books, 3).await;
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    let user_id = ann.user_id().to_owned();
    ann.stop().await;
    time_passes_for(&stage, &books, &user_id, AN_HOUR).await;
    let at_ann = "SELECT COUNT(*) FROM outbox WHERE landed_at IS NOT NULL";
    let sent = books.number(at_ann).await;
    // By somebody who has not spoken before: what she has backed up opens nothing of it.
    say(&kim, &hub, "to nobody").await;
    books.comes_to(at_ann, sent + 1).await.expect("it comes to that");
    // A client that she never confirmed is there for a moment, after that was sent.
    let http = reqwest::Client::new();
    let unsigned = Device::unsigned(&http, &stage.world.homeserver_url(), stage.person("ann"), 2).await;
    let of_hers = |what: &str| {
        format!(
            "SELECT COUNT(*) FROM devices_seen WHERE user_id = '{user_id}' AND device_id = 'MADE' AND {what}"
        )
    };
    books.comes_to(&of_hers("seen_at IS NOT NULL"), 1).await.expect("it was seen");
    unsigned.sign_out().await;
    let phone = stage.device("ann", "second", false).await;
    phone.wait_for_room(LIMIT, |found| found.room_id == spoke).await.expect("in the room");
    read(&phone, &spoke, "to nobody").await;
    assert_eq!(books.number(&of_hers("gone = 1")).await, 1);
    for client in [murphy, kim, phone] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_out_and_in_again_has_read_what_they_had() {
    let stage = Stage::open().await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "again", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    all_is_known(&books, 2).await;
    say(&murphy, &hub, "hello").await;
    read(&ann, &spoke, "hello").await;
    // As if it had been asked an hour ago when her device was seen, and the homeserver had noted that a minute ago.
    assert_eq!(books.change("UPDATE devices_seen SET seen_at = seen_at - 3600000").await, 2);
    let user_id = ann.user_id().to_owned();
    let a_minute_ago =
        format!("UPDATE user_ips SET last_seen = last_seen - 60000 WHERE user_id = '{user_id}'");
    in_the_homeservers_books(&stage, &a_minute_ago).await;
    ann.matrix().encryption().backups().wait_for_steady_state().await.expect("backed up");
    sign_out(ann).await;
    let phone = stage.device("ann", "second", false).await;
    books.comes_to("SELECT COUNT(*) FROM devices_seen WHERE gone = 1", 1).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM devices_seen WHERE fresh = 1", 0).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM device_looks WHERE news > 0", 0).await.expect("it comes to that");
    say(&murphy, &hub, "and on").await;
    read(&phone, &spoke, "and on").await;
    // Its key comes from the backup.
    read(&phone, &spoke, "hello").await;
    assert_eq!(books.number("SELECT COUNT(*) FROM ledger WHERE what = 'repair'").await, 0);
    assert_eq!(heard(&phone, &spoke).await, ["hello", "and on"]);
    for client in [murphy, phone] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_waits_for_a_device_that_is_there_and_a_known_one_comes_back() {
    let stage = Stage::open().await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let (user_id, person) = (ann.user_id().to_owned(), stage.person("ann").clone());
    let talk = stage.begin(&murphy, "back", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(&person));
    all_is_known(&books, 2).await;
    say(&murphy, &hub, "before").await;
    read(&ann, &spoke, "before").await;
    ann.stop().await;
    time_passes_for(&stage, &books, &user_id, SIX_DAYS).await;
    say(&murphy, &hub, "are you there?").await;
    let held = "SELECT COUNT(*) FROM outbox WHERE state = 'held'";
    books.comes_to(held, 1).await.expect("it comes to that");
    // The homeserver has forgotten when it noted her last: begun anew, it notes her at once.
    let stage = stage.reopen().await;
    books.comes_to(held, 1).await.expect("it comes to that");
    let ann = stage.sign_in("ann").await;
    let back = ann.wait_for(&spoke, KNOWN_WITHIN, |message| message.body == "are you there?").await;
    assert!(back.expect("it goes out").is_readable());
    // What was held is sent once, and nothing is sent again: her device had the rest.
    assert_eq!(heard(&ann, &spoke).await, ["before", "are you there?"]);
    assert_eq!(books.number("SELECT COUNT(*) FROM ledger WHERE what = 'repair'").await, 0);
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newcomer_has_got_is_not_sent_again_however_late_their_news_is_dealt_with() {
    let stage = Stage::open().await;
    let books = Books::of(&stage.world.place.data, None);
    let murphy = stage.sign_in("murphy").await;
    let talk = stage.begin(&murphy, "newcomer", "two-way", &[], &["ann"]).await;
    all_is_known(&books, 2).await;
    say(&murphy, &talk.hub(), "welcome").await;
    let ann = stage.sign_in("ann").await;
    let (spoke, user_id) = (talk.spoke(stage.person("ann")), ann.user_id().to_owned());
    read(&ann, &spoke, "welcome").await;
    all_is_known(&books, 2).await;
    // As if more had been heard of her device after the message had landed, and nothing of it were dealt with yet.
    let stage = stage
        .without_parlour(async {
            let late = format!(
                "UPDATE device_looks SET news = 1, news_at = looked_at + 60000 WHERE user_id = '{user_id}';
                 UPDATE devices_seen SET fresh = 1 WHERE user_id = '{user_id}'"
            );
            assert!(books.change(&late).await > 0);
        })
        .await;
    all_is_known(&books, 2).await;
    say(&murphy, &talk.hub(), "and on").await;
    read(&ann, &spoke, "and on").await;
    assert_eq!(books.number("SELECT COUNT(*) FROM ledger WHERE what = 'repair'").await, 0);
    assert_eq!(heard(&ann, &spoke).await, ["welcome", "and on"]);
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_waits_for_a_device_that_is_there_and_a_dehydrated_one_is() {
    let stage = Stage::open().await;
    let books = Books::of(&stage.world.place.data, None);
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let user_id = ann.user_id().to_owned();
    let talk = stage.begin(&murphy, "dehydrated", "two-way", &[], &["ann"]).await;
    all_is_known(&books, 2).await;
    time_passes_for(&stage, &books, &user_id, SIX_DAYS).await;
    say(&murphy, &talk.hub(), "are you there?").await;
    let held = "SELECT COUNT(*) FROM outbox WHERE state = 'held'";
    books.comes_to(held, 1).await.expect("it comes to that");
    dehydrate(&ann, &stage.recovery_key("ann")).await;
    books.comes_to(held, 0).await.expect("it comes to that");
    books.comes_to("SELECT COUNT(*) FROM outbox WHERE state = 'sent'", 1).await.expect("it comes to that");
    for client in [murphy, ann] {
        client.stop().await;
    }
    stage.close().await;
}
