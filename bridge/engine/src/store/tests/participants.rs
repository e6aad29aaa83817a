//! What a store promises of who takes part.

use parlour_domain::{
    LegId, Mode, Person, PersonId, PortalId, Role, TakingPartError, TeamId, TeamName, Timestamp,
};
use ruma::UserId;

use super::{
    super::{
        Asking, Departure, NewLeg, Outcome, ParticipantChange, ParticipantsAre, Says, TakingPart, Team,
        testing::{Counting, TestDatabase},
    },
    AT, InboxRow, World, arrived, event_id, waiting, world,
};

/// One of the staff whom the conversation does not know yet.
async fn kim(world: &World) -> Person {
    let person = Person {
        id: PersonId::from_bytes([77; 16]),
        user_id: UserId::parse("@kim:x").expect("a user id"),
        role: Role::Staff,
        name: "Kim Brady".parse().expect("a name"),
        record_number: None,
    };
    world.store.put_person(&person).await.expect("kept");
    person
}

async fn person(world: &World, id: &PersonId) -> Person {
    world.store.person(id).await.expect("read").expect("a person")
}

fn word(portal: &PortalId, n: u8) -> NewLeg {
    let says = Says::Notice("a word".to_owned(), None);
    NewLeg { id: LegId::from_bytes([n; 16]), portal: portal.clone(), says, sent_at: AT }
}

fn change(world: &World, by: &Person, whom: &Person, n: u8) -> ParticipantChange {
    ParticipantChange {
        conversation: world.conversation.clone(),
        by: by.clone(),
        whom: whom.clone(),
        hub: world.hub.id.clone(),
        spoke: PortalId::from_bytes([n; 16]),
        to_staff: Some(word(&world.hub.id, n)),
        to_patient: (whom.id == world.ann).then(|| word(&world.anns.id, n + 1)),
        found: false,
        by_name: true,
        succession: LegId::from_bytes([n + 2; 16]),
    }
}

async fn taken_in(world: &World, event: &str) -> InboxRow {
    world.store.accept(&[arrived(event)], None, AT).await.expect("kept");
    waiting(world).await.pop().expect("a row")
}

async fn to_set(world: &World) -> Vec<PortalId> {
    let portals = world.store.portals_to_set(&world.conversation).await.expect("read");
    portals.into_iter().map(|portal| portal.id).collect()
}

async fn all_are_set(world: &World) {
    for portal in world.store.portals_to_set(&world.conversation).await.expect("read") {
        world.store.portal_is_set(&portal.id, portal.revision).await.expect("kept");
    }
    assert!(to_set(world).await.is_empty());
}

pub(super) async fn who_is_excluded_does_not_take_part_until_they_are_included(database: &TestDatabase) {
    let world = world(database).await;
    let (murphy, ann) = (person(&world, &world.murphy).await, person(&world, &world.ann).await);
    let store = &world.store;
    all_are_set(&world).await;
    let legs = async || store.figures().await.expect("read").waiting;
    let before = legs().await;
    let away = change(&world, &murphy, &ann, 100);
    assert_eq!(store.exclude(&away, AT).await.expect("kept"), ParticipantsAre::Changed);
    let people = store.people_in(&world.conversation).await.expect("read");
    let names: Vec<_> = people.participants.iter().map(|p| p.person.name.as_str()).collect();
    assert_eq!(names, ["Ben Carey", "Dr Murphy"]);
    assert_eq!(
        people.former_patients().map(|p| p.id.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&ann.id)
    );
    assert!(!people.is_open(&world.anns) && people.is_open(&world.hub));
    assert!(
        store.may_see(&world.conversation, &ann.id).await.expect("read"),
        "what was hers to read is hers"
    );
    assert_eq!(legs().await, before + 2, "staff and Ann are told");
    assert_eq!(to_set(&world).await, [world.anns.id.clone(), world.hub.id.clone()]);
    assert_eq!(store.exclude(&away, AT).await.expect("kept"), ParticipantsAre::AsBefore);

    // Her spoke is to be one-way whatever the conversation is.
    assert_eq!(store.not_set(&world.conversation).await.expect("read"), 2);
    all_are_set(&world).await;
    store.set_mode(&world.conversation, Mode::OneWay, &murphy.id, AT).await.expect("kept");
    assert_eq!(to_set(&world).await.len(), 3, "each room is set");
    all_are_set(&world).await;

    let back = change(&world, &murphy, &ann, 110);
    assert_eq!(store.include(&back, AT).await.expect("kept"), ParticipantsAre::Changed);
    let people = store.people_in(&world.conversation).await.expect("read");
    assert_eq!((people.participants.len(), people.former.len()), (3, 0));
    assert_eq!(
        store.portals(&world.conversation).await.expect("read").len(),
        3,
        "the same spoke opens again"
    );
    assert_eq!(legs().await, before + 3, "Ann is told at once, staff when the hub says so");
    assert_eq!(store.include(&back, AT).await.expect("kept"), ParticipantsAre::AsBefore);

    // Of whoever has gone missing in their room it is known, and they are brought back.
    store.joined(&world.anns.id, &ann.user_id).await.expect("kept");
    all_are_set(&world).await;
    store.portal_is_ready(&world.anns.id, None).await.expect("kept");
    store.not_joined(&world.anns.id, &ann.user_id).await.expect("kept");
    assert_eq!(store.include(&back, AT).await.expect("kept"), ParticipantsAre::Changed);
    assert_eq!(to_set(&world).await, std::slice::from_ref(&world.anns.id));
}

pub(super) async fn a_conversation_has_an_owner_and_somebody_of_the_staff(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    let (murphy, ann, kim) =
        (person(&world, &world.murphy).await, person(&world, &world.ann).await, kim(&world).await);
    let last = ParticipantsAre::Refused(TakingPartError::LastOfStaff);
    let go = change(&world, &murphy, &murphy, 100);
    assert_eq!(store.exclude(&go, AT).await.expect("asked"), last);
    let not_yours = ParticipantsAre::Refused(TakingPartError::NotYours);
    assert_eq!(store.include(&change(&world, &ann, &kim, 105), AT).await.expect("asked"), not_yours);
    let come = change(&world, &murphy, &kim, 110);
    assert_eq!(store.include(&come, AT).await.expect("kept"), ParticipantsAre::Changed);
    store
        .set_senders(&world.conversation, std::slice::from_ref(&kim.id), &murphy.id, AT)
        .await
        .expect("kept");
    let taking_part = async || store.taking_part(&world.conversation).await.expect("read");
    let told = TakingPart {
        owner: Some(murphy.user_id.clone()),
        staff: vec![kim.user_id.clone(), murphy.user_id.clone()],
        senders: vec![kim.user_id.clone()],
        patients: vec![ann.user_id.clone(), UserId::parse("@u2:x").expect("a user id")],
    };
    assert_eq!(taking_part().await, told);
    assert_eq!(store.exclude(&go, AT).await.expect("kept"), ParticipantsAre::Changed);
    let (owner, staff) = (Some(kim.user_id.clone()), vec![kim.user_id.clone()]);
    assert_eq!(taking_part().await, TakingPart { owner, staff, senders: Vec::new(), ..told });
    let conversation = store.conversation(&world.conversation).await.expect("read").expect("there");
    assert_eq!(conversation.owner, kim.id);
    let people = store.people_in(&world.conversation).await.expect("read");
    assert!(people.staff().all(|staff| staff.person.id == kim.id && staff.may_send_one_way));
    assert!(!store.may_see(&world.conversation, &murphy.id).await.expect("read"));

    // By their own client they do not go either: the room is set once more, and staff are told.
    all_are_set(&world).await;
    store.joined(&world.hub.id, &kim.user_id).await.expect("kept");
    let gone_at = Timestamp::from_millis(AT.millis() + 5);
    let row = taken_in(&world, "$left").await;
    let departure = Departure {
        change: ParticipantChange { to_patient: None, ..change(&world, &kim, &kim, 120) },
        is_last: word(&world.hub.id, 130),
    };
    let outcome = Outcome::Left {
        user_id: kim.user_id.clone(),
        event_id: event_id("$left"),
        at: gone_at,
        departure: Some(Box::new(departure)),
    };
    store.finish(&row, &outcome, None, AT).await.expect("kept");
    let people = store.people_in(&world.conversation).await.expect("read");
    assert_eq!(people.staff().count(), 1);
    assert!(!store.has_joined(&world.hub.id, &kim.user_id).await.expect("read"));
    assert_eq!(to_set(&world).await, std::slice::from_ref(&world.hub.id));

    // Whoever was put out wrote before that, or not at all.
    let former = people.former.iter().find(|former| former.person.id == murphy.id).expect("Murphy");
    assert_eq!(former.gone_at, None);
    let row = taken_in(&world, "$kicked").await;
    let (user_id, event_id) = (murphy.user_id.clone(), event_id("$kicked"));
    let outcome = Outcome::Left { user_id, event_id, at: gone_at, departure: None };
    store.finish(&row, &outcome, None, AT).await.expect("kept");
    let people = store.people_in(&world.conversation).await.expect("read");
    let former = people.former.iter().find(|former| former.person.id == murphy.id).expect("Murphy");
    assert_eq!(former.gone_at, Some(gone_at));
}

pub(super) async fn a_new_patient_has_a_spoke_that_is_made(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    let murphy = person(&world, &world.murphy).await;
    let cara = Person { id: PersonId::from_bytes([78; 16]), role: Role::Patient, ..kim(&world).await };
    let cara = Person { user_id: UserId::parse("@cara:x").expect("a user id"), ..cara };
    store.put_person(&cara).await.expect("kept");
    let portals = store.portals(&world.conversation).await.expect("read");
    for portal in &portals {
        store.portal_is_ready(&portal.id, None).await.expect("kept");
    }
    assert!(store.conversation_is_ready(&world.conversation).await.expect("kept"));
    let come = change(&world, &murphy, &cara, 100);
    assert_eq!(store.include(&come, AT).await.expect("kept"), ParticipantsAre::Changed);
    let unready = store.unready_portals(&world.conversation).await.expect("read");
    assert_eq!(
        unready.iter().map(|portal| portal.id.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&come.spoke)
    );
    assert!(!store.conversation(&world.conversation).await.expect("read").expect("there").ready);
    // Whoever has made what was there before does not say that this is made.
    assert!(!store.conversation_is_ready(&world.conversation).await.expect("asked"));
    assert_eq!(
        to_set(&world).await,
        std::slice::from_ref(&world.hub.id),
        "its topic; what has no room yet is made"
    );
}

pub(super) async fn what_was_to_be_set_meanwhile_still_is(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    let (murphy, kim) = (person(&world, &world.murphy).await, kim(&world).await);
    all_are_set(&world).await;
    store.include(&change(&world, &murphy, &kim, 100), AT).await.expect("kept");
    let [hub] = &store.portals_to_set(&world.conversation).await.expect("read")[..] else {
        panic!("the hub")
    };
    store.joined(&hub.id, &kim.user_id).await.expect("kept");
    store.exclude(&change(&world, &murphy, &kim, 110), AT).await.expect("kept");
    store.portal_is_set(&hub.id, hub.revision).await.expect("kept");
    assert_eq!(to_set(&world).await, std::slice::from_ref(&world.hub.id), "Kim is still in it");
    let members = store.members(std::slice::from_ref(&hub.id)).await.expect("read");
    let reads = members.get(&hub.id).is_some_and(|members| members.readers.contains(&kim.user_id));
    assert!(!reads, "nothing more is encrypted for Kim");
}

pub(super) async fn a_team_takes_part_as_it_is_when_that_becomes_true(database: &TestDatabase) {
    let world = world(database).await;
    let store = &world.store;
    let (murphy, kim) = (person(&world, &world.murphy).await, kim(&world).await);
    let sam = Person { id: PersonId::from_bytes([79; 16]), ..kim.clone() };
    let sam = Person { user_id: UserId::parse("@sam:x").expect("a user id"), ..sam };
    store.put_person(&sam).await.expect("kept");
    let asking = Asking { by: &murphy, at: AT, chance: &Counting };
    let id = TeamId::from_bytes([80; 16]);
    let name: TeamName = "Reception".parse().expect("a name");
    let stale = Team { id: id.clone(), name, members: vec![kim.clone()] };
    store.add_team(&stale).await.expect("kept");
    let members = std::slice::from_ref(&sam);
    store
        .change_team(&stale, Some(&"Front desk".parse().expect("a name")), Some(members), asking)
        .await
        .expect("kept")
        .expect("allowed");
    let [team] = &store.teams().await.expect("read")[..] else { panic!("one team") };
    assert_eq!((team.name.as_str(), &team.members), ("Front desk", &vec![sam.clone()]));
    // Whoever asks with what they knew before includes those who are in it now.
    let touched = store.include_team(&world.conversation, &stale, asking).await.expect("kept");
    assert_eq!(touched, Ok(vec![world.conversation.clone()]));
    let staff = async || {
        let people = store.people_in(&world.conversation).await.expect("read");
        people.staff().map(|staff| staff.person.id.clone()).collect::<Vec<_>>()
    };
    assert!(!staff().await.contains(&kim.id) && staff().await.contains(&sam.id));
    assert_eq!(store.teams_in(&world.conversation).await.expect("read"), std::slice::from_ref(&id));
    // Named as well, Sam stays when the team goes.
    let named = change(&world, &murphy, &sam, 100);
    store.include(&named, AT).await.expect("kept");
    store.exclude_team(&world.conversation, team, asking).await.expect("kept").expect("allowed");
    assert!(staff().await.contains(&sam.id));
    // A leaver goes from all of the team's, also where they were named; the last of the staff is stood in for.
    store.include_team(&world.conversation, team, asking).await.expect("kept").expect("allowed");
    store.exclude(&change(&world, &murphy, &murphy, 110), AT).await.expect("kept");
    assert_eq!(staff().await, std::slice::from_ref(&sam.id));
    store.change_team(team, None, Some(&[]), asking).await.expect("kept").expect("allowed");
    assert_eq!(staff().await, std::slice::from_ref(&murphy.id));
    let conversation = store.conversation(&world.conversation).await.expect("read").expect("there");
    assert_eq!(conversation.owner, murphy.id);
}
