//! Group privacy (S17): whatever happens in a group, nothing of another patient's reaches a patient, and it makes no difference to
//! them what the other does, nor that the other is there.

use futures_util::{StreamExt as _, stream};
use parlour_engine::Fault;
use parlour_integration_tests::groups::{Kind, Plan, World, run, warm_up};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};

/// So many cases happen where everything is tried; elsewhere some.
const ALL_CASES: u64 = 1000;
const SOME_CASES: u64 = 50;
/// Of all of them, each kind of thing happens so often.
const LEAST: usize = 500;
/// And so many of them without the other patient as well.
const MOSTLY: usize = 800;
/// So many cases happen in one world.
const OF_A_WORLD: u64 = 25;
/// So many worlds at once.
const AT_ONCE: usize = 3;
/// So many cases happen on a real homeserver as well.
const REAL_CASES: u64 = 20;
/// So often a case may be disturbed by what else this machine does.
const TRIES: usize = 3;
/// Within so many cases each leak is found.
const MOST_TO_FIND: u64 = 200;

/// What is wrong with a case: something of another's was found, or what the watched patient has seen is not the same without the
/// other, or when the other does otherwise.
async fn wrong(world: &mut World, seed: u64) -> Option<String> {
    for _ in 0..TRIES {
        world.was_disturbed = false;
        let (wrong, leaks) = tried(world, seed).await;
        if leaks || !world.was_disturbed {
            return wrong;
        }
        eprintln!("case {seed} happens again: this machine was busy");
    }
    Some(format!("case {seed} never comes about undisturbed"))
}

/// As [`wrong`], once; and whether it is a leak. With all that the other does and is called changed, and without the other; in a
/// group of two where what is refused depends on there being two, as it was.
async fn tried(world: &mut World, seed: u64) -> (Option<String>, bool) {
    let plan = Plan::of_case(seed);
    let happened = run(world, &plan, true).await;
    if !happened.leaks.is_empty() {
        return (Some(format!("case {seed}: {:#?}\n{plan:#?}", happened.leaks)), true);
    }
    let (how, otherwise) = match plan.can_do_without_the_other() {
        true => ("without the other", plan.without_the_other()),
        false => ("as it was", Plan::new(seed)),
    };
    let then = run(world, &otherwise, false).await;
    let wrong = difference(&happened.view, &then.view)
        .map(|difference| format!("case {seed}, {how}:\n{difference}\n{plan:#?}"));
    (wrong, false)
}

/// On a thread of its own.
fn aside<T, F>(work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work()))
}

/// The first line that is not the same, with all that only one of them has.
fn difference(one: &[String], other: &[String]) -> Option<String> {
    if one == other {
        return None;
    }
    let only = |of: &[String], not_of: &[String]| {
        let lines = of.iter().filter(|line| !not_of.contains(line));
        lines.map(|line| format!("  {line}\n")).collect::<String>()
    };
    let place = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let at = |lines: &[String]| lines.get(place).cloned().unwrap_or_default();
    Some(format!(
        "only the first:\n{}only the other:\n{}line {place}:\n  {}\n  {}",
        only(one, other),
        only(other, one),
        at(one),
        at(other)
    ))
}

/// What is wrong with the cases of a world.
async fn of_a_world(number: u64) -> Vec<String> {
    let mut all = Vec::new();
    let mut world = World::fake(None).await;
    warm_up(&mut world).await;
    for seed in number * OF_A_WORLD..(number + 1) * OF_A_WORLD {
        all.extend(wrong(&mut world, seed).await);
    }
    world.close().await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_patients_reaches_a_patient() {
    let is_full = std::env::var("PARLOUR_TEST_GROUPS").is_ok_and(|groups| groups == "full");
    let cases = if is_full { ALL_CASES } else { SOME_CASES };
    let begun = Instant::now();
    let worlds = stream::iter(0..cases / OF_A_WORLD).map(|number| aside(move || of_a_world(number)));
    let mut worlds = worlds.buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some(wrong) = worlds.next().await {
        let wrong = wrong.expect("a world ends well");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        done += OF_A_WORLD;
        if done.is_multiple_of(100) {
            eprintln!("group privacy: {done} of {cases} cases after {:.0?}", begun.elapsed());
        }
    }
    let without = (0..cases).filter(|seed| Plan::of_case(*seed).can_do_without_the_other()).count();
    println!("{cases} cases, each with the other patient changed, {without} of them also without the other:");
    let happened: Vec<_> = (0..cases).flat_map(|seed| Plan::of_case(seed).kinds()).collect();
    for kind in Kind::ALL {
        println!("{:>6} {kind}", happened.iter().filter(|other| **other == kind).count());
    }
}

/// Each kind of thing happens often enough.
#[test]
fn everything_happens() {
    let happened: Vec<Kind> = (0..ALL_CASES).flat_map(|seed| Plan::of_case(seed).kinds()).collect();
    let count = |kind: Kind| (kind.to_string(), happened.iter().filter(|other| **other == kind).count());
    let counts = Kind::ALL.map(count);
    assert!(counts.iter().all(|(_, count)| *count >= LEAST), "{counts:#?}");
    let without = (0..ALL_CASES).filter(|seed| Plan::of_case(*seed).can_do_without_the_other()).count();
    assert!(without >= MOSTLY, "{without}");
}

/// Who looks for leaks and finds none that there are proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn each_leak_is_found() {
    let leaks = [
        (Fault::FallbackKept, "another room"),
        (Fault::ForeignRelation, "an event elsewhere"),
        (Fault::MentionKept, "a patient's ghost"),
        (Fault::ReceiptCrossing, "\"a receipt\""),
        (Fault::HubNameInSpoke, "words of another's"),
        (Fault::LanesIgnored, "words of another's"),
    ];
    assert!(Fault::OF_GROUPS.iter().all(|fault| leaks.iter().any(|(leak, _)| leak == fault)));
    let found = stream::iter(leaks).map(|(fault, by_what)| {
        aside(move || async move {
            let mut world = World::fake(Some(fault)).await;
            warm_up(&mut world).await;
            let mut found = None;
            for seed in 0..MOST_TO_FIND {
                if let Some(wrong) = wrong(&mut world, seed).await {
                    found = Some((seed + 1, wrong));
                    break;
                }
                if (seed + 1).is_multiple_of(OF_A_WORLD) {
                    world.close().await;
                    world = World::fake(Some(fault)).await;
                    warm_up(&mut world).await;
                }
            }
            world.close().await;
            (fault.name(), by_what, found)
        })
    });
    let found: Vec<_> = found.buffered(AT_ONCE).collect().await;
    for found in found {
        let (leak, by_what, found) = found.expect("a world ends well");
        let (cases, wrong) = found.unwrap_or_else(|| panic!("{leak} is not found"));
        assert!(wrong.contains(by_what), "{leak} is found by something else: {wrong}");
        println!("{leak:<20}found in case {cases}: {}", wrong.lines().take(4).collect::<Vec<_>>().join(" "));
    }
}

/// What everybody sees in a homeserver in memory, they see in a real one.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_homeserver_shows_the_same() {
    let (mut fake, mut real) = (World::fake(None).await, World::real(None).await);
    for world in [&mut fake, &mut real] {
        world.compares_times = false;
        warm_up(world).await;
    }
    for seed in 0..REAL_CASES {
        let plan = Plan::of_case(seed);
        let on_the_fake = run(&mut fake, &plan, true).await;
        let on_the_real = run(&mut real, &plan, true).await;
        assert_eq!(on_the_real.leaks, [], "case {seed}: {plan:#?}");
        let difference = difference(&on_the_fake.view, &on_the_real.view);
        assert!(difference.is_none(), "case {seed}: {}\n{plan:#?}", difference.unwrap_or_default());
    }
    fake.close().await;
    real.close().await;
}
