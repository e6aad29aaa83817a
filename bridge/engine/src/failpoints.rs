//! Failpoints, for tests only (feature `faults`): the process records which commit points it goes through, and ends
//! itself before or after the one that it is told, at once and without a chance to say goodbye.

use std::{
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::CommitPoint;

/// On which side of a commit point the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the commit, or before the request is made.
    Before,
    /// After the commit, or after the request was answered and before anything is made of the answer.
    After,
}

/// At which passage the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// That of this number among all; the first is 1.
    Number(usize),
    /// That of this number through one point; the first is 1.
    Through(CommitPoint, usize),
}

#[derive(Default)]
struct Points {
    recording: bool,
    seen: Vec<CommitPoint>,
    end_at: Option<(Place, Side)>,
}

/// What the last line on standard error begins with, before side and point.
pub const ENDS: &str = "ends at a commit point:";

static POINTS: Mutex<Points> = Mutex::new(Points { recording: false, seen: Vec::new(), end_at: None });

fn points() -> MutexGuard<'static, Points> {
    POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to record anew; with `end_at`, the process ends there.
pub fn record(end_at: Option<(Place, Side)>) {
    *points() = Points { recording: true, seen: Vec::new(), end_at };
}

/// What was recorded, in the order in which the points were begun; the recording ends.
pub fn recorded() -> Vec<CommitPoint> {
    std::mem::take(&mut *points()).seen
}

/// The number of a recorded passage, while the recording lasts.
pub(crate) struct Passage(Option<usize>);

pub(crate) fn before(point: CommitPoint) -> Passage {
    let mut points = points();
    if !points.recording {
        return Passage(None);
    }
    points.seen.push(point);
    let number = points.seen.len();
    end(&points, number, Side::Before);
    Passage(Some(number))
}

pub(crate) fn after(passage: Passage) {
    if let Passage(Some(number)) = passage {
        end(&points(), number, Side::After);
    }
}

/// Ends the process here and now, as `kill -9` would: nothing is unwound, nothing is flushed. The lock is held, so no
/// other thread goes through a point meanwhile.
fn end(points: &Points, number: usize, side: Side) {
    let Some((place, wanted)) = points.end_at else { return };
    let point = points.seen[number - 1];
    let is_here = match place {
        Place::Number(of_all) => of_all == number,
        Place::Through(wanted, of_point) => {
            wanted == point && points.seen[..number].iter().filter(|seen| **seen == point).count() == of_point
        }
    };
    if is_here && wanted == side {
        // The test reads there what it has hit.
        let _ = writeln!(std::io::stderr(), "{ENDS} {side:?} {}", point.name());
        std::process::abort();
    }
}
