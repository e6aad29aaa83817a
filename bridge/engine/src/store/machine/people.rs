//! What machines have read of people's devices and identities, for as long as nothing of it changes: each time that a
//! message is encrypted, those of all its readers are looked at.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many answers are remembered, some kilobytes each; of more, all are forgotten.
const MOST: usize = 4096;

/// Rows as they were read: name and sealed value.
pub(super) type Rows = Arc<Vec<(String, Vec<u8>)>>;

/// What all machines of a store have read.
#[derive(Clone, Default)]
pub(in crate::store) struct PeopleRead(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    answers: HashMap<String, Rows>,
    /// How often something has changed.
    changes: u64,
}

impl PeopleRead {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read for this question; or how often something has changed, to be said with the answer.
    pub(super) fn get(&self, question: &str) -> Result<Rows, u64> {
        let memory = self.memory();
        memory.answers.get(question).cloned().ok_or(memory.changes)
    }

    /// What was read, unless something has changed since it was asked.
    pub(super) fn keep(&self, question: String, asked_at: u64, rows: &Rows) {
        let mut memory = self.memory();
        if memory.changes == asked_at {
            if memory.answers.len() >= MOST {
                memory.answers.clear();
            }
            memory.answers.insert(question, Arc::clone(rows));
        }
    }

    /// Something changes: nothing that was read counts any more.
    pub(super) fn changes(&self) {
        let mut memory = self.memory();
        memory.answers.clear();
        memory.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let read = PeopleRead::default();
        let rows: Rows = Arc::new(vec![(String::new(), vec![1])]);
        let asked_at = read.get("a").expect_err("nothing yet");
        read.changes();
        read.keep("a".to_owned(), asked_at, &rows);
        let asked_at = read.get("a").expect_err("it was read before the change");
        read.keep("a".to_owned(), asked_at, &rows);
        assert_eq!(read.get("a"), Ok(rows));
        read.changes();
        assert!(read.get("a").is_err());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let read = PeopleRead::default();
        for n in 0..=MOST {
            read.keep(n.to_string(), 0, &Rows::default());
        }
        assert_eq!(read.memory().answers.len(), 1);
    }
}
