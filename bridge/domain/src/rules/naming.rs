//! Names: whether what staff write to everybody names one of the patients (S17).

use crate::Person;

/// What a message says, and of whom.
#[derive(Clone, Copy)]
pub struct NamingFacts<'a> {
    /// Its texts, plain and formatted.
    pub texts: &'a [&'a str],
    /// The accounts that it mentions (`m.mentions`).
    pub mentions: &'a [&'a str],
    /// Who takes part.
    pub people: &'a [&'a Person],
    /// How the localparts of ghosts begin, the bot's too.
    pub namespace: &'a str,
    /// The bot's localpart.
    pub bot: &'a str,
}

/// Whether a message names a patient: by a mention or a pill, of their ghost or their own account, or by their full
/// name. A name of one word may well be an ordinary word, and one that staff here share may well mean them.
#[must_use]
pub fn names_a_patient(facts: &NamingFacts<'_>) -> bool {
    let (staff, patients): (Vec<&Person>, Vec<&Person>) =
        facts.people.iter().partition(|person| person.role.is_staff());
    // In a hub, whoever of the namespace is not the bot is a patient's ghost.
    let is_account = |text: &str| {
        text.replace(facts.bot, "").contains(facts.namespace)
            || patients.iter().any(|patient| text.contains(patient.user_id.localpart()))
    };
    let staff_names: Vec<_> = staff.iter().map(|person| words_of(person.name.as_str())).collect();
    let names: Vec<_> = patients
        .iter()
        .map(|patient| words_of(patient.name.as_str()))
        .filter(|name| name.len() > 1 && !staff_names.iter().any(|staff| has_run(staff, name)))
        .collect();
    facts.mentions.iter().any(|user_id| is_account(user_id))
        || facts.texts.iter().any(|text| {
            // What formats a text may stand between the words of a name.
            let (words, unformatted) = (words_of(text), words_of(&without_tags(text)));
            is_account(text) || names.iter().any(|name| has_run(&words, name) || has_run(&unformatted, name))
        })
}

/// A text's words, in lower case, without what stands between them.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// A text without what stands between `<` and `>`.
fn without_tags(text: &str) -> String {
    text.split('<')
        .map(|part| part.split_once('>').map_or(part, |(_, after)| after))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether some words stand in a text one after the other.
fn has_run(words: &[String], run: &[String]) -> bool {
    words.windows(run.len()).any(|window| window == run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PersonId, Role};

    #[test]
    fn a_patient_is_named_by_mention_by_pill_by_account_and_by_full_name() {
        let person = |n: u8, name: &str, role| Person {
            id: PersonId::from_bytes([n; 16]),
            user_id: ruma::UserId::parse(format!("@u{n}:x")).expect("a user id"),
            role,
            name: name.parse().expect("a name"),
            record_number: None,
        };
        let people = [
            person(1, "Kim Brady", Role::Staff),
            person(2, "Ann Byrne", Role::Patient),
            person(3, "May", Role::Patient),
            person(4, "Ian May", Role::Patient),
            person(5, "Kim Brady", Role::Patient),
        ];
        let pill = r#"<a href="https://matrix.to/#/%40_parlour_0a1b:x">Ann</a>"#;
        let none: &[&str] = &[];
        for (name, texts, mentions, wanted) in [
            ("nobody", &["Good morning"][..], none, false),
            ("staff", &["Kim Brady is in"], &["@u1:x"], false),
            ("the bot", &["@_parlour_bot:x said so"], none, false),
            ("a mention", &["you"], &["@_parlour_0a1b:x"], true),
            ("a mention of her own account", &[""], &["@u2:x"], true),
            ("a pill", &["Ann", pill], none, true),
            ("an account", &["ask @_parlour_0a1b:x"], none, true),
            ("her own account", &["ask @u2:x"], none, true),
            ("a full name", &["ANN BYRNE, please call"], none, true),
            ("a name, half of it bold", &["Ann <strong>Byrne</strong>"], none, true),
            ("a name over two lines", &["Ann\n Byrne"], none, true),
            ("an ordinary word", &["you may come"], none, false),
            ("ordinary words", &["your physician may call"], none, false),
            ("a name that staff share", &["Dr Kim Brady is away"], none, false),
        ] {
            let people: Vec<_> = people.iter().collect();
            let facts =
                NamingFacts { texts, mentions, people: &people, namespace: "_parlour_", bot: "_parlour_bot" };
            assert_eq!(names_a_patient(&facts), wanted, "{name}");
        }
    }
}
