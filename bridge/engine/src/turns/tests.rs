//! Tests: whose turn is next, and how many there are.

use tokio::sync::mpsc;

use super::*;

fn message(n: u8) -> Party {
    Party::Message(MessageId::from_bytes([n; 16]))
}

fn refused(status: u16) -> HomeserverError {
    HomeserverError::Refused { status, code: String::new(), retry_after: None }
}

#[tokio::test]
async fn a_message_to_one_overtakes_a_message_to_all() {
    let turns = Turns::new();
    let (asked, mut begun) = mpsc::unbounded_channel();
    let ask = |party: Party| {
        let (turns, asked) = (turns.clone(), asked.clone());
        tokio::spawn(async move {
            let work = async {
                let _ = asked.send(party.clone());
                std::future::pending::<Result<(), HomeserverError>>().await
            };
            turns.take(&party, work).await
        })
    };
    let all = message(1);
    let tasks: Vec<_> = (0..100).map(|_| ask(all.clone())).collect();
    for _ in 0..AT_FIRST as usize {
        assert_eq!(begun.recv().await, Some(all.clone()));
    }
    let one = ask(message(2));
    while !turns.state().parties.contains_key(&message(2)) {
        tokio::task::yield_now().await;
    }
    tasks[0].abort();
    assert_eq!(begun.recv().await, Some(message(2)), "the turn that is free is the single message's");
    one.abort();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        let _ = task.await;
    }
    let _ = one.await;
    let state = turns.state();
    assert_eq!((state.under_way, state.parties.len()), (0, 0), "nothing is left");
}

#[tokio::test]
async fn what_stands_before_a_message_to_one_goes_as_soon() {
    let turns = Turns::new();
    let (asked, mut begun) = mpsc::unbounded_channel();
    let portal = |n: u8| PortalId::from_bytes([n; 16]);
    let ask = |n: u8| {
        let (turns, asked) = (turns.clone(), asked.clone());
        tokio::spawn(async move {
            let _turn = turns.turn(&message(1), Some(&portal(n))).await;
            let _ = asked.send(n);
            std::future::pending::<()>().await;
        })
    };
    let all = AT_FIRST as u8;
    let tasks: Vec<_> = (0..2 * all).map(ask).collect();
    for _ in 0..all {
        begun.recv().await;
    }
    while turns.state().parties[&message(1)].waiting.len() < usize::from(all) {
        tokio::task::yield_now().await;
    }
    // Somebody answers the last of all, and somebody one whose turn has not been asked for.
    turns.hurry(&portal(2 * all - 1));
    turns.hurry(&portal(2 * all));
    let late = ask(2 * all);
    while !turns.state().parties.contains_key(&Party::Portal(portal(2 * all))) {
        tokio::task::yield_now().await;
    }
    for task in &tasks[..2] {
        task.abort();
    }
    let mut next = [begun.recv().await, begun.recv().await];
    next.sort_unstable();
    assert_eq!(next, [Some(2 * all - 1), Some(2 * all)]);
    for task in tasks.into_iter().chain([late]) {
        task.abort();
        let _ = task.await;
    }
    let state = turns.state();
    assert_eq!((state.under_way, state.parties.len(), state.hurried.len()), (0, 0, 0));
}

#[tokio::test]
async fn it_is_told_when_the_homeserver_has_much_to_do() {
    let turns = Turns::new();
    let crowded = turns.crowded();
    let is_crowded = || *crowded.borrow();
    let mut taken = Vec::new();
    for number in 0..=FEW {
        assert!(!is_crowded(), "{number} requests");
        taken.push(turns.turn(&message(1), None).await);
    }
    assert!(is_crowded());
    taken.pop();
    assert!(!is_crowded());
    let making = turns.turn(&Party::Making(ConversationId::from_bytes([1; 16])), None).await;
    assert!(is_crowded(), "one room is much");
    drop(making);
    assert!(!is_crowded());
}

#[tokio::test]
async fn a_conversation_that_is_made_leaves_turns_to_others() {
    let turns = Turns::new();
    let making = Party::Making(ConversationId::from_bytes([1; 16]));
    let (asked, mut begun) = mpsc::unbounded_channel();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (turns, making, asked) = (turns.clone(), making.clone(), asked.clone());
            tokio::spawn(async move {
                let work = async {
                    let _ = asked.send(());
                    std::future::pending::<Result<(), HomeserverError>>().await
                };
                turns.take(&making, work).await
            })
        })
        .collect();
    for _ in 0..MAKING {
        begun.recv().await.expect("a turn");
    }
    turns.take(&message(1), async { Ok(()) }).await.expect("a turn is free");
    let counts = || {
        let state = turns.state();
        (state.under_way, state.making)
    };
    assert_eq!(counts(), (MAKING, MAKING));
    // A second one has to wait, and comes next.
    let other = Party::Making(ConversationId::from_bytes([2; 16]));
    let small = tokio::spawn({
        let (turns, other) = (turns.clone(), other.clone());
        async move { turns.take(&other, async { Ok(()) }).await }
    });
    while !turns.state().parties.contains_key(&other) {
        tokio::task::yield_now().await;
    }
    tasks[0].abort();
    small.await.expect("it ends").expect("a turn");
    assert_eq!(counts(), (MAKING, MAKING), "the turn went on to the first one");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn rooms_that_are_set_leave_turns_to_what_is_said() {
    let turns = Turns::new();
    let setting = |n: u8| Party::Setting(ConversationId::from_bytes([n; 16]));
    let (asked, mut begun) = mpsc::unbounded_channel();
    let ask = |party: Party| {
        let (turns, asked) = (turns.clone(), asked.clone());
        tokio::spawn(async move {
            // One request after the other, as in a room that is set.
            loop {
                let work = async {
                    let _ = asked.send(party.clone());
                    tokio::task::yield_now().await;
                    Ok::<_, HomeserverError>(())
                };
                turns.take(&party, work).await.expect("a turn");
            }
        })
    };
    let conversations: Vec<_> = (0..100).map(|n| ask(setting(n))).collect();
    for _ in 0..1000 {
        begun.recv().await.expect("a turn");
    }
    let most = (AT_FIRST * FOR_SETTING) as usize;
    assert!(turns.state().setting <= most, "{}", turns.state().setting);
    // A message to many goes on beside them, with more than one request under way.
    let legs: Vec<_> = (0..AT_FIRST as usize).map(|_| ask(message(1))).collect();
    let mut said = 0;
    let mut set: HashMap<Party, usize> = HashMap::new();
    for _ in 0..6000 {
        match begun.recv().await.expect("a turn") {
            Party::Message(_) => said += 1,
            party => *set.entry(party).or_default() += 1,
        }
    }
    assert!(said >= 1000, "{said} of 6000");
    assert_eq!(set.len(), conversations.len(), "and each of those comes");
    for task in conversations.into_iter().chain(legs) {
        task.abort();
        let _ = task.await;
    }
    let state = turns.state();
    assert_eq!((state.under_way, state.setting, state.parties.len()), (0, 0, 0));
}

#[tokio::test]
async fn the_limit_follows_the_answers() {
    let turns = Turns::new();
    let one = message(1);
    let limit = || turns.state().limit;
    turns.take(&one, async { Ok(()) }).await.expect("a turn");
    assert!((limit() - AT_FIRST).abs() < 0.1, "a turn alone proves nothing");
    let _ = turns.take(&one, async { Err::<(), _>(refused(404)) }).await;
    assert!((limit() - AT_FIRST).abs() < 0.1, "a refusal that is meant says nothing about how much is borne");
    let _ = turns.take(&one, async { Err::<(), _>(refused(429)) }).await;
    assert!((limit() - AT_FIRST / 2.0).abs() < 0.1);
    for _ in 0..20 {
        let _ = turns.take(&one, async { Err::<(), _>(refused(502)) }).await;
    }
    assert!((limit() - FEWEST).abs() < 0.1);
    let before = Instant::now();
    turns.state().learn(before, Duration::from_millis(1), None);
    assert!((limit() - FEWEST).abs() < 0.1);
    let held: Vec<_> = futures_util::future::join_all((0..4).map(|_| turns.turn(&one, None))).await;
    turns.state().learn(before, Duration::from_millis(1), None);
    assert!(limit() > FEWEST, "all were taken, and the answer was quick");
    drop(held);
}

#[tokio::test]
async fn slow_answers_lower_the_limit_once_for_all_that_was_asked_before() {
    let turns = Turns::new();
    let (asked, slow) = (Instant::now(), SLOW + Duration::from_millis(1));
    let limit = || turns.state().limit;
    turns.state().learn(asked, SLOW, None);
    assert!((limit() - AT_FIRST).abs() < 0.1, "that is how long it may take");
    for _ in 0..2 {
        turns.state().learn(asked, slow, None);
        assert!((limit() - AT_FIRST * LESS).abs() < 0.1);
    }
    turns.state().learn(Instant::now() + Duration::from_millis(1), slow, None);
    assert!((limit() - AT_FIRST * LESS * LESS).abs() < 0.1);
}
