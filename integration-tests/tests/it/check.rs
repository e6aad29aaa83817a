//! The check itself: it passes, and each named fault makes exactly its row fail.

use std::path::Path;

use futures_util::{StreamExt as _, stream};
use parlour::{
    demo::{
        check::{Outcome, Verdict, check_with},
        say::Silent,
    },
    run::Extras,
};
use parlour_engine::Fault;

async fn verdict(fault: Option<Fault>) -> Verdict {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let house = match fault {
        Some(Fault::NoHouse) => elsewhere.path(),
        _ => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
    };
    let extras = Extras { fault, ..Extras::default() };
    check_with(extras, house, &Silent, &|_| ()).await.expect("a verdict")
}

/// Promise and fault of the rows that did not pass.
fn not_passed(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let failed = verdict.rows.iter().filter(|row| !matches!(row.outcome, Outcome::Pass(_)));
    failed.map(|row| (row.fault, format!("{} {}: {:?}", row.requirement, row.promise, row.outcome))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_passes_and_every_requirement_of_this_stage_has_one() {
    let verdict = verdict(None).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_makes_exactly_its_row_fail() {
    let found: Vec<_> = stream::iter(Fault::OF_THE_CHECK)
        .map(|fault| async move { (fault.name(), verdict(Some(*fault)).await) })
        .buffer_unordered(2)
        .collect()
        .await;
    assert_eq!(found.len(), Fault::OF_THE_CHECK.len());
    let wrong: Vec<_> = found
        .iter()
        .map(|(fault, verdict)| (fault, verdict.code(), not_passed(verdict)))
        .filter(|(fault, code, failed)| *code != 1 || !matches!(&failed[..], [(row, _)] if row == *fault))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
