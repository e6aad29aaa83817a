//! The same case once more, otherwise for the other patient: without them, or with somebody else who does other things.

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Act, For, PATIENTS, Plan, STAFF, Step, is_staff, token};

const ANOTHER_REACTION: &str = "🎉";

impl Plan {
    /// The case of a seed, with all that the other patient does and is called changed.
    pub fn of_case(seed: u64) -> Self {
        Self::new(seed).with_the_other_changed()
    }

    /// Whether it can happen without the other patient. A group always has a patient; and in one of two, the one who is left can be
    /// mentioned to all, who are only them.
    pub fn can_do_without_the_other(&self) -> bool {
        let can =
            |step: &Step| !step.refused && !matches!(step.act, Act::Excludes(whom) if whom == self.watched);
        self.patients.len() > 2 || self.steps.iter().all(|(_, step)| can(step))
    }

    /// The same without the other patient: nothing that they do, that is done to them, or that is said to them alone.
    pub fn without_the_other(&self) -> Self {
        let other = self.other;
        let is_theirs = |step: &Step| {
            step.by == other
                || match &step.act {
                    Act::Says { reaches, mentions, .. } => {
                        *reaches == For::One(other) || (step.refused && *mentions == Some(other))
                    }
                    Act::Edits { what, mentions, .. } => {
                        self.reach(*what) == For::One(other) || (step.refused && *mentions == Some(other))
                    }
                    Act::Reacts(what) | Act::Reads(what) | Act::Deletes(what) => {
                        self.reach(*what) == For::One(other)
                    }
                    Act::Excludes(whom) | Act::Includes(whom) => *whom == other,
                    Act::Renames(_) => false,
                }
        };
        let mut plan = self.clone();
        // What answers something of theirs is for them, or refused.
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        for (number, step) in &self.steps {
            let answers_gone =
                matches!(&step.act, Act::Says { answers: Some(answered), .. } if gone.contains(answered));
            if is_theirs(step) || answers_gone {
                gone.insert(*number);
            }
        }
        // Whoever of the staff reads what the other has written has read what stands before it.
        for (number, step) in &mut plan.steps {
            if let Act::Reads(what) = &mut step.act
                && is_staff(step.by)
                && gone.contains(what)
                && let Some(before) = self.before(*what, *number, step.by, &gone)
            {
                *what = before;
                gone.remove(number);
            }
        }
        plan.steps.retain(|(number, _)| !gone.contains(number));
        for (_, step) in &mut plan.steps {
            step.seen_by.remove(&other);
        }
        plan.patients.retain(|patient| *patient != other);
        plan.first.remove(&other);
        plan
    }

    /// The last message before another in the hub that somebody else has written and that is there when it is read, of those that
    /// stay.
    fn before(
        &self,
        number: usize,
        read_at: usize,
        reader: usize,
        without: &BTreeSet<usize>,
    ) -> Option<usize> {
        let is_deleted = |message: usize| {
            let earlier = self.steps.iter().filter(|(step, _)| *step < read_at);
            earlier.clone().any(|(_, step)| matches!(step.act, Act::Deletes(what) if what == message))
        };
        let stays = self.steps.iter().rev().filter(|(other, step)| {
            *other < number
                && step.by != reader
                && matches!(&step.act, Act::Says { reaches, .. } if *reaches != For::Nobody)
                && !without.contains(other)
                && !is_deleted(*other)
        });
        stays.map(|(other, _)| *other).next()
    }

    /// The same with other words, names and reactions of the other patient's, and other words to them alone. They read, react and
    /// edit less; and somebody else is in their place, if there is anybody left.
    pub fn with_the_other_changed(&self) -> Self {
        let mut rng = StdRng::seed_from_u64(!self.seed);
        let mut plan = self.clone();
        plan.name = token(&mut rng);
        plan.reaction_of_the_other = ANOTHER_REACTION;
        plan.steps.retain(|(_, step)| {
            let left_out = match step.act {
                Act::Reads(_) | Act::Reacts(_) => 0.5,
                Act::Edits { .. } => 0.1,
                _ => 0.0,
            };
            !(step.by == self.other && rng.random_bool(left_out))
        });
        for (number, step) in &mut plan.steps {
            let is_theirs = step.by == self.other || self.reach(*number) == For::One(self.other);
            let fresh = token(&mut rng);
            match &mut step.act {
                Act::Says { words, file, .. } if is_theirs => {
                    *words = fresh;
                    file.iter_mut().for_each(|file| *file.word() = token(&mut rng));
                }
                Act::Edits { what, words, .. }
                    if step.by == self.other || self.reach(*what) == For::One(self.other) =>
                {
                    *words = fresh;
                }
                Act::Renames(name) if step.by == self.other => *name = fresh,
                _ => {}
            }
        }
        if let Some(instead) = (STAFF..STAFF + PATIENTS).find(|patient| !self.patients.contains(patient)) {
            plan.puts_in_the_others_place(instead);
        }
        plan
    }

    fn puts_in_the_others_place(&mut self, instead: usize) {
        let other = self.other;
        let put = |place: &mut usize| *place = if *place == other { instead } else { *place };
        let put_all = |places: &mut BTreeSet<usize>| {
            if places.remove(&other) {
                places.insert(instead);
            }
        };
        put(&mut self.other);
        self.patients.iter_mut().for_each(put);
        put_all(&mut self.first);
        for (_, step) in &mut self.steps {
            put(&mut step.by);
            put_all(&mut step.seen_by);
            match &mut step.act {
                Act::Says { mentions, reaches, .. } => {
                    mentions.iter_mut().for_each(put);
                    if let For::One(patient) = reaches {
                        put(patient);
                    }
                }
                Act::Edits { mentions, .. } => mentions.iter_mut().for_each(put),
                Act::Excludes(whom) | Act::Includes(whom) => put(whom),
                Act::Reacts(_) | Act::Reads(_) | Act::Deletes(_) | Act::Renames(_) => {}
            }
        }
    }
}
