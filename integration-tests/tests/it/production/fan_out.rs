//! One message to very many devices: what goes between Parlour and the homeserver for it, and who reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use parlour::{demo::practice::DemoPerson, run::Extras};
use parlour_engine::CommitPoint;
use parlour_integration_tests::{
    Proxies, Stage, Talk,
    crowd::{Caller, numbers},
    devices::{Equipment, equip},
    proxy::{Fate, Kept},
    requests::point_of,
    room_path, say, token,
};
use reqwest::Method;
use ruma::RoomId;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{end, figures};

const PATIENTS: usize = 100;
const DEVICES: usize = 10;
/// So many people one query or claim is about at most, and so many messages one request sends to devices.
const MOST: usize = 250;
/// How long a message to all of them may take on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// Requests by their commit points; those of the bot, which looks after devices by itself, are left out.
fn by_point(seen: &[String]) -> BTreeMap<CommitPoint, Vec<&str>> {
    let mut by_point = BTreeMap::<_, Vec<_>>::new();
    for request in seen.iter().filter(|request| !request.contains("user_id=%40_parlour_bot")) {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        if let Some(point) = point_of(method, path) {
            by_point.entry(point).or_default().push(request.as_str());
        }
    }
    by_point
}

/// Says something to all, and waits until it stands everywhere; what was asked of the homeserver meanwhile.
async fn said_to_all(
    stage: &Stage,
    proxies: &Proxies,
    words: &str,
    say: impl Future<Output = ()>,
) -> Vec<String> {
    drop(proxies.to_homeserver.seen());
    let begun = Instant::now();
    say.await;
    let mut seen = Vec::new();
    loop {
        seen.extend(proxies.to_homeserver.seen());
        let sent = by_point(&seen).get(&CommitPoint::SendEvent).map_or(0, Vec::len);
        if sent >= PATIENTS {
            break;
        }
        assert!(begun.elapsed() < LONG, "{words}: {sent} of {PATIENTS}");
        sleep(LOOK).await;
    }
    figures(stage, "every leg has landed", |f| (f.inbox, f.waiting, f.held) == (0, 0, 0)).await;
    println!("{words}: {:.1} s", begun.elapsed().as_secs_f64());
    seen.extend(proxies.to_homeserver.seen());
    seen
}

/// For whom one-time keys are claimed, or devices asked for, by each request; and to how many devices each sends.
fn sizes(kept: &[Kept]) -> BTreeMap<&'static str, Vec<usize>> {
    let mut sizes = BTreeMap::<_, Vec<usize>>::new();
    for request in kept.iter().filter(|request| !request.path.contains("user_id=%40_parlour_bot")) {
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        let of = |field: &str| body[field].as_object().expect("an object").clone();
        let (what, size) = if request.path.contains("/sendToDevice/m.room.encrypted/") {
            let messages = of("messages");
            ("sent", messages.values().map(|devices| devices.as_object().map_or(0, |all| all.len())).sum())
        } else if request.path.contains("/keys/claim") {
            ("claimed", of("one_time_keys").len())
        } else if request.path.contains("/keys/query") {
            let (ours, people): (Vec<_>, Vec<_>) =
                of("device_keys").into_iter().partition(|(user_id, _)| user_id.starts_with("@_parlour_"));
            // Once the bot has heard of a ghost's new device, that ghost asks for its own too; for no other's.
            for (ghost, _) in &ours {
                let itself = ghost.replace('@', "%40").replace(':', "%3A");
                assert!(request.path.contains(&format!("user_id={itself}")), "{ghost}: {}", request.path);
            }
            ("asked", people.len())
        } else {
            ("else", 0)
        };
        sizes.entry(what).or_default().push(size);
    }
    sizes
}

/// How many ciphertexts stand in a patient's room, which the bot is asked for.
async fn ciphertexts(stage: &Stage, room: &RoomId) -> usize {
    let path = room_path(room, "messages?dir=b&limit=50");
    let (status, page) = stage.as_ours(&stage.bot(), Method::GET, &path, None).await;
    assert_eq!(status, 200, "{page}");
    let events = page["chunk"].as_array().expect("events");
    events.iter().filter(|event| event["type"] == "m.room.encrypted").count()
}

async fn each_room_has(stage: &Stage, talk: &Talk, patients: &[DemoPerson], count: usize) {
    for patient in patients {
        assert_eq!(ciphertexts(stage, &talk.spoke(patient)).await, count, "{}", patient.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_device_fan_out() {
    let begun = Instant::now();
    let extras = Extras { more_patients: PATIENTS, ..Extras::default() };
    let (stage, proxies) = Stage::open_between_proxies(extras).await;
    let patients: Vec<_> = numbers(PATIENTS).iter().map(|name| stage.person(name).clone()).collect();
    let (http, homeserver) = (reqwest::Client::new(), stage.world.homeserver_url());
    println!("the world stands: {:.1} s", begun.elapsed().as_secs_f64());
    let equipment = Equipment { devices: DEVICES, one_time_keys: 2 };
    let mut devices = equip(&http, &homeserver, &patients, equipment).await;
    println!("they have their devices: {:.1} s", begun.elapsed().as_secs_f64());
    let murphy = stage.sign_in("murphy").await;
    let caller = Caller::new(&stage.world.public_url(), &token(&murphy));
    let ids: Vec<_> = patients.iter().map(|patient| &patient.user_id).collect();
    let wanted = json!({ "name": "flu", "mode": "two-way", "patients": ids });
    let (_, told) = caller.begin(&wanted, None).await.expect("an answer");
    let talk = Talk { told: caller.made(told["id"].as_str().expect("an id")).await };
    let hub = talk.hub();
    println!("their rooms are made: {:.1} s", begun.elapsed().as_secs_f64());

    proxies.to_homeserver.judge(|_, path| {
        let of_keys = path.contains("/keys/") || path.contains("/sendToDevice/");
        if of_keys { Fate::Keep } else { Fate::Pass }
    });
    let seen = said_to_all(&stage, &proxies, "one", async { drop(say(&murphy, &hub, "one").await) }).await;
    let asked = by_point(&seen);
    let count = |point| asked.get(&point).map_or(0, Vec::len);
    let points = [CommitPoint::QueryKeys, CommitPoint::ClaimKeys, CommitPoint::SendToDevices];
    assert_eq!(points.map(count), [1, 1, (PATIENTS * DEVICES).div_ceil(MOST)], "{asked:?}");
    // While the keys of the others are made, what can be sent is sent.
    let first_event = seen.iter().position(|request| request.contains("/send/m.room.encrypted/"));
    let last_keys = seen.iter().rposition(|request| request.contains("/sendToDevice/"));
    assert!(first_event < last_keys, "{first_event:?}, {last_keys:?}");
    assert_eq!(count(CommitPoint::SendEvent), PATIENTS, "none is repeated");
    let different: BTreeSet<_> = asked[&CommitPoint::SendEvent].iter().collect();
    assert_eq!(different.len(), PATIENTS, "none is repeated");
    let sizes = sizes(&proxies.to_homeserver.kept().await);
    assert_eq!((&sizes["asked"], &sizes["claimed"]), (&vec![PATIENTS], &vec![PATIENTS]), "people");
    assert!(sizes["sent"].iter().all(|size| *size <= MOST), "{sizes:?}");
    assert_eq!(sizes["sent"].iter().sum::<usize>(), PATIENTS * DEVICES, "{sizes:?}");
    each_room_has(&stage, &talk, &patients, 1).await;

    // Everybody has the keys by now.
    let seen = said_to_all(&stage, &proxies, "two", async { drop(say(&murphy, &hub, "two").await) }).await;
    let asked = by_point(&seen);
    let count = |point| asked.get(&point).map_or(0, Vec::len);
    assert_eq!(points.map(count), [0; 3], "{asked:?}");
    assert_eq!(count(CommitPoint::SendEvent), PATIENTS, "none is repeated");
    each_room_has(&stage, &talk, &patients, 2).await;

    // By the keys that each of these devices has been sent, and no other's.
    for patient in [0, PATIENTS / 2, PATIENTS - 1] {
        let room = talk.spoke(&patients[patient]);
        for device in [0, DEVICES / 2, DEVICES - 1] {
            let read = devices[patient][device].reads(&room).await;
            assert_eq!(read, ["one", "two"], "device {device} of {}", patients[patient].name);
        }
    }
    println!("all is read: {:.1} s", begun.elapsed().as_secs_f64());
    end([murphy], stage).await;
}
