//! What a store promises of who has read what.

use parlour_domain::{MessageId, Timestamp};
use ruma::{owned_room_id, owned_user_id, user_id};

use super::{
    super::{Arrived, Receipt, testing::TestDatabase},
    AT, World, arrived, decided, event_id,
    repairs::next_is_sent,
    waiting, world,
};

/// A message of Dr Murphy's that Ann has as `EVENT-ann`, known by its echo.
async fn written(world: &World, event: &str) -> MessageId {
    decided(world, event).await;
    let theirs = format!("{event}-ann");
    next_is_sent(world, user_id!("@_parlour_1:x"), &theirs).await;
    comes(world, &theirs).await;
    let found = world.store.said_by(&world.hub.id, &event_id(event), user_id!("@u0:x")).await;
    found.expect("the record").expect("Dr Murphy's own").0
}

/// An event of ours comes back in Ann's room.
async fn comes(world: &World, event: &str) {
    let echo = Arrived { room_id: Some(owned_room_id!("!r1:x")), matters: false, ..arrived(event) };
    world.store.accept(&[echo], None, AT).await.expect("kept");
}

async fn reads(world: &World, event: &str, alone: bool, at: Timestamp) {
    let receipt = Receipt {
        room_id: owned_room_id!("!r1:x"),
        user_id: owned_user_id!("@u1:x"),
        event_id: event_id(event),
        alone,
        at,
    };
    assert!(world.store.receipts_came(&[receipt]).await.expect("kept"));
}

async fn counted(world: &World) -> usize {
    world.store.count_reads().await.expect("counted").0.len()
}

/// By which event it is known that Ann has read a message, and whether that was for a later one.
async fn read(world: &World, message: &MessageId) -> Option<(String, bool)> {
    let status = world.store.status_of(message).await.expect("read");
    assert!(status.reads.len() <= 1, "once for each reader");
    status.reads.first().map(|read| (read.event_id.to_string(), read.implied))
}

pub(super) async fn a_receipt_covers_what_stands_before_it_once(database: &TestDatabase) {
    let world = world(database).await;
    let by = |event: &str, implied| Some((event.to_owned(), implied));
    let (one, two, three) =
        (written(&world, "$a").await, written(&world, "$b").await, written(&world, "$c").await);
    // One of a thread says nothing of what stands before.
    reads(&world, "$b-ann", true, AT).await;
    assert_eq!(counted(&world).await, 1);
    assert_eq!((read(&world, &one).await, read(&world, &two).await), (None, by("$b-ann", false)));
    reads(&world, "$c-ann", false, AT).await;
    assert_eq!(counted(&world).await, 1);
    for (message, wanted) in
        [(&one, by("$c-ann", true)), (&two, by("$b-ann", false)), (&three, by("$c-ann", false))]
    {
        assert_eq!(read(&world, message).await, wanted, "it is never overwritten");
    }
    // Said again, nothing is new; and one for an event that has not come waits for it.
    reads(&world, "$c-ann", false, AT).await;
    assert_eq!(counted(&world).await, 0);
    reads(&world, "$d-ann", true, AT).await;
    // The same event, by the receipt of the whole room.
    reads(&world, "$d-ann", false, AT).await;
    assert_eq!(counted(&world).await, 0);
    let four = written(&world, "$d").await;
    assert_eq!(counted(&world).await, 1);
    assert_eq!(read(&world, &four).await, by("$d-ann", false));
    // In the hub her ghost is to show the last.
    let due = world.store.receipts_due().await.expect("read");
    assert!(due.is_empty(), "it is not there");
}

pub(super) async fn what_is_handled_late_is_read_all_the_same(database: &TestDatabase) {
    let world = world(database).await;
    // Something waits for its key while later things are read.
    let late = Arrived { room_id: Some(owned_room_id!("!r1:x")), ..arrived("$late") };
    world.store.accept(&[late], None, AT).await.expect("kept");
    let row = waiting(&world).await.pop().expect("a row");
    comes(&world, "$later").await;
    reads(&world, "$later", false, AT).await;
    counted(&world).await;
    // In this test it is Dr Murphy's, so that Ann is its reader.
    world.store.finish(&row, &super::message(&world, "$late", Vec::new()), None, AT).await.expect("decided");
    let found = world.store.said_by(&world.hub.id, &event_id("$late"), user_id!("@u0:x")).await;
    let late = found.expect("the record").expect("it").0;
    sqlx::query("UPDATE mapping SET portal_id = $1 WHERE event_id = '$late'")
        .bind(world.anns.id.as_str())
        .execute(&world.store.pool)
        .await
        .expect("moved");
    comes(&world, "$last").await;
    reads(&world, "$last", false, AT).await;
    assert_eq!(counted(&world).await, 1);
    assert_eq!(read(&world, &late).await, Some(("$last".to_owned(), true)));
}

pub(super) async fn what_was_deleted_before_was_not_read(database: &TestDatabase) {
    let world = world(database).await;
    let (gone, stays) = (written(&world, "$a").await, written(&world, "$b").await);
    super::deleting::deletes(&world, &gone, AT.plus_millis(10)).await;
    reads(&world, "$b-ann", false, AT.plus_millis(11)).await;
    counted(&world).await;
    assert_eq!(read(&world, &gone).await, None);
    assert!(read(&world, &stays).await.is_some());
}
