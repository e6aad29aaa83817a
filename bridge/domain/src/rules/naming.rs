//! Names: whether what staff write to patients names one whom they must not learn of (S17).

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

use super::Lane;
use crate::{Person, PersonId, Refusal};

/// What a staff message says, and of whom.
#[derive(Clone, Copy)]
pub struct NamingFacts<'a> {
    /// Its texts as they are to travel, plain and formatted, and the name of its file.
    pub texts: &'a [&'a str],
    /// Its formatted texts as they were written: pills stand there.
    pub links: &'a [&'a str],
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
    let is_account = |text: &str| {
        let text = text.to_lowercase();
        // In a hub, whoever else is of the namespace is a patient's ghost.
        let others = [Some(facts.bot), facts.their_ghost].into_iter().flatten();
        others.fold(text.clone(), |text, own| text.replace(own, "")).contains(facts.namespace)
            || patients.iter().any(|patient| has_account(&text, patient.user_id.localpart()))
    };
    let known_names: Vec<_> = known.iter().map(|person| Name::of(person.name.as_str())).collect();
    let names: Vec<_> = patients
        .iter()
        .map(|patient| Name::of(patient.name.as_str()))
        .filter(|name| name.words.len() > 1)
        .filter(|name| !known_names.iter().any(|known| has_run(&known.words, &name.words)))
        .collect();
    let is_named = |text: &str| names.iter().any(|name| name.stands_in(text));
    facts.mentions.iter().chain(facts.links).any(|text| is_account(text))
        // What formats a text may stand between the words of a name.
        || facts.texts.iter().any(|text| is_account(text) || is_named(text) || is_named(&without_tags(text)))
}

/// Whether an account of this localpart stands in a text in lower case: as it is, or as a link has it. The domain of an address for
/// mail is none.
fn has_account(text: &str, localpart: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    ["@", "%40"].iter().any(|at| {
        let account = format!("{at}{}", localpart.to_lowercase());
        text.match_indices(&account).any(|(from, found)| {
            let (before, behind) = (&text[..from], &text[from + found.len()..]);
            let is_domain = before.ends_with(goes_on) && behind.starts_with('.');
            !is_domain && !behind.starts_with(goes_on)
        })
    })
}

/// A name.
struct Name {
    words: Vec<String>,
    has_digits: bool,
}

impl Name {
    fn of(name: &str) -> Self {
        Self { words: words_of(name, char::is_alphanumeric), has_digits: name.contains(char::is_numeric) }
    }

    /// Whether it stands in a text; digits that touch it belong to it only where it has some itself.
    fn stands_in(&self, text: &str) -> bool {
        let is_of_words = if self.has_digits { char::is_alphanumeric } else { char::is_alphabetic };
        has_run(&words_of(text, is_of_words), &self.words)
    }
}

/// A text's words, in lower case and without accents, and without what stands between them.
fn words_of(text: &str, is_of_words: impl Fn(char) -> bool) -> Vec<String> {
    let text: String = text.replace("%20", " ").nfd().filter(|c| !is_combining_mark(*c)).collect();
    text.split(|c: char| !is_of_words(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// A text without what stands between `<` and `>`.
fn without_tags(text: &str) -> String {
    let parts = text.split('<').map(|part| part.split_once('>').map_or(part, |(_, after)| after));
    parts.collect::<Vec<_>>().join(" ").replace("&nbsp;", " ")
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
            user_id: ruma::UserId::parse(format!(
                "@{}:mays.ie",
                ["", "kim", "ann", "may", "ian", "kb", "sean"][usize::from(n)]
            ))
            .expect("a user id"),
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
            person(6, "Se\u{e1}n N\u{ed} Bhriain", Role::Patient),
        ];
        let pill = r#"<a href="https://matrix.to/#/%40_parlour_0a1b:mays.ie">Ann</a>"#;
        let none: &[&str] = &[];
        let (to_all, to_ann) = (Lane::Everybody, Lane::Only(people[1].id.clone()));
        let (no, nobody_else) = (Err(Refusal::MentionsPatient), Err(Refusal::NamesAnother));
        for (name, texts, mentions, wanted, to_her) in [
            ("nobody", &["Good morning"][..], none, Ok(()), Ok(())),
            ("staff", &["Kim Brady is in"], &["@kim:mays.ie"], Ok(()), Ok(())),
            ("the bot", &["@_parlour_bot:mays.ie said so"], none, Ok(()), Ok(())),
            ("a mention", &["you"], &["@_parlour_0a1b:mays.ie"], no, Ok(())),
            ("a mention of her own account", &[""], &["@ann:mays.ie"], no, Ok(())),
            ("a pill", &["Ann", pill], none, no, Ok(())),
            ("an account", &["ask @_parlour_0a1b:mays.ie"], none, no, Ok(())),
            ("her own account", &["ask @ann:mays.ie"], none, no, Ok(())),
            ("a full name", &["ANN BYRNE, please call"], none, no, Ok(())),
            ("a name, half of it bold", &["Ann <strong>Byrne</strong>"], none, no, Ok(())),
            ("a name over two lines", &["Ann\n Byrne"], none, no, Ok(())),
            ("another's full name", &["as for Ian May"], none, no, nobody_else),
            ("a mention of another", &["you"], &["@_parlour_2c3d:mays.ie"], no, nobody_else),
            ("a mention of another's own account", &[""], &["@ian:mays.ie"], no, nobody_else),
            (
                "another's ghost",
                &["ask @_parlour_2c3d:mays.ie, not @_parlour_0a1b:mays.ie"],
                none,
                no,
                nobody_else,
            ),
            (
                "another's own account, in a link",
                &["https://matrix.to/#/%40ian%3Amays.ie"],
                none,
                no,
                nobody_else,
            ),
            ("another's own account, without a server", &["ask @Ian, please"], none, no, nobody_else),
            ("another's own account, without a space", &["ask Dr@ian:mays.ie"], none, no, nobody_else),
            ("words that begin as accounts do", &["@annual may@may.example"], none, Ok(()), Ok(())),
            ("another's name in a link", &["Ian%20May2.pdf"], none, no, nobody_else),
            ("another's name, its space held", &["Ian&nbsp;<b>May</b>"], none, no, nobody_else),
            ("another's name without accents", &["SEAN NI BHRIAIN"], none, no, nobody_else),
            ("another's name, accents apart", &["Sea\u{301}n Ni\u{301} Bhriain"], none, no, nobody_else),
            ("an ordinary word", &["you may come"], none, Ok(()), Ok(())),
            ("ordinary words", &["your physician may call"], none, Ok(()), Ok(())),
            ("a name that staff share", &["Dr Kim Brady is away"], none, Ok(()), Ok(())),
            ("a name that she shares", &["Byrne Ann Byrne"], none, no, Ok(())),
        ] {
            let people: Vec<_> = people.iter().collect();
            let facts = NamingFacts {
                texts,
                links: &[],
                mentions,
                people: &people,
                their_ghost: None,
                namespace: "_parlour_",
                bot: "_parlour_bot",
            };
            assert_eq!(may_name(&to_all, &facts), wanted, "{name}, to all");
            let facts = NamingFacts { their_ghost: Some("_parlour_0a1b"), ..facts };
            assert_eq!(may_name(&to_ann, &facts), to_her, "{name}, to Ann");
            let linked = NamingFacts { texts: &[], links: &[pill], their_ghost: None, ..facts };
            assert_eq!(may_name(&to_all, &linked), no, "a pill whose text says nothing");
            let alone = NamingFacts { people: &people[..2], ..facts };
            assert_eq!(may_name(&to_all, &alone), Ok(()), "{name}, to who is alone");
        }
    }
}
