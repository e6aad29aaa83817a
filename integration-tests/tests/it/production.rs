//! How encrypted bridges fail in production, one test a line: who reads what, how often, and what the sender was told.
//! The homeserver is real; where a fault must be exact, a proxy makes it, or a transaction of our own.
//!
//! | how they fail | test |
//! |---|---|
//! | repeated transaction after a lost 200 | `arriving::repeated_transaction_after_a_lost_200` |
//! | same event in two transactions | `arriving::same_event_in_two_transactions` |
//! | malformed event | `arriving::malformed_event`; malformed transactions: `intake.rs` |
//! | plaintext event in an encrypted room | `arriving::plaintext_event_in_an_encrypted_room` |
//! | reply to an unmapped event | `arriving::reply_to_an_unmapped_event` |
//! | clock skew | `clocks::clock_skew_of_a_sender`, `clocks::clock_skew_of_our_own` |
//! | to-device sent while we were down | `receiving_keys::to_device_sent_while_we_were_down` |
//! | event before its key | `receiving_keys::event_before_its_key`, and `…_and_before_a_switch` |
//! | redaction before its leg is sent | `receiving_keys::deleted_before_its_key`; while it is held: `held.rs`; before it is read: `saying.rs` |
//! | edit by another user | `saying::an_edit_follows_its_message_and_only_its_writer_may` |
//! | reaction twice | `saying::a_reaction_goes_where_its_message_went_and_is_taken_back` |
//! | receipts for unmapped events | `reading.rs`, and the store's own tests |
//! | key never comes | `receiving_keys::key_never_comes` |
//! | key withheld | `receiving_keys::key_withheld` |
//! | unsigned sender device | `receiving_keys::unsigned_sender_device` |
//! | spoofed sender | `receiving_keys::spoofed_sender` |
//! | replayed Megolm index | `receiving_keys::replayed_megolm_index` |
//! | new device of a patient | `giving_keys::new_device_of_a_patient` |
//! | device removed | `giving_keys::device_removed` |
//! | one-time keys exhausted | `giving_keys::one_time_keys_exhausted`, `giving_keys::no_key_to_be_had` |
//! | one-time key clash | `giving_keys::one_time_key_clash` |
//! | claim or query fails | `giving_keys::claim_or_query_fails`, `giving_keys::who_cannot_be_reached_keeps_nobody_waiting` |
//! | 1000-device fan-out | `fan_out::thousand_device_fan_out` |
//! | wedged Olm | `wedged::wedged_olm`, `…_of_a_ghost_that_sleeps`, `…_of_the_bot` |
//! | PUT done, answer lost | `sending::put_done_answer_lost` |
//! | equal transaction ids of two ghosts | `sending::equal_transaction_ids_of_two_ghosts` |
//! | two processes for one ghost | `sending::two_processes_for_one_ghost`, and `…_on_postgresql` |
//! | homeserver restart in mid poll | `rooms::homeserver_restart_in_mid_poll` |
//! | encryption event late or changed | `rooms::encryption_event_late`, `rooms::encryption_event_changed` |
//! | room upgrade | `rooms::room_upgrade` |
//! | database restored from yesterday | `going_back::database_restored_from_yesterday`; a mode: `a_switch_that_…_has_forgotten`; both together: `backup.rs` |
//! | homeserver database rebuilt | `going_back::homeserver_database_rebuilt`, and `…_while_parlour_is_down`; its numbers: `arriving::homeserver_transaction_numbers_begin_anew` |
//! | crash after ack before handling | `crashing::crash_after_ack_before_handling` |
//! | crash between encrypt and PUT | `crashing::crash_between_encrypt_and_put`; all other moments: `crash.rs` |

mod arriving;
mod clocks;
mod crashing;
mod fan_out;
mod giving_keys;
mod going_back;
mod receiving_keys;
mod rooms;
mod sending;
pub(crate) mod wedged;

use std::time::Duration;

use parlour::demo::client::{Client, Reading};
use parlour_integration_tests::{LIMIT, Stage, proxy::Proxy, room_path, witness};
use reqwest::Method;
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::{Value, json};

/// What others have said in a room, as it stands there now, in order: words, and what cannot be read.
pub(crate) async fn heard(client: &Client, room: &RoomId) -> Vec<String> {
    let messages = client.history(room, 200).await.expect("the room");
    let others = messages.into_iter().filter(|message| message.sender != client.user_id());
    others
        .filter_map(|message| match message.reading {
            Reading::Undecryptable { .. } => Some("(unreadable)".to_owned()),
            Reading::Redacted => Some("(redacted)".to_owned()),
            Reading::Readable { .. } | Reading::Plain => {
                (message.msgtype == "m.text").then_some(message.body)
            }
        })
        .collect()
}

/// How many words of the bot a person has before them.
pub(crate) async fn told(client: &Client, room: &RoomId) -> usize {
    let messages = client.history(room, 200).await.expect("the room");
    messages.iter().filter(|message| message.msgtype == "m.notice").count()
}

/// What somebody reads who was away all the time, and how many ciphertexts of others stand there.
async fn all_that_stands(client: &Client, room: &RoomId, wanted: &[impl AsRef<str>]) {
    client.resume().await;
    let wanted: Vec<_> = wanted.iter().map(AsRef::as_ref).collect();
    assert_eq!(witness::others_words(client, room, wanted.len()).await, wanted);
    let mut counts = witness::ciphertexts(client, room).await;
    counts.remove(client.user_id().as_str());
    assert_eq!(counts.values().sum::<usize>(), wanted.len(), "each once: {counts:?}");
    assert_eq!(told(client, room).await, 0);
}

/// An event as the homeserver gives it to a person.
async fn raw(client: &Client, room: &RoomId, event: &EventId) -> Value {
    let path = room_path(room, &format!("event/{event}"));
    let (status, event) = client.http().call(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(status, 200, "{event}");
    event
}

/// Hands Parlour a transaction, as the homeserver would.
async fn hand_over(stage: &Stage, id: &str, events: &[Value]) {
    let token = stage.world.config.homeserver.hs_token.reveal();
    let path = format!("/_matrix/app/v1/transactions/{id}");
    let body = json!({ "events": events }).to_string();
    let (status, answer) = stage.internal(Method::PUT, &path, Some(token), Some(body)).await;
    assert_eq!((status, answer), (200, json!({})));
}

/// Waits for an event in a transaction that the proxy has answered in Parlour's place.
async fn swallowed(to_parlour: &Proxy, event: &EventId) -> Value {
    let find = async {
        loop {
            for kept in to_parlour.kept().await {
                let body: Value = serde_json::from_str(&kept.body).expect("a transaction");
                let events = body["events"].as_array().cloned().unwrap_or_default();
                if let Some(found) = events.into_iter().find(|found| found["event_id"] == event.as_str()) {
                    return found;
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, find).await.expect("the event comes")
}

/// Waits until the figures of the queues are as wanted.
async fn figures(stage: &Stage, what: &str, wanted: impl Fn(&parlour_engine::Figures) -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let figures = stage.world.parlour.engine().figures().await.expect("figures");
        if wanted(&figures) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: {figures:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Replies to an event, whatever it is.
async fn reply(client: &Client, room: &RoomId, to: &str, words: &str) -> OwnedEventId {
    let relation = json!({ "m.in_reply_to": { "event_id": to } });
    let content = json!({ "msgtype": "m.text", "body": words, "m.relates_to": relation });
    parlour_integration_tests::send(client, room, "m.room.message", content).await
}

/// Ends clients and world.
async fn end(clients: impl IntoIterator<Item = Client>, stage: Stage) {
    for client in clients {
        client.stop().await;
    }
    stage.close().await;
}
