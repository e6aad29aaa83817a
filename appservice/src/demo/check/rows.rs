//! The rows: each a promise of the brief, the fault that breaks it, and the attempt.

mod files;
mod modes;
mod reading;
mod saying;
mod taking_part;

use futures_util::{FutureExt as _, future::BoxFuture};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::client::{Client, Message, Reading, Shield},
    Outcome, Row,
    scene::{Evidence, LIMIT, Scene, Trouble, read, room_path, say},
};

/// All rows, to be tried one after the other.
pub(super) fn all(scene: &Scene) -> Vec<BoxFuture<'_, Row>> {
    vec![
        row("C5", "the top level of the source tree", "no-house", house(scene)),
        row("C1", "encrypted rooms, and no client shows a warning", "bot-encrypts", no_shield(scene)),
        row("C1", "what is not passed on, its sender is told", "silent-refusals", told(scene)),
        row("S1", "read later, once and in order", "send-twice", later(scene)),
        row("S1", "who signs in later reads what was written before", "held-for-ever", newcomer(scene)),
        row("S1", "a browser that forgot its keys reads all of it again", "repairs-all", forgetful(scene)),
        row(
            "S3",
            "included and excluded, and what each of them reads",
            "excluded-stay",
            taking_part::comes_and_goes(scene),
        ),
        row("S6", "staff only, patients only, or both", "owner-only", who(scene)),
        row("S7", "the conversation has its name", "hub-unnamed", named(scene)),
        row("S8", "one-way: the patient's own PUT is refused", "one-way-open", modes::one_way(scene)),
        row(
            "S11",
            "a file passes with words about it, and no other",
            "files-wordless",
            files::with_words(scene),
        ),
        row("S12", "sent and read, for each person, by name", "reading-unseen", reading::read_by(scene)),
        row("S14", "two-way reply", "answers-lost", modes::two_way(scene)),
        row(
            "S16",
            "switched to one-way and back, for every client",
            "switch-forgotten",
            modes::switched(scene),
        ),
        row("S17", "an edit stays with its message, and its writer", "edits-by-all", saying::edited(scene)),
        row("S17", "a reaction stays with its message", "reactions-lost", saying::reacted(scene)),
        row("S18", "deleted everywhere, kept in the record", "deletions-stay", saying::deleted(scene)),
        row("S17", "a reply to one patient reaches no other", "lanes-ignored", lane(scene)),
        row("S17", "a patient learns nothing of another", "hub-name-in-spoke", private(scene)),
    ]
}

fn row<'a>(
    requirement: &'static str,
    promise: &'static str,
    fault: &'static str,
    attempt: impl Future<Output = Evidence> + Send + 'a,
) -> BoxFuture<'a, Row> {
    async move {
        let outcome = match attempt.await {
            Ok(evidence) => Outcome::Pass(evidence),
            Err(Trouble::Broken(seen)) => Outcome::Fail(seen),
            Err(Trouble::Skipped(why)) => Outcome::Skipped(why),
        };
        Row { requirement, promise, fault, outcome }
    }
    .boxed()
}

async fn house(scene: &Scene) -> Evidence {
    const TOP: [&str; 8] = [
        "Cargo.toml",
        "bridge",
        "appservice",
        "registration.yaml",
        "migrations",
        "docs",
        "integration-tests",
        "README.md",
    ];
    if !scene.house.exists() {
        return Err(Trouble::Skipped(
            "this binary is not beside the source tree that it was built from".into(),
        ));
    }
    let missing: Vec<_> = TOP.iter().filter(|name| !scene.house.join(name).exists()).collect();
    match missing[..] {
        [] => Ok(format!("{} are there", TOP.join(", "))),
        _ => Err(format!("{missing:?} are missing").into()),
    }
}

/// What a client shows beside a message, if it is a warning or more than one that nobody has verified.
fn warning(message: &Message) -> Option<String> {
    match &message.reading {
        Reading::Readable { lax: Shield::None, level, .. } if level == "Unverified(UnverifiedIdentity)" => {
            None
        }
        reading => Some(format!("{} is read as {reading:?}", message.event_id)),
    }
}

/// Staff and patient, a text each way, and a word of the bot: no shield. The patient's client decrypts nothing but
/// what comes from cross-signed devices, and the homeserver sees ciphertext.
async fn no_shield(scene: &Scene) -> Evidence {
    let (murphy, cara) = (&scene.murphy, &scene.cara);
    let wanted =
        json!({ "name": "C1 shields", "mode": "two-way", "staff": [], "patients": [cara.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(cara)?;
    say(murphy, &talk.hub, "C1 your result is here").await?;
    let down = read(cara, &spoke, "C1 your result is here").await?;
    say(cara, &spoke, "C1 thank you").await?;
    let up = read(murphy, &talk.hub, "C1 thank you").await?;
    // Too long to be passed on.
    let odd = cara.send_text(&spoke, &"C1 ".repeat(13_400)).await?;
    let word = cara.wait_for(&spoke, LIMIT, |message| message.in_reply_to.as_ref() == Some(&odd)).await?;
    if let Some(warning) = warning(&down).or(warning(&up)).or(warning(&word)) {
        return Err(warning.into());
    }
    let mut seen = 0;
    for (client, room) in [(murphy, &talk.hub), (cara, &spoke)] {
        let (_, page) =
            client.http().call(Method::GET, &room_path(room, "messages?dir=b&limit=100"), None).await?;
        let events = page["chunk"].as_array().map_or(&[][..], Vec::as_slice);
        for event in events.iter().filter(|event| event["state_key"].is_null()) {
            seen += 1;
            if event["type"] != "m.room.encrypted" {
                return Err(format!("{} is a {} in the clear", event["event_id"], event["type"]).into());
            }
        }
    }
    if seen < 6 {
        return Err(format!("only {seen} messages were found on the homeserver").into());
    }
    Ok(format!(
        "staff's {} for a client that excludes insecure devices, the patient's {}, the bot's {}: shield none, level \
         UnverifiedIdentity; {seen} of {seen} events on the homeserver are m.room.encrypted",
        down.event_id, up.event_id, word.event_id
    ))
}

/// Kinds that are not passed on: their sender reads why, the other side reads nothing.
async fn told(scene: &Scene) -> Evidence {
    let (murphy, ann) = (&scene.murphy, &scene.ann);
    let wanted =
        json!({ "name": "C1 refusals", "mode": "two-way", "staff": [], "patients": [ann.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(ann)?;
    say(murphy, &talk.hub, "C1 where are you?").await?;
    read(ann, &spoke, "C1 where are you?").await?;
    let location = json!({ "msgtype": "m.location", "body": "C1 where I am", "geo_uri": "geo:53.3,-6.2" });
    let location = ann.send_raw(&spoke, "m.room.message", location).await?;
    let sticker = json!({ "body": "C1 where I am", "info": {}, "url": "mxc://demo.parlour.local/x" });
    let sticker = ann.send_raw(&spoke, "m.sticker", sticker).await?;
    let mut words = Vec::new();
    for refused in [&location, &sticker] {
        let notice = ann
            .wait_for(&spoke, LIMIT, |message| {
                message.msgtype == "m.notice" && message.in_reply_to.as_ref() == Some(refused)
            })
            .await?;
        if !notice.body.contains("(KIND-1)") {
            return Err(format!("the sender was told {:?}", notice.body).into());
        }
        words.push(notice.body);
    }
    say(ann, &spoke, "C1 after it").await?;
    read(murphy, &talk.hub, "C1 after it").await?;
    let seen = murphy.messages(&talk.hub).await?;
    if seen.iter().any(|message| message.body.contains("where I am")) {
        return Err("the refused message was passed on".to_owned().into());
    }
    Ok(format!(
        "{location} and {sticker} were answered {:?}, and only what came after them arrived",
        words[0]
    ))
}

/// A patient who is away reads everything on return: each message once, in order, with its time.
async fn later(scene: &Scene) -> Evidence {
    let (murphy, ann) = (&scene.murphy, &scene.ann);
    let wanted = json!({ "name": "S1 later", "mode": "two-way", "staff": [], "patients": [ann.user_id()] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.spoke(ann)?;
    ann.wait_for_room(LIMIT, |room| room.room_id == spoke).await?;
    ann.pause().await;
    let words = ["S1 first", "S1 second", "S1 third"];
    let mut times = Vec::new();
    for words in words {
        say(murphy, &talk.hub, words).await?;
        times.push(read(murphy, &talk.hub, words).await?.sent_at);
    }
    ann.resume().await;
    // A last word, after which nothing of before can come.
    say(murphy, &talk.hub, "S1 last").await?;
    read(ann, &spoke, "S1 last").await?;
    let seen = ann.messages(&spoke).await?;
    let read: Vec<_> = seen.iter().filter(|m| words.contains(&&*m.body)).collect();
    let bodies: Vec<_> = read.iter().map(|message| &*message.body).collect();
    if bodies != words {
        return Err(format!("on return {bodies:?} was read").into());
    }
    if read.iter().map(|message| message.sent_at).ne(times) {
        return Err("a message does not bear the time at which it was written".to_owned().into());
    }
    let ids: Vec<_> = read.iter().map(|message| message.event_id.as_str()).collect();
    Ok(format!(
        "written while the patient was away, read on return once, in order, with their times: {}",
        ids.join(" ")
    ))
}

/// A patient who has no device yet reads everything after signing in for the first time: in order, with its time.
async fn newcomer(scene: &Scene) -> Evidence {
    let (murphy, ben) = (&scene.murphy, &scene.ben);
    let dan = scene.known("Dan")?;
    let both = [ben.user_id(), &dan.user_id];
    let talk = scene
        .begin(json!({ "name": "S1 newcomer", "mode": "two-way", "staff": [], "patients": both }))
        .await?;
    let spoke = talk.room_of(&dan.user_id)?;
    let words = ["S1 one", "S1 two", "S1 three"];
    let mut times = Vec::new();
    for words in words {
        say(murphy, &talk.hub, words).await?;
        times.push(read(murphy, &talk.hub, words).await?.sent_at);
        // Whoever has a device does not wait for who has none.
        read(ben, &talk.spoke(ben)?, words).await?;
    }
    let dan = scene.sign_in("Dan", "phone").await?;
    let signed_in = Instant::now();
    let seen = async {
        read(&dan, &spoke, "S1 three").await?;
        let took = signed_in.elapsed();
        Ok::<_, Trouble>((dan.messages(&spoke).await?, took))
    };
    let seen = seen.await;
    dan.stop().await;
    let (mut seen, took) = seen?;
    // That each is there once is another row's matter.
    seen.dedup_by(|later, earlier| later.body == earlier.body);
    let bodies: Vec<_> = seen.iter().map(|message| &*message.body).collect();
    if bodies != words {
        return Err(format!("after signing in {bodies:?} was read").into());
    }
    if seen.iter().map(|message| message.sent_at).ne(times) {
        return Err("a message does not bear the time at which it was written".to_owned().into());
    }
    Ok(format!(
        "three messages written before the patient's first sign-in, all read {:.1} s after it, in order, with their times",
        took.as_secs_f64()
    ))
}

/// A patient's browser forgets everything. Signed in again, with what opens their secret storage, it reads what it had
/// read, no message anew and each with its time, and what is written then.
async fn forgetful(scene: &Scene) -> Evidence {
    let murphy = &scene.murphy;
    let eve = scene.known("Eve")?.user_id.clone();
    let wanted = json!({ "name": "S1 forgetful", "mode": "two-way", "staff": [], "patients": [&eve] });
    let talk = scene.begin(wanted).await?;
    let spoke = talk.room_of(&eve)?;
    let browser = scene.sign_in("Eve", "browser").await?;
    let words = ["S1 keep this", "S1 and this"];
    let mut times = Vec::new();
    for words in words {
        say(murphy, &talk.hub, words).await?;
        times.push(read(&browser, &spoke, words).await?.sent_at);
    }
    let backups = browser.matrix().encryption().backups();
    let backed_up = tokio::time::timeout(LIMIT, backups.wait_for_steady_state()).await;
    browser.stop().await;
    if !matches!(backed_up, Ok(Ok(()))) {
        return Err("the browser did not back its keys up".to_owned().into());
    }
    scene.forget("Eve", "browser")?;
    let browser = scene.sign_in("Eve", "browser").await?;
    let talk_again = ["S1 welcome back", "S1 how are you", "S1 see you soon"];
    let seen = async {
        for words in words {
            read(&browser, &spoke, words).await?;
        }
        // Whatever follows from the new device has followed when they have talked for a while.
        for words in talk_again {
            say(murphy, &talk.hub, words).await?;
            read(&browser, &spoke, words).await?;
            let answer = format!("{words}, thank you");
            browser.send_text(&spoke, &answer).await?;
            read(murphy, &talk.hub, &answer).await?;
        }
        Ok::<_, Trouble>(browser.messages(&spoke).await?)
    };
    let seen = seen.await;
    browser.stop().await;
    let mut seen = seen?;
    seen.dedup_by(|later, earlier| later.body == earlier.body);
    seen.retain(|message| !message.body.ends_with("thank you"));
    let bodies: Vec<_> = seen.iter().map(|message| &*message.body).collect();
    if bodies != [&words[..], &talk_again[..]].concat() {
        return Err(format!("after signing in again {bodies:?} was read").into());
    }
    if seen.iter().take(times.len()).map(|message| message.sent_at).ne(times) {
        return Err("a message does not bear the time at which it was written".to_owned().into());
    }
    Ok(format!(
        "the browser's storage was deleted; signed in again, it reads {} and {} from the key backup, with their \
         times, and {}",
        seen[0].event_id, seen[1].event_id, seen[2].event_id
    ))
}

/// The three kinds of conversation: whoever was named reads the owner's first words.
async fn who(scene: &Scene) -> Evidence {
    let (murphy, kim, ann, ben) = (&scene.murphy, &scene.kim, &scene.ann, &scene.ben);
    let mut read_by = 0;
    for (kind, staff, patients) in [
        ("staff only", vec![kim], vec![]),
        ("patients only", vec![], vec![ann, ben]),
        ("both", vec![kim], vec![ann, ben]),
    ] {
        let ids =
            |people: &[&Client]| people.iter().map(|person| person.user_id().to_owned()).collect::<Vec<_>>();
        let name = format!("S6 {kind}");
        let talk = scene
            .begin(
                json!({ "name": name, "mode": "two-way", "staff": ids(&staff), "patients": ids(&patients) }),
            )
            .await?;
        let words = format!("S6 hello, {kind}");
        // Staff are in the hub before the first word, so that they can read it.
        for person in &staff {
            person.wait_for_room(LIMIT, |room| room.room_id == talk.hub).await?;
        }
        say(murphy, &talk.hub, &words).await?;
        for person in staff {
            read(person, &talk.hub, &words).await?;
            read_by += 1;
        }
        for patient in patients {
            read(patient, &talk.spoke(patient)?, &words).await?;
            read_by += 1;
        }
    }
    let refused = json!({ "name": "S6", "mode": "two-way", "staff": [], "patients": [] });
    let (status, body) = scene.api(ann, Method::POST, "/conversations", Some(&refused)).await?;
    if status != 403 || body["errcode"] != "IO.PARLOUR.STAFF_ONLY" {
        return Err(format!("a patient's own POST was answered {status} {}", body["errcode"]).into());
    }
    Ok(format!("three conversations, {read_by} of 6 people read the first words; a patient's POST: 403"))
}

async fn named(scene: &Scene) -> Evidence {
    let (murphy, ann) = (&scene.murphy, &scene.ann);
    let name = "S7 Ann Byrne, blood results";
    let wanted = json!({ "name": name, "mode": "two-way", "staff": [], "patients": [ann.user_id()] });
    let talk = scene.begin(wanted).await?;
    let room = murphy.wait_for_room(LIMIT, |room| room.room_id == talk.hub).await?;
    if room.name.as_deref() != Some(name) {
        return Err(format!("the staff's room is called {:?}", room.name).into());
    }
    let (_, listed) = scene.api(murphy, Method::GET, "/conversations", None).await?;
    let in_list = |entry: &Value| entry["name"] == name && entry["id"] == talk.id.as_str();
    if !listed["conversations"].as_array().is_some_and(|all| all.iter().any(in_list)) {
        return Err("the practice API does not list it by its name".to_owned().into());
    }
    // Nobody but the practice's own bot names a room, and a patient's client is not told what staff call theirs.
    let spoke = talk.spoke(ann)?;
    for (client, room_id) in [(ann, &spoke), (murphy, &talk.hub)] {
        let path = room_path(room_id, "state/m.room.name");
        let body = json!({ "name": "S7 renamed" });
        let (status, answer) = client.http().call(Method::PUT, &path, Some(body)).await?;
        if (status, &answer["errcode"]) != (403, &json!("M_FORBIDDEN")) {
            return Err(format!("{} names a room: {status} {answer}", client.user_id()).into());
        }
    }
    let path = room_path(&talk.hub, "state/m.room.name");
    let (hidden, answer) = ann.http().call(Method::GET, &path, None).await?;
    if hidden != 403 {
        return Err(format!("the patient asks for its name and is told {hidden} {answer}").into());
    }
    Ok(format!(
        "room {} and the practice API call it {name:?}; 403 for whoever else names a room, and for a patient who asks",
        room.room_id
    ))
}

/// Staff reply to one patient of two: the other gets what came before and after, and not that.
async fn lane(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let both = [ann.user_id(), ben.user_id()];
    let talk =
        scene.begin(json!({ "name": "S17 lanes", "mode": "two-way", "staff": [], "patients": both })).await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    say(ann, &anns, "S17 about me").await?;
    let asked = read(murphy, &talk.hub, "S17 about me").await?;
    let reply = murphy.reply(&talk.hub, &asked.event_id, "S17 for you alone").await?;
    // A reply to what itself went to one patient only stays with that patient.
    murphy.reply(&talk.hub, &reply, "S17 and this as well").await?;
    // A client of the older kind puts before its reply what is answered.
    let quoting = json!({
        "msgtype": "m.text", "body": format!("> <{}> S17 about me\n\nS17 quoted, alone", ann.user_id()),
        "m.relates_to": { "m.in_reply_to": { "event_id": asked.event_id } },
    });
    murphy.send_raw(&talk.hub, "m.room.message", quoting).await?;
    say(murphy, &talk.hub, "S17 for everybody").await?;
    for words in ["S17 for you alone", "S17 and this as well", "S17 quoted, alone", "S17 for everybody"] {
        read(ann, &anns, words).await?;
    }
    let all = read(ben, &bens, "S17 for everybody").await?;
    let seen = ben.messages(&bens).await?;
    if let Some(leak) = seen.iter().find(|m| m.body.contains("alone") || m.body.contains("as well")) {
        return Err(format!("the other patient reads {:?}", leak.body).into());
    }
    let unread = seen.iter().filter(|message| !message.is_readable()).count();
    if unread > 0 {
        return Err(format!("the other patient holds {unread} messages that they cannot read").into());
    }
    Ok(format!(
        "the one replied to reads all four, without the quote before one, the other only {}",
        all.event_id
    ))
}

/// All that a patient's client can get of a conversation, searched for everything of the other patient.
async fn private(scene: &Scene) -> Evidence {
    let (murphy, ann, ben) = (&scene.murphy, &scene.ann, &scene.ben);
    let both = [ann.user_id(), ben.user_id()];
    let name = "S17 Byrne and Carey, coeliac";
    let talk = scene.begin(json!({ "name": name, "mode": "two-way", "staff": [], "patients": both })).await?;
    let (anns, bens) = (talk.spoke(ann)?, talk.spoke(ben)?);
    say(ben, &bens, "S17 quokka").await?;
    let secret = read(murphy, &talk.hub, "S17 quokka").await?;
    murphy.read(&talk.hub, &secret.event_id).await?;
    say(murphy, &talk.hub, "S17 to both").await?;
    let seen = read(ann, &anns, "S17 to both").await?;
    let mut all = String::new();
    let mut looked = 0;
    let sync = "/_matrix/client/v3/sync?full_state=true".to_owned();
    let paths = ["state", "members", "joined_members", "messages?dir=b&limit=200"];
    for path in paths.iter().map(|rest| room_path(&anns, rest)).chain([sync]) {
        let (status, body) = ann.http().call(Method::GET, &path, None).await?;
        if status != 200 {
            return Err(format!("{path} was answered {status}").into());
        }
        all.push_str(&body.to_string());
        looked += 1;
    }
    for path in ["/conversations".to_owned(), format!("/conversations/{}", talk.id)] {
        all.push_str(&scene.api(ann, Method::GET, &path, None).await?.1.to_string());
        looked += 1;
    }
    for message in ann.messages(&anns).await? {
        all.push_str(&message.content.to_string());
    }
    let bens_name =
        scene.people.iter().find(|p| p.user_id == ben.user_id()).map_or("Ben Carey", |p| &*p.name);
    let secrets = [
        ("the name", bens_name),
        ("the account", ben.user_id().localpart()),
        ("the room", bens.as_str()),
        ("the words", "quokka"),
        ("the staff's room", talk.hub.as_str()),
        ("the staff's name for it", name),
        ("the event in the staff's room", secret.event_id.as_str()),
    ];
    if let Some((what, _)) = secrets.iter().find(|(_, secret)| all.contains(secret)) {
        return Err(format!("{what} of the other patient, or of the staff's side, reaches a patient").into());
    }
    let hidden = room_path(&bens, "messages?dir=b");
    for path in [hidden, room_path(&talk.hub, "state")] {
        let (status, _) = ann.http().call(Method::GET, &path, None).await?;
        if status != 403 {
            return Err(format!("a room that is not the patient's answers them {status}").into());
        }
    }
    Ok(format!(
        "{} was read; none of {} secrets stands in {looked} answers ({} bytes); the other rooms: 403",
        seen.event_id,
        secrets.len(),
        all.len()
    ))
}
