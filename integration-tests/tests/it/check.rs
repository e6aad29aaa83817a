//! The check itself: it passes, and each named fault makes exactly its row fail.

use std::path::Path;

use futures_util::{StreamExt as _, stream};
use parlour::{
    demo::{
        check::{Outcome, Row, Verdict, check_with},
        say::Silent,
    },
    run::Extras,
};
use parlour_engine::Fault;

/// So many checks run side by side: where a row fails, it mostly waits.
const AT_ONCE: usize = 3;

async fn verdict(faults: Vec<Fault>) -> Verdict {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let house = if faults.contains(&Fault::NoHouse) {
        elsewhere.path()
    } else {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    };
    let extras = Extras { faults, ..Extras::default() };
    check_with(extras, house, &Silent, &|_| ()).await.expect("a verdict")
}

/// Promise and fault of the rows that did not pass.
fn not_passed(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let failed = verdict.rows.iter().filter(|row| !matches!(row.outcome, Outcome::Pass(_)));
    failed.map(|row| (row.fault, format!("{} {}: {:?}", row.requirement, row.promise, row.outcome))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_passes_and_every_requirement_of_this_stage_has_one() {
    let verdict = verdict(Vec::new()).await;
    assert_eq!(not_passed(&verdict), []);
    assert_eq!(verdict.code(), 0);
    for requirement in ["S1", "S3", "S6", "S7", "S8", "S11", "S12", "S14", "S16", "S17", "S18", "C1", "C5"] {
        assert!(verdict.rows.iter().any(|row| row.requirement == requirement), "{requirement}");
    }
    // A fault for each row, a row for each fault.
    let faults: Vec<_> = verdict.rows.iter().map(|row| row.fault).collect();
    let mut known: Vec<_> = Fault::OF_THE_CHECK.iter().map(|fault| fault.name()).collect();
    let mut named = faults.clone();
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known);
}

/// The faults stand in a square, and are switched on line by line and column by column. Of each line and column exactly the
/// faults' own rows fail. So each row has failed with its fault in two companies that share nothing else, and has passed with
/// each fault that is in no company of its own's: what a fault does to another row shows itself where that one's is not.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_makes_exactly_its_row_fail() {
    let all = Fault::OF_THE_CHECK;
    let side = (1..).find(|side| side * side >= all.len()).expect("a side");
    let lines = all.chunks(side).map(<[Fault]>::to_vec);
    let columns = (0..side).map(|column| all.iter().skip(column).step_by(side).copied().collect());
    let found: Vec<_> = stream::iter(lines.chain(columns))
        .map(|faults: Vec<Fault>| async move {
            let mut names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
            names.sort_unstable();
            (names, verdict(faults).await)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for fault in all {
        assert_eq!(found.iter().filter(|(faults, _)| faults.contains(&fault.name())).count(), 2, "{fault:?}");
    }
    let wrong: Vec<_> = found
        .iter()
        .map(|(faults, verdict)| (faults, verdict, not_passed(verdict)))
        .filter(|(faults, verdict, failed)| {
            let mut rows: Vec<_> = failed.iter().map(|(row, _)| *row).collect();
            rows.sort_unstable();
            let is_skipped = |row: &Row| matches!(row.outcome, Outcome::Skipped(_));
            verdict.code() != 1 || rows != **faults || verdict.rows.iter().any(is_skipped)
        })
        .map(|(faults, verdict, failed)| (faults, verdict.code(), failed))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
