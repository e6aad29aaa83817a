//! What a run came to, as a person likes to read it.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use parlour_engine::Fault;

use super::{Settings, killing::Killed, plan::Kind, verdict::Findings};

/// What a run came to.
pub struct Report {
    /// What it was told.
    pub settings: Settings,
    pub(super) findings: Vec<(&'static str, Findings)>,
    pub(super) killed: Vec<Killed>,
    pub(super) reactions: usize,
    pub(super) edits: usize,
    /// Of all kinds.
    pub(super) deletions: usize,
    /// Those by a manager, who asks the practice API.
    pub(super) deletions_by_api: usize,
    /// What the homeserver refused because responses were switched off.
    pub(super) forbidden: usize,
    /// How often a conversation was switched.
    pub(super) switches: usize,
    /// How often somebody was excluded and included again.
    pub(super) changes: usize,
    pub(super) cuts: BTreeMap<&'static str, usize>,
    pub(super) unknown: usize,
    pub(super) at_rest: bool,
    /// How often a database was taken for one that was put back from a copy, which none was.
    pub(super) false_alarms: usize,
    pub(super) traffic: Duration,
    pub(super) whole: Duration,
    pub(super) kept: Option<PathBuf>,
}

/// Messages travel again so soon after Parlour was killed.
const SOON: Duration = Duration::from_secs(5);
/// So many kills out of a hundred must hit something that is on its way.
const SHARE: usize = 80;
/// So many details are told.
const MOST_DETAILS: usize = 40;

impl Report {
    /// Everything that was found.
    pub(super) fn total(&self) -> Findings {
        self.findings.iter().fold(Findings::default(), |sum, (_, found)| sum.and(found))
    }

    /// Whether what was found is what a fault leads to, and not just anything.
    #[must_use]
    pub fn shows(&self, fault: Fault) -> bool {
        let total = self.total();
        match fault {
            Fault::AnswerFirst => total.lost > 0,
            Fault::EditsLost => total.edits_lost > 0,
            Fault::ReactionsLost => total.reactions_lost > 0,
            Fault::DeletionsStay => total.strayed > 0,
            Fault::Unordered => total.out_of_order > 0,
            _ => total.doubled > 0,
        }
    }

    /// Whether all is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.total().is_clean() && self.complaints().is_empty()
    }

    /// What was found, in few words.
    #[must_use]
    pub fn in_short(&self) -> String {
        let total = self.total();
        format!(
            "lost {}, doubled {}, out of order {}, strayed {}",
            total.lost, total.doubled, total.out_of_order, total.strayed
        )
    }

    fn hits(&self) -> usize {
        self.killed.iter().filter(|killed| killed.in_flight > 0).count()
    }

    /// Recovery after kills of Parlour alone, shortest first.
    fn recoveries(&self) -> Vec<Duration> {
        let alone = |killed: &&Killed| killed.kind.takes_parlour() && !killed.kind.takes_homeserver();
        let mut all: Vec<_> = self.killed.iter().filter(alone).filter_map(|killed| killed.recovery).collect();
        all.sort_unstable();
        all
    }

    /// What is wrong beside the messages.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let (hits, kills) = (self.hits(), self.killed.len());
        if hits * 100 < kills * SHARE {
            complaints.push(format!("only {hits} of {kills} kills hit something that was on its way"));
        }
        if let Some(longest) = self.recoveries().last().filter(|longest| **longest > SOON) {
            complaints
                .push(format!("the first message was relayed only {longest:.1?} after Parlour was killed"));
        }
        let none = self.killed.iter().filter(|k| k.kind.takes_parlour() && k.recovery.is_none()).count();
        if none > 0 {
            complaints.push(format!("after {none} kills nothing was relayed for long"));
        }
        let never = self.killed.iter().filter(|killed| !killed.arrived).count();
        if never > 0 {
            complaints.push(format!("after {never} kills no message travelled for long"));
        }
        let happened = [
            ("edited", self.edits),
            ("reacted to", self.reactions),
            ("deleted", self.deletions),
            ("deleted by a manager", self.deletions_by_api),
            ("switched", self.switches),
            ("excluded", self.changes),
        ];
        for (what, count) in happened {
            if count == 0 && self.settings.fault.is_none() {
                complaints.push(format!("nothing was {what}"));
            }
        }
        if !self.at_rest {
            complaints.push("Parlour did not come to rest".to_owned());
        }
        if self.false_alarms > 0 {
            complaints.push(format!("{} times a database was taken for a copy", self.false_alarms));
        }
        complaints
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        writeln!(
            f,
            "\n{:<14}{:>9}{:>7}{:>7}{:>9}{:>14}{:>9}{:>9}{:>7}",
            "conversation",
            "accepted",
            "legs",
            "lost",
            "doubled",
            "out of order",
            "refused",
            "strayed",
            "extra"
        )?;
        let rows = self.findings.iter().map(|(name, found)| (*name, found));
        for (name, found) in rows.chain([("all", &total)]) {
            writeln!(
                f,
                "{name:<14}{:>9}{:>7}{:>7}{:>9}{:>14}{:>9}{:>9}{:>7}",
                found.accepted,
                found.legs,
                found.lost,
                found.doubled,
                found.out_of_order,
                found.refused,
                found.strayed,
                found.extra
            )?;
        }
        if total.overtaken > 0 {
            let count = total.overtaken;
            writeln!(
                f,
                "in another order than in the fresh client's timeline, sent at the same time by different people: {count}"
            )?;
        }
        writeln!(f, "\n{:<27}{:>6}{:>24}", "killed", "times", "with a leg in flight")?;
        let mut kinds: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
        for killed in &self.killed {
            let (times, hits) = kinds.entry(killed.kind).or_default();
            *times += 1;
            *hits += usize::from(killed.in_flight > 0);
        }
        for (kind, (times, hits)) in &kinds {
            writeln!(f, "{:<27}{times:>6}{hits:>24}", kind.words())?;
        }
        let (hits, kills) = (self.hits(), self.killed.len());
        writeln!(f, "{:<27}{kills:>6}{hits:>17} = {:>3} %", "all", hits * 100 / kills.max(1))?;
        let cuts = self.cuts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
        writeln!(
            f,
            "\namong them {} edits; besides {} reactions, {} deletions ({} of them by a manager), {} switches between one-way and two-way, {} exclusions, {} messages \
             refused by the homeserver meanwhile",
            self.edits,
            self.reactions,
            self.deletions,
            self.deletions_by_api,
            self.switches,
            self.changes,
            self.forbidden
        )?;
        writeln!(f, "answers cut: {}", cuts.join(", "))?;
        let recoveries = self.recoveries();
        if let (Some(median), Some(longest)) = (recoveries.get(recoveries.len() / 2), recoveries.last()) {
            writeln!(
                f,
                "from a kill of Parlour to the first message relayed: median {median:.1?}, longest {longest:.1?}"
            )?;
        }
        writeln!(
            f,
            "messages of which the sender's client does not know whether they were accepted: {}",
            self.unknown
        )?;
        writeln!(f, "traffic {:.0?}, all {:.0?}", self.traffic, self.whole)?;
        for detail in total.details.iter().take(MOST_DETAILS) {
            writeln!(f, "  {detail}")?;
        }
        if total.details.len() > MOST_DETAILS {
            writeln!(f, "  … and {} more", total.details.len() - MOST_DETAILS)?;
        }
        for complaint in self.complaints() {
            writeln!(f, "  {complaint}")?;
        }
        if let Some(folder) = &self.kept {
            writeln!(f, "the folder stays: {}", folder.display())?;
        }
        writeln!(f, "seed {}", self.settings.seed)?;
        write!(f, "soak: {} legs, {kills} kills, {}", total.legs, self.in_short())
    }
}
