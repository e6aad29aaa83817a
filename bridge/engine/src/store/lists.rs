//! Lists in statements: of few lengths, so that the database has few statements to remember.

use std::fmt::Write as _;

const LENGTHS: [usize; 4] = [1, 8, 64, MOST];
/// How many words one list holds at most.
pub(super) const MOST: usize = 256;

fn length(words: usize) -> usize {
    LENGTHS.into_iter().find(|length| *length >= words).unwrap_or(MOST)
}

/// `before ($n, …) after` for so many words, the first of them bound as `$first`. They are bound as [`padded`] gives them.
pub(super) fn with_list(before: &str, first: usize, words: usize, after: &str) -> String {
    let length = length(words);
    let mut sql = String::with_capacity(before.len() + after.len() + 6 * length);
    sql.push_str(before);
    for place in first..first + length {
        let _ = write!(sql, "{}${place}", if place == first { " (" } else { ", " });
    }
    let _ = write!(sql, ") {after}");
    sql
}

/// The words, the last of them again and again until the list is as long as it must be.
pub(super) fn padded<T>(words: &[T]) -> impl Iterator<Item = &T> {
    let last = words.last().into_iter().cycle();
    words.iter().chain(last).take(if words.is_empty() { 0 } else { length(words.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_place_for_each_word() {
        for words in [1, 2, 8, 9, 64, 65, MOST] {
            let some: Vec<_> = (0..words).collect();
            let bound: Vec<_> = padded(&some).copied().collect();
            let sql = with_list("SELECT a WHERE b = $1 AND c IN", 2, words, "ORDER BY a");
            assert_eq!(sql.matches('$').count(), bound.len() + 1, "{sql}");
            assert!(sql.contains(&format!("${})", bound.len() + 1)), "{sql}");
            assert_eq!(bound[..words], some);
            assert!(bound[words..].iter().all(|word| *word == words - 1));
        }
        assert_eq!(padded::<usize>(&[]).count(), 0);
    }
}
