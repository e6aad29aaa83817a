//! What machines have read, for as long as nothing of it changes: people's devices and identities, which are looked at each
//! time that a message is encrypted; and of what there was nothing, which is asked for one by one where a machine meets many
//! people for the first time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many answers are remembered, some kilobytes each at most; of more, all are forgotten.
const MOST: usize = 8192;

/// Rows as they were read: name and sealed value.
pub(super) type Rows = Arc<Vec<(String, Vec<u8>)>>;

/// What all machines of a store have read.
#[derive(Clone, Default)]
pub(in crate::store) struct Remembered(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    of: HashMap<String, OfMachine>,
    answers: usize,
}

#[derive(Default)]
struct OfMachine {
    answers: HashMap<String, Rows>,
    /// How often something has changed.
    changes: u64,
}

/// What a save changes of it.
pub(super) enum Change {
    /// The answer to a question.
    Answer(String),
    /// Any.
    All,
}

impl Remembered {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a machine has read for this question; or how often something has changed, to be said with the answer.
    pub(super) fn get(&self, machine: &str, question: &str) -> Result<Rows, u64> {
        let memory = self.memory();
        let Some(of) = memory.of.get(machine) else { return Err(0) };
        of.answers.get(question).cloned().ok_or(of.changes)
    }

    /// Those of these questions, each with its word, that a machine knows no answer to, and how often something has changed.
    pub(super) fn unanswered(
        &self,
        machine: &str,
        questions: impl Iterator<Item = (String, String)>,
    ) -> (Vec<(String, String)>, u64) {
        let memory = self.memory();
        let of = memory.of.get(machine);
        let is_known = |question: &str| of.is_some_and(|of| of.answers.contains_key(question));
        let unknown = questions.filter(|(question, _)| !is_known(question)).collect();
        (unknown, of.map_or(0, |of| of.changes))
    }

    /// What a machine has read, unless something has changed since it was asked.
    pub(super) fn keep(
        &self,
        machine: &str,
        asked_at: u64,
        answers: impl IntoIterator<Item = (String, Rows)>,
    ) {
        let mut memory = self.memory();
        let memory = &mut *memory;
        for (question, rows) in answers {
            if memory.answers >= MOST {
                memory.of.values_mut().for_each(|of| of.answers.clear());
                memory.answers = 0;
            }
            let of = memory.of.entry(machine.to_owned()).or_default();
            if of.changes != asked_at {
                return;
            }
            if of.answers.insert(question, rows).is_none() {
                memory.answers += 1;
            }
        }
    }

    /// Something of a machine's changes: what was read of it does not count any more.
    pub(super) fn changes(&self, machine: &str, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let mut memory = self.memory();
        let memory = &mut *memory;
        let of = memory.of.entry(machine.to_owned()).or_default();
        of.changes += 1;
        for change in changes {
            let before = of.answers.len();
            match change {
                Change::Answer(question) => drop(of.answers.remove(question)),
                Change::All => of.answers.clear(),
            }
            memory.answers -= before - of.answers.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(value: u8) -> Rows {
        Arc::new(vec![(String::new(), vec![value])])
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let read = Remembered::default();
        let kept = |question: &str, asked_at| read.keep("m", asked_at, [(question.to_owned(), rows(1))]);
        let asked_at = read.get("m", "a").expect_err("nothing yet");
        read.changes("m", &[Change::Answer("b".to_owned())]);
        kept("a", asked_at);
        let asked_at = read.get("m", "a").expect_err("it was read before the change");
        kept("a", asked_at);
        kept("b", asked_at);
        assert_eq!(read.get("m", "a"), Ok(rows(1)));
        read.changes("m", &[Change::Answer("a".to_owned())]);
        assert!(read.get("m", "a").is_err());
        assert_eq!(read.get("m", "b"), Ok(rows(1)));
        read.changes("m", &[Change::All]);
        assert!(read.get("m", "b").is_err());
        assert_eq!(read.memory().answers, 0);
    }

    #[test]
    fn a_change_of_one_machine_is_none_of_another() {
        let read = Remembered::default();
        for machine in ["m", "n"] {
            read.keep(machine, 0, [("a".to_owned(), rows(1))]);
        }
        read.changes("m", &[Change::All]);
        assert_eq!(read.get("n", "a"), Ok(rows(1)));
        read.keep("n", 0, [("b".to_owned(), rows(2))]);
        assert_eq!(read.get("n", "b"), Ok(rows(2)));
        assert!(read.get("m", "b").is_err());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let read = Remembered::default();
        for n in 0..=MOST {
            read.keep("m", 0, [(n.to_string(), rows(1))]);
        }
        let memory = read.memory();
        assert_eq!((memory.answers, memory.of["m"].answers.len()), (1, 1));
    }
}
