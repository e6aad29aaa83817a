//! Names: whether what staff write to patients names one whom they must not learn of (S17).

use super::Lane;
use crate::{Person, PersonId, Refusal};

/// What a staff message says, and of whom.
#[derive(Clone, Copy)]
pub struct NamingFacts<'a> {
    /// Its texts, plain and formatted, without what they quote.
    pub texts: &'a [&'a str],
    /// The accounts that it mentions (`m.mentions`).
    pub mentions: &'a [&'a str],
    /// Who takes part, or has taken part.
    pub people: &'a [&'a Person],
    /// The localpart of the ghost of the patient whom it is for, where it is for one.
    pub their_ghost: Option<&'a str>,
    /// How the localparts of ghosts begin, the bot's too.
    pub namespace: &'a str,
    /// The bot's localpart.
    pub bot: &'a str,
}

/// Whether a message may name whom it names, where it goes.
///
/// # Errors
/// [`Refusal::MentionsPatient`], [`Refusal::NamesAnother`].
pub fn may_name(lane: &Lane, facts: &NamingFacts<'_>) -> Result<(), Refusal> {
    // With one patient, or none, there is nobody to be kept from them.
    if facts.people.iter().filter(|person| !person.role.is_staff()).count() <= 1 {
        return Ok(());
    }
    match lane {
        // LANE-3: what goes to everybody names no patient.
        Lane::Everybody if names_a_patient(facts, None) => Err(Refusal::MentionsPatient),
        // LANE-6: what goes to one patient names no other.
        Lane::Only(patient) if names_a_patient(facts, Some(patient)) => Err(Refusal::NamesAnother),
        Lane::Everybody | Lane::Only(_) => Ok(()),
    }
}

/// Whether a message names a patient, another than this one: by a mention or a pill, of their ghost or their own account, or by
/// their full name. A name of one word may well be an ordinary word, and one that staff here share, or whom it is for, may well
/// mean them.
fn names_a_patient(facts: &NamingFacts<'_>, but: Option<&PersonId>) -> bool {
    let (known, patients): (Vec<&Person>, Vec<&Person>) =
        facts.people.iter().partition(|person| person.role.is_staff() || Some(&person.id) == but);
    let own = known.iter().filter(|person| !person.role.is_staff()).map(|person| person.user_id.localpart());
    // As they stand in a text, and in a link.
    let own = own.flat_map(|own| {
        [["@", ":"], ["%40", ":"], ["@", "%3A"], ["%40", "%3A"]].map(|[at, end]| format!("{at}{own}{end}"))
    });
    let ours = [Some(facts.bot), facts.their_ghost.filter(|_| but.is_some())].into_iter().flatten();
    let own: Vec<String> = ours.map(str::to_owned).chain(own).collect();
    // In a hub, whoever else is of the namespace is a patient's ghost.
    let is_account = |text: &str| {
        let text = own.iter().fold(text.to_owned(), |text, own| text.replace(own, ""));
        text.contains(facts.namespace)
            || patients.iter().any(|patient| text.contains(patient.user_id.localpart()))
    };
    let known_names: Vec<_> = known.iter().map(|person| words_of(person.name.as_str())).collect();
    let names: Vec<_> = patients
        .iter()
        .map(|patient| words_of(patient.name.as_str()))
        .filter(|name| name.len() > 1 && !known_names.iter().any(|known| has_run(known, name)))
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
        let (to_all, to_ann) = (Lane::Everybody, Lane::Only(people[1].id.clone()));
        let (no, nobody_else) = (Err(Refusal::MentionsPatient), Err(Refusal::NamesAnother));
        for (name, texts, mentions, wanted, to_her) in [
            ("nobody", &["Good morning"][..], none, Ok(()), Ok(())),
            ("staff", &["Kim Brady is in"], &["@u1:x"], Ok(()), Ok(())),
            ("the bot", &["@_parlour_bot:x said so"], none, Ok(()), Ok(())),
            ("a mention", &["you"], &["@_parlour_0a1b:x"], no, Ok(())),
            ("a mention of her own account", &[""], &["@u2:x"], no, Ok(())),
            ("a pill", &["Ann", pill], none, no, Ok(())),
            ("an account", &["ask @_parlour_0a1b:x"], none, no, Ok(())),
            ("her own account", &["ask @u2:x"], none, no, Ok(())),
            ("a full name", &["ANN BYRNE, please call"], none, no, Ok(())),
            ("a name, half of it bold", &["Ann <strong>Byrne</strong>"], none, no, Ok(())),
            ("a name over two lines", &["Ann\n Byrne"], none, no, Ok(())),
            ("another's full name", &["as for Ian May"], none, no, nobody_else),
            ("a mention of another", &["you"], &["@_parlour_2c3d:x"], no, nobody_else),
            ("a mention of another's own account", &[""], &["@u4:x"], no, nobody_else),
            ("another's ghost", &["ask @_parlour_2c3d:x, not @_parlour_0a1b:x"], none, no, nobody_else),
            ("another's, around her own", &["@@u2:u4:x"], none, no, nobody_else),
            ("an ordinary word", &["you may come"], none, Ok(()), Ok(())),
            ("ordinary words", &["your physician may call"], none, Ok(()), Ok(())),
            ("a name that staff share", &["Dr Kim Brady is away"], none, Ok(()), Ok(())),
            ("a name that she shares", &["Byrne Ann Byrne"], none, no, Ok(())),
        ] {
            let people: Vec<_> = people.iter().collect();
            let facts = NamingFacts {
                texts,
                mentions,
                people: &people,
                their_ghost: None,
                namespace: "_parlour_",
                bot: "_parlour_bot",
            };
            assert_eq!(may_name(&to_all, &facts), wanted, "{name}, to all");
            let facts = NamingFacts { their_ghost: Some("_parlour_0a1b"), ..facts };
            assert_eq!(may_name(&to_ann, &facts), to_her, "{name}, to Ann");
            let alone = NamingFacts { people: &people[..2], ..facts };
            assert_eq!(may_name(&to_all, &alone), Ok(()), "{name}, to who is alone");
        }
    }
}
