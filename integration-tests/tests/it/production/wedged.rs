//! Olm sessions that a phone has lost, so that it cannot read what it is sent: it begins Olm anew, and what it could not
//! read is sent again.

use std::{path::Path, time::Duration};

use parlour::{
    demo::client::{Client, Message, Reading},
    run::Extras,
};
use parlour_integration_tests::{LIMIT, Stage, Talk, put, read, refusal, say, send};
use reqwest::Method;
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::json;
use sqlx::Connection as _;

use super::{end, figures, heard, told};

const CARE: Duration = Duration::from_millis(300);

/// A client's store as it was before: a copy, in which all Olm sessions are two hours old. A client begins a broken
/// session anew only when it is older than an hour.
pub(crate) async fn copy_of_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    // The client has stopped, and SQLite puts away what it keeps beside its files: then it is copied again.
    let copied = || {
        let mut files = std::fs::read_dir(from).expect("the store").flatten();
        files.try_for_each(|file| std::fs::copy(file.path(), to.join(file.file_name())).map(drop))
    };
    while let Err(error) = copied() {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "copied");
        std::fs::remove_dir_all(to).and_then(|()| std::fs::create_dir_all(to)).expect("begun anew");
    }
    let url = format!("sqlite://{}", to.join("matrix-sdk-crypto.sqlite3").display());
    let mut database = sqlx::AnyConnection::connect(&url).await.expect("the store");
    let sessions: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as("SELECT session_id, data FROM session")
        .fetch_all(&mut database)
        .await
        .expect("sessions");
    assert!(!sessions.is_empty());
    for (id, mut data) in sessions {
        // MessagePack: the name, then 0xce and four bytes.
        let name = b"creation_time";
        let at = data.windows(name.len()).position(|window| window == name).expect("a time") + name.len();
        assert_eq!(data[at], 0xce);
        let seconds = u32::from_be_bytes(data[at + 1..at + 5].try_into().expect("four bytes"));
        data[at + 1..at + 5].copy_from_slice(&(seconds - 2 * 60 * 60).to_be_bytes());
        sqlx::query("UPDATE session SET data = $1 WHERE session_id = $2")
            .bind(data)
            .bind(id)
            .execute(&mut database)
            .await
            .expect("older");
    }
    database.close().await.expect("closed");
}

/// Waits until a ghost's inbox is empty: it has read what was in it.
async fn has_read_its_inbox(stage: &Stage, ghost: &UserId) {
    let store = stage.world.parlour.engine().store();
    let device = store.our_user(ghost).await.expect("the store").expect("a ghost").device_id;
    let deadline = tokio::time::Instant::now() + LIMIT;
    for number in 0.. {
        // Synapse remembers its answer to the same question for two minutes.
        let path = format!("/_matrix/client/v3/sync?device_id={device}&timeout={number}");
        let (_, inbox) = stage.as_ours(ghost, Method::GET, &path, None).await;
        if inbox["to_device"]["events"].as_array().is_none_or(Vec::is_empty) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the inbox stays full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ann's phone put back to what it was before the ghost of Dr Murphy and she had written to each other.
struct Wedged {
    stage: Stage,
    murphy: Client,
    ann: Client,
    ghost: ruma::OwnedUserId,
}

/// Who speaks to Ann's phone in the session that it loses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Ghost,
    Bot,
}

impl Wedged {
    async fn open(extras: Extras, speaker: Speaker) -> Self {
        let stage = Stage::open_with(extras).await;
        let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
        let talk = stage.begin(&murphy, "first", "two-way", &[], &["ann"]).await;
        let spoke = talk.spoke(stage.person("ann"));
        say(&murphy, &talk.hub(), "hello").await;
        let ghost = read(&ann, &spoke, "hello").await.sender;
        if speaker == Speaker::Bot {
            // Both have written by the session with the bot: a key for what she says, and one for its answer.
            let image = json!({ "msgtype": "m.image", "body": "image.png" });
            let image = send(&ann, &spoke, "m.room.message", image).await;
            refusal(&ann, &spoke, &image).await;
        }
        ann.stop().await;
        copy_of_store(&stage.store("ann", "first"), &stage.store("ann", "restored")).await;

        // The Olm session with the phone goes on: the phone answers in it, and that was read.
        let ann = stage.device("ann", "first", false).await;
        ann.matrix().get_room(&spoke).expect("the spoke").discard_room_key().await.expect("a new session");
        say(&ann, &spoke, "good morning").await;
        read(&murphy, &talk.hub(), "good morning").await;
        if speaker == Speaker::Ghost {
            has_read_its_inbox(&stage, &ghost).await;
        }
        ann.stop().await;

        // The phone is put back to what it was: what it is sent from here on it cannot read.
        let ann = stage.device("ann", "restored", false).await;
        Self { stage, murphy, ann, ghost }
    }

    /// Dr Murphy asks in a new conversation, and Ann's phone cannot read it: conversation, question, what she has.
    async fn asks_in_vain(&self) -> (Talk, OwnedEventId, OwnedEventId) {
        let talk = self.stage.begin(&self.murphy, "second", "two-way", &[], &["ann"]).await;
        let asked = say(&self.murphy, &talk.hub(), "can you read this?").await;
        let lost = self.cannot_read(&talk.spoke(self.stage.person("ann"))).await;
        (talk, asked, lost)
    }

    /// Waits for an event that Ann's phone cannot read.
    async fn cannot_read(&self, spoke: &RoomId) -> OwnedEventId {
        let unreadable = |seen: &[Message]| {
            let lost = seen.iter().find(|m| matches!(m.reading, Reading::Undecryptable { .. }));
            lost.map(|m| m.event_id.clone())
        };
        self.ann.wait_until(spoke, LIMIT, unreadable).await.expect("it cannot be read")
    }

    /// Waits until an event is void for Ann.
    async fn is_void(&self, spoke: &RoomId, lost: &OwnedEventId) {
        let void = |seen: &[Message]| {
            seen.iter().any(|m| m.event_id == *lost && m.reading == Reading::Redacted).then_some(())
        };
        self.ann.wait_until(spoke, LIMIT, void).await.expect("it is redacted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wedged_olm() {
    let extras = Extras { care: Some(CARE), ..Extras::default() };
    let wedged = Wedged::open(extras, Speaker::Ghost).await;
    let (talk, asked, lost) = wedged.asks_in_vain().await;
    let Wedged { stage, murphy, ann, ghost } = &wedged;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let written =
        murphy.wait_for(&hub, LIMIT, |message| message.event_id == asked).await.expect("said").sent_at;
    // Her phone begins Olm anew, which the ghost hears with the key of what she writes next.
    say(ann, &spoke, "I cannot read it").await;
    read(murphy, &hub, "I cannot read it").await;
    let again = read(ann, &spoke, "can you read this?").await;
    assert_eq!((&again.sender, again.sent_at), (ghost, written), "the same words, the same time");
    // What could not be read is void, and the words stand there once.
    assert_ne!(again.event_id, lost);
    wedged.is_void(&spoke, &lost).await;
    assert_eq!(heard(ann, &spoke).await, ["(redacted)", "can you read this?"]);
    // It is the same message: an answer to it is one to Dr Murphy's own words.
    ann.reply(&spoke, &again.event_id, "yes").await.expect("sent");
    assert_eq!(read(murphy, &hub, "yes").await.in_reply_to, Some(asked));
    say(murphy, &hub, "good").await;
    read(ann, &spoke, "good").await;
    assert_eq!(heard(ann, &spoke).await, ["(redacted)", "can you read this?", "good"]);
    assert_eq!(heard(murphy, &hub).await, ["I cannot read it", "yes"]);
    assert_eq!((told(murphy, &hub).await, told(ann, &spoke).await), (0, 0));
    let Wedged { stage, murphy, ann, .. } = wedged;
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wedged_olm_of_a_ghost_that_sleeps() {
    let extras = Extras { care: Some(CARE), idle: Some(CARE), ..Extras::default() };
    let wedged = Wedged::open(extras, Speaker::Ghost).await;
    let (talk, _, lost) = wedged.asks_in_vain().await;
    let Wedged { stage, murphy, ann, .. } = &wedged;
    let spoke = talk.spoke(stage.person("ann"));
    let deadline = tokio::time::Instant::now() + LIMIT;
    while stage.world.parlour.engine().machines_awake().await > 1 {
        assert!(tokio::time::Instant::now() < deadline, "all but the bot sleep");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody has the ghost speak from here on.
    say(ann, &spoke, "I cannot read it").await;
    read(murphy, &talk.hub(), "I cannot read it").await;
    read(ann, &spoke, "can you read this?").await;
    wedged.is_void(&spoke, &lost).await;
    assert_eq!(heard(ann, &spoke).await, ["(redacted)", "can you read this?"]);
    let Wedged { stage, murphy, ann, .. } = wedged;
    end([murphy, ann], stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wedged_olm_of_the_bot() {
    // Nobody looks after ghosts here: the bot hears of it by itself.
    let wedged = Wedged::open(Extras::default(), Speaker::Bot).await;
    let Wedged { stage, murphy, ann, .. } = &wedged;
    let talk = stage.begin(murphy, "second", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    let content = json!({ "msgtype": "m.text", "body": "in the clear" });
    let clear = put(ann, &spoke, "send/m.room.message/1", content).await;
    let lost = wedged.cannot_read(&spoke).await;
    say(ann, &spoke, "what did you say?").await;
    read(murphy, &hub, "what did you say?").await;
    let words = refusal(ann, &spoke, &clear).await;
    assert!(words.contains("(ENC-1)"), "{words}");
    wedged.is_void(&spoke, &lost).await;
    assert_eq!((told(murphy, &hub).await, told(ann, &spoke).await), (0, 1), "once, and readable");
    assert_eq!(heard(murphy, &hub).await, ["what did you say?"]);
    let Wedged { stage, murphy, ann, .. } = wedged;
    end([murphy, ann], stage).await;
}

/// Whoever is written to by somebody who has just begun Olm with them goes on with that: two sessions that cross would look
/// as if one side had lost its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_whoever_wrote_first_is_not_repaired() {
    let extras = Extras { care: Some(Duration::from_secs(2)), ..Extras::default() };
    let stage = Stage::open_with(extras).await;
    let (murphy, ann) = (stage.sign_in("murphy").await, stage.sign_in("ann").await);
    let talk = stage.begin(&murphy, "first of all", "two-way", &[], &["ann"]).await;
    let (hub, spoke) = (talk.hub(), talk.spoke(stage.person("ann")));
    say(&ann, &spoke, "good morning").await;
    read(&murphy, &hub, "good morning").await;
    say(&murphy, &hub, "good morning to you").await;
    let ghost = read(&ann, &spoke, "good morning to you").await.sender;
    has_read_its_inbox(&stage, &ghost).await;
    let store = stage.world.parlour.engine().store();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !store.repairs_wished().await.expect("read").is_empty()
        || !store.unreadable_sessions().await.expect("read").is_empty()
    {
        assert!(tokio::time::Instant::now() < deadline, "what is wished for is done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures(&stage, "all legs are sent", |figures| figures.waiting == 0).await;
    say(&murphy, &hub, "and a good day").await;
    read(&ann, &spoke, "and a good day").await;
    assert_eq!(heard(&ann, &spoke).await, ["good morning to you", "and a good day"]);
    assert_eq!(heard(&murphy, &hub).await, ["good morning"]);
    end([murphy, ann], stage).await;
}
