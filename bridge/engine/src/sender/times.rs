//! When portals are to be looked at again: one time for each, the earliest that was asked for.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use parlour_domain::PortalId;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Times {
    /// In order. A time that is not its portal's any more is passed over.
    order: BinaryHeap<Reverse<(Instant, PortalId)>>,
    next: HashMap<PortalId, Instant>,
}

impl Times {
    /// When the next is due, or one that does not count any more.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.peek().map(|Reverse((at, _))| *at)
    }

    /// Looks at a portal then, unless that is to be done earlier anyway.
    pub(super) fn add(&mut self, portal: PortalId, at: Instant) {
        if self.next.get(&portal).is_none_or(|next| at < *next) {
            self.next.insert(portal.clone(), at);
            self.order.push(Reverse((at, portal)));
        }
    }

    /// It is looked at now: what was asked for before is done by it.
    pub(super) fn is_done(&mut self, portal: &PortalId) {
        self.next.remove(portal);
    }

    /// Whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PortalId> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some(Reverse((at, portal))) = self.order.pop() else { break };
            if self.next.get(&portal) == Some(&at) {
                self.next.remove(&portal);
                due.push(portal);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_portal_that_is_looked_at_again_and_again_has_one_time() {
        let (mut times, begin) = (Times::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let [one, other] = [1, 2].map(|n| PortalId::from_bytes([n; 16]));
        // Held for a day: looked at each minute, and to be looked at ten minutes after that.
        for minute in 0..1440 {
            times.add(one.clone(), after(minute * 60 + 600));
            assert_eq!(times.due(after(minute * 60)), [], "something else wakes it earlier");
            times.is_done(&one);
        }
        let last = 1439 * 60 + 600;
        times.add(one.clone(), after(last));
        times.add(other.clone(), after(last + 1));
        assert_eq!(
            times.due(after(last)),
            std::slice::from_ref(&one),
            "once, however often it was asked for"
        );
        times.add(other.clone(), after(last + 600));
        assert_eq!(times.due(after(last + 1)), [other], "the earliest counts");
        assert_eq!(times.due(after(last + 9999)), [], "and no other");
        assert_eq!((times.order.len(), times.next.len()), (0, 0));
    }
}
