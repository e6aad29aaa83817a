//! Large conversations: made side by side with everything else, gone on with after `kill -9`, begun once however often they
//! are asked for, and told of as they come along.

use std::time::Duration;

use parlour::{demo::client::Client, run::Extras};
use parlour_integration_tests::{
    Stage, Talk,
    books::Books,
    crowd::{Caller, Events, numbers},
    read, runs_alone, say, token,
    trial::Trial,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::time::Instant;

use crate::crash::PROGRAM;

const KILLED_AT: [&str; 10] = [
    "before hs.create-room 3",
    "after hs.create-room 4",
    "after db.portal-attempted 4",
    "before db.portal-made 4",
    "after db.portal-made 5",
    "before hs.join 6",
    "after hs.join 7",
    "before db.portal-ready 4",
    "after db.portal-ready 4",
    "before db.conversation-ready 1",
];
/// How long a message may take while a large conversation is made.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_fifty_rooms_are_made_goes_on_where_it_stopped() {
    const SPOKES: usize = 50;
    let mut trial = Trial::open(PROGRAM, None, SPOKES, None).await;
    let books = Books::of(&trial.data, None);
    let murphy = trial.sign_in("murphy", "first").await;
    let caller = Caller::new(&trial.public_url(), &token(&murphy));
    let patients: Vec<_> = numbers(SPOKES).iter().map(|name| trial.person(name).user_id.clone()).collect();
    let wanted = json!({ "name": "flu", "mode": "two-way", "patients": patients });

    // It is written down, and whoever asked has not heard so: asked again with the same key, it is the same one.
    trial.order("end after db.conversation-kept 1").await;
    assert!(caller.begin(&wanted, Some("flu-1")).await.is_none(), "nobody answers");
    let mut stood = 0;
    for place in KILLED_AT {
        assert!(
            trial.parlour_ends(3 * parlour_integration_tests::LIMIT).await,
            "{place}: {}",
            trial.last_words()
        );
        let stands = books.number("SELECT COUNT(*) FROM portals WHERE ready = 1").await;
        println!("{:?}: {stands} stand", trial.ended_at());
        assert!(stands >= stood, "{place}: {stood} rooms stood, now {stands}");
        stood = stands;
        trial.spawn_parlour_ordered(&format!("end {place}")).await;
    }
    assert!(trial.parlour_ends(3 * parlour_integration_tests::LIMIT).await, "{}", trial.last_words());
    assert_eq!(trial.ended_at().as_deref(), Some("before db.conversation-ready"));
    trial.start_parlour().await;

    let (status, told) = caller.begin(&wanted, Some("flu-1")).await.expect("an answer");
    assert!(status == 201 || status == 202, "{status}");
    let told = caller.made(told["id"].as_str().expect("an id")).await;
    assert_eq!(told["progress"], json!({ "made": SPOKES + 1, "of": SPOKES + 1 }));
    for (what, sql, count) in [
        ("conversations", "SELECT COUNT(*) FROM conversations", 1),
        ("rooms", "SELECT COUNT(DISTINCT room_id) FROM portals", SPOKES + 1),
    ] {
        assert_eq!(books.number(sql).await, i64::try_from(count).expect("a number"), "{what}");
    }
    nothing_is_twice(&trial, SPOKES).await;
    let talk = Talk { told };
    let (first, last) = (trial.sign_in("number1", "first").await, trial.sign_in("number50", "first").await);
    say(&murphy, &talk.hub(), "hello, all").await;
    for (client, name) in [(&first, "number1"), (&last, "number50")] {
        read(client, &talk.spoke(trial.person(name)), "hello, all").await;
    }
    for client in [murphy, first, last] {
        client.stop().await;
    }
    trial.close().await;
}

/// By the homeserver's own database: a room a patient with the bot and the owner's ghost in it, and one of staff.
async fn nothing_is_twice(trial: &Trial, spokes: usize) {
    let url = format!("sqlite://{}?mode=ro", trial.homeserver_database().display());
    let mut connection = sqlx::AnyConnection::connect(&url).await.expect("the homeserver's database");
    let rooms: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT members, COUNT(*) FROM (
             SELECT COUNT(*) AS members FROM local_current_membership WHERE membership = 'join' GROUP BY room_id
         ) GROUP BY members ORDER BY members",
    )
    .fetch_all(&mut connection)
    .await
    .expect("rooms");
    connection.close().await.expect("closed");
    assert_eq!(rooms, [(2, 1), (3, i64::try_from(spokes).expect("a number"))], "members, rooms");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_while_sixty_rooms_are_made_does_not_wait() {
    const SPOKES: usize = 60;
    let stage = Stage::open_with(Extras { more_patients: SPOKES, ..Extras::default() }).await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&kim, "Ann Byrne, smear", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    // Each has spoken before, so that nobody's ghost is made meanwhile.
    both_ways(&kim, &ann, [&hub, &spoke], "before").await;
    let alone = both_ways(&kim, &ann, [&hub, &spoke], "alone").await;

    let caller = Caller::new(&stage.world.public_url(), &token(&murphy));
    let patients: Vec<_> = numbers(SPOKES).iter().map(|name| stage.person(name).user_id.clone()).collect();
    let wanted = json!({ "name": "flu", "mode": "two-way", "patients": patients });
    let asked = Instant::now();
    let (status, told) = caller.begin(&wanted, None).await.expect("an answer");
    assert_eq!((status, &told["ready"], &told["progress"]["of"]), (202, &json!(false), &json!(SPOKES + 1)));
    assert!(asked.elapsed() < SOON, "answered at once: {:?}", asked.elapsed());
    let id = told["id"].as_str().expect("an id").to_owned();
    let mut events = caller.listen(&id).await.expect("a stream");
    let listens = tokio::spawn(async move {
        let mut heard = Vec::new();
        while let Some(event) = events.next().await {
            let ready = event["ready"] == true;
            if event["event"] == "mode" {
                assert_eq!(event["switching"], 0, "rooms are made as they are to be");
                continue;
            }
            if event["event"] == "people" {
                assert_eq!(event["patients"].as_array().map(Vec::len), Some(SPOKES));
                continue;
            }
            heard.push(event);
            if ready {
                break;
            }
        }
        (heard, events)
    });

    let small = async {
        let small = stage.begin(&kim, "Ben Carey, sling", "two-way", &[], &["ben"]).await;
        // On a slow machine that takes longer than an answer waits for it.
        Caller::new(&stage.world.public_url(), &token(&kim)).made(small.id()).await
    };
    let (small, slowest) = tokio::join!(small, async {
        let mut slowest = Duration::ZERO;
        for number in 1..=5 {
            slowest =
                slowest.max(both_ways(&kim, &ann, [&hub, &spoke], &format!("meanwhile {number}")).await);
        }
        slowest
    });
    let now = caller.one(&id).await;
    println!("slowest {slowest:?}, alone {alone:?}, while {}", now["progress"]);
    assert_eq!(now["ready"], false, "it is still being made: {}", now["progress"]);
    assert_eq!(small["ready"], true, "a small one does not wait for a large one");
    // Beside other tests everything takes longer, also what is said when no rooms are made.
    let most = if runs_alone() { SOON } else { SOON.max(alone * 8) };
    assert!(slowest < most, "{slowest:?}, alone {alone:?}");

    let (heard, mut events) = listens.await.expect("heard");
    println!("{} events in {:?}", heard.len(), asked.elapsed());
    let made: Vec<_> = heard.iter().map(|event| event["made"].as_u64().expect("a number")).collect();
    assert!(made.is_sorted() && made.len() > 10, "{made:?}");
    assert_eq!(
        heard.last(),
        Some(&json!({ "event": "progress", "made": SPOKES + 1, "of": SPOKES + 1, "ready": true }))
    );
    it_is_told_who_waits(&murphy, &caller, &id, &mut events).await;
    for client in [murphy, kim, ann] {
        client.stop().await;
    }
    let stops = Instant::now();
    stage.close().await;
    assert!(events.next().await.is_none(), "it ends with Parlour");
    println!("stopped in {:?}", stops.elapsed());
}

/// Nobody of a crowd has signed in: what is said waits for them, and the stream says so.
async fn it_is_told_who_waits(owner: &Client, caller: &Caller, id: &str, events: &mut Events) {
    let told = Talk { told: caller.made(id).await };
    let of = told.rooms().len() - 1;
    let event_id = say(owner, &told.hub(), "hello, all").await;
    loop {
        let event = events.next().await.expect("an event");
        assert_eq!((&event["event"], &event["event_id"]), (&json!("sending"), &json!(event_id)));
        assert_eq!(event["of"], of);
        let counts = ["sent", "held", "waiting", "failed"].map(|key| event[key].as_u64().expect("a number"));
        assert_eq!(counts.iter().sum::<u64>(), u64::try_from(of).expect("a number"), "{event}");
        if event["held"] == of {
            break;
        }
    }
    let seen_by_one = caller.one(id).await;
    assert_eq!(
        (&seen_by_one["sending"][0]["held"], &seen_by_one["sending"][0]["of"]),
        (&json!(of), &json!(of))
    );
}

/// Staff write and the patient answers; how long the slower way took.
async fn both_ways(
    staff: &Client,
    patient: &Client,
    [hub, spoke]: [&ruma::RoomId; 2],
    words: &str,
) -> Duration {
    let mut slowest = Duration::ZERO;
    for (from, here, to, there, who) in
        [(staff, hub, patient, spoke, "staff"), (patient, spoke, staff, hub, "patient")]
    {
        let words = format!("{words}, {who}");
        let begun = Instant::now();
        say(from, here, &words).await;
        read(to, there, &words).await;
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_again_begins_no_other_conversation() {
    let stage = Stage::open().await;
    let (murphy, kim) = (stage.sign_in("murphy").await, stage.sign_in("kim").await);
    let [murphys, kims] =
        [&murphy, &kim].map(|client| Caller::new(&stage.world.public_url(), &token(client)));
    let wanted =
        |name: &str| json!({ "name": name, "mode": "two-way", "patients": [stage.person("ann").user_id] });
    let begin = async |caller: &Caller, name: &str, key: Option<&str>| {
        caller.begin(&wanted(name), key).await.expect("an answer")
    };
    let long = "k".repeat(256);
    let (status, first) = begin(&murphys, "one", Some("key-1")).await;
    assert!(status == 201 || status == 202, "{first}");
    // Two at once, too.
    let (again, quoted) =
        tokio::join!(begin(&murphys, "one", Some("key-1")), begin(&murphys, "one", Some("\"key-1\"")));
    for (name, (status, told)) in [("again", again), ("in quotation marks", quoted)] {
        assert!(status == 201 || status == 202, "{name}: {told}");
        assert_eq!(told["id"], first["id"], "{name}");
    }
    for (name, caller, conversation, key, status, errcode) in [
        ("something else", &murphys, "two", "key-1", 422, "IO.PARLOUR.KEY_REUSED"),
        ("an empty key", &murphys, "one", "\"\"", 400, "M_INVALID_PARAM"),
        ("a key with spaces", &murphys, "one", "a b", 400, "M_INVALID_PARAM"),
        ("a long key", &murphys, "one", &*long, 400, "M_INVALID_PARAM"),
    ] {
        let (found, told) = begin(caller, conversation, Some(key)).await;
        assert_eq!((found, &told["errcode"]), (status, &json!(errcode)), "{name}: {told}");
    }
    for (name, caller, key) in [("another's key", &kims, Some("key-1")), ("no key", &murphys, None)] {
        let (status, told) = begin(caller, "one", key).await;
        assert!(status == 201 || status == 202, "{name}: {told}");
        assert_ne!(told["id"], first["id"], "{name}");
    }
    let (_, all) = stage.api(Method::GET, "/conversations", Some(&token(&murphy)), None).await;
    assert_eq!(all["conversations"].as_array().map(Vec::len), Some(2), "{all}");
    for client in [murphy, kim] {
        client.stop().await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_staff_who_take_part_hear_how_far_it_has_come() {
    let stage = Stage::open().await;
    let (murphy, kim, ann) =
        (stage.sign_in("murphy").await, stage.sign_in("kim").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "Ann Byrne, smear", "two-way", &[], &["ann"]).await;
    let path = format!("/conversations/{}/events", talk.id());
    let [murphys, kims, anns] = [&murphy, &kim, &ann].map(token);
    let in_the_url = format!("{path}?access_token={murphys}");
    for (name, path, token, status, errcode) in [
        ("no token", &*path, None, 401, "M_MISSING_TOKEN"),
        ("a token in the address", &*in_the_url, None, 401, "M_MISSING_TOKEN"),
        ("a stranger", &*path, Some("nobody"), 401, "M_UNKNOWN_TOKEN"),
        ("a patient who takes part", &*path, Some(&*anns), 404, "M_NOT_FOUND"),
        ("staff outside", &*path, Some(&*kims), 404, "M_NOT_FOUND"),
        (
            "no such conversation",
            "/conversations/00000000000000000000000000000000/events",
            Some(&*murphys),
            404,
            "M_NOT_FOUND",
        ),
    ] {
        let (found, answer) = stage.api(Method::GET, path, token, None).await;
        assert_eq!((found, &answer["errcode"]), (status, &json!(errcode)), "{name}: {answer}");
    }
    let caller = Caller::new(&stage.world.public_url(), &murphys);
    let mut open = Vec::new();
    let refused = loop {
        match caller.listen(talk.id()).await {
            Ok(mut events) => {
                let first = events.next().await.expect("how it stands");
                assert_eq!(first, json!({ "event": "progress", "made": 2, "of": 2, "ready": true }));
                let second = events.next().await.expect("its mode");
                assert_eq!(second, json!({ "event": "mode", "mode": "two-way", "switching": 0 }));
                let third = events.next().await.expect("who takes part");
                assert_eq!(third["event"], "people");
                open.push(events);
            }
            Err(refused) => break refused,
        }
    };
    assert_eq!((open.len(), refused.0, &refused.1["errcode"]), (8, 429, &json!("M_LIMIT_EXCEEDED")));
    // Who signs out hears no more.
    let mut last = open.pop().expect("a stream");
    let (status, told) = ended_by_signing_out(&murphy).await;
    assert_eq!(status, 200, "{told}");
    assert!(last.next().await.is_none(), "it ends");
    for client in [murphy, kim, ann] {
        client.stop().await;
    }
    stage.close().await;
}

async fn ended_by_signing_out(client: &Client) -> (u16, Value) {
    client.http().call(Method::POST, "/_matrix/client/v3/logout", Some(json!({}))).await.expect("an answer")
}
