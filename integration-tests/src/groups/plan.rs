//! What happens in a case, made from its seed alone: who is in the group, and what each of them does.

mod kind;
mod otherwise;

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

pub use self::kind::Kind;
use self::kind::WEIGHTS;

/// The people of a world: so many of the staff, then so many patients. The first of the staff owns every group.
pub const STAFF: usize = 2;
/// Of them, in each group at least two, and one is in none.
pub const PATIENTS: usize = 5;
/// A group has at most so many of them.
const MOST: usize = PATIENTS - 1;
/// The owner of every group.
pub const OWNER: usize = 0;
/// How everybody reacts.
pub const REACTION: &str = "👍";
/// So many things happen in a case.
const STEPS: usize = 7;

/// Whom words are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// All patients.
    All,
    /// One of them, who wrote them or whom they answer.
    One(usize),
    /// Nobody: they are refused.
    Nobody,
}

/// A file.
#[derive(Clone, Debug)]
pub enum File {
    /// A letter, with a word in it that stands nowhere else.
    Letter(String),
    /// A picture, with a word behind its pixels that stands nowhere else, and that nobody else is ever shown.
    Picture(String),
}

impl File {
    /// The word.
    pub fn word(&mut self) -> &mut String {
        let (Self::Letter(word) | Self::Picture(word)) = self;
        word
    }
}

/// What somebody does. Messages are named by the step that said them.
#[derive(Clone, Debug)]
pub enum Act {
    /// A message.
    Says {
        /// A word that stands nowhere else.
        words: String,
        /// The file that it is the caption of.
        file: Option<File>,
        /// The message that it answers, with what an older client quotes of it.
        answers: Option<usize>,
        /// A patient whose ghost it mentions as clients do: by `m.mentions`, by a link, and by its name.
        mentions: Option<usize>,
        /// Whom it is for.
        reaches: For,
    },
    /// A reaction.
    Reacts(usize),
    /// A receipt.
    Reads(usize),
    /// Other words for one's own message.
    Edits {
        /// Which.
        what: usize,
        /// A word that stands nowhere else.
        words: String,
        /// A patient whose ghost they mention.
        mentions: Option<usize>,
    },
    /// One's own message is taken back.
    Deletes(usize),
    /// Another name, which stands nowhere else.
    Renames(String),
    /// The owner excludes a patient.
    Excludes(usize),
    /// The owner includes a patient.
    Includes(usize),
}

/// A thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who does it.
    pub by: usize,
    /// What.
    pub act: Act,
    /// Who sees the message, the other words, or the reaction.
    seen_by: BTreeSet<usize>,
    /// Whether a message is deleted in the end.
    gone: bool,
    /// Whether it goes no further than the room where it is done.
    refused: bool,
}

impl Step {
    fn of(by: usize, act: Act) -> Self {
        Self { by, act, seen_by: BTreeSet::new(), gone: false, refused: false }
    }
}

/// A case.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is made from.
    pub seed: u64,
    /// The staff's name for the conversation, a word that stands nowhere else.
    pub name: String,
    /// The patients who are in the group, or come into it.
    pub patients: Vec<usize>,
    /// Those who are there from the beginning.
    pub first: BTreeSet<usize>,
    /// The one whose view is looked at; there from the beginning, or later.
    pub watched: usize,
    /// The one without whom it happens again.
    pub other: usize,
    /// How that one reacts.
    pub reaction_of_the_other: &'static str,
    /// What happens, each with its number, which others name it by.
    pub steps: Vec<(usize, Step)>,
}

/// A word of 16 characters that stands nowhere else.
fn token(rng: &mut StdRng) -> String {
    const LETTERS: &[u8] = b"abcdefghijkmnopqrstuvwxyz23456789";
    (0..16).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

/// Whether somebody is of the staff.
pub fn is_staff(person: usize) -> bool {
    person < STAFF
}

/// Whether somebody who is mentioned is a stranger where that goes, so that it is refused (LANE-3, LANE-6).
fn is_stranger(reaches: For, mentioned: Option<usize>) -> bool {
    mentioned.is_some_and(|mentioned| reaches != For::One(mentioned))
}

impl Plan {
    /// The case of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let all: Vec<usize> = (STAFF..STAFF + PATIENTS).collect();
        let count = rng.random_range(2..=MOST);
        let mut patients: Vec<usize> = all.choose_multiple(&mut rng, count).copied().collect();
        let (watched, other) = (patients[0], patients[1]);
        patients.sort_unstable();
        // There are two of them from the beginning, also without the other: with one alone, other rules hold. Two stay
        // two; that happens without the other not at all.
        let may_be_late = |p: usize| count > 3 || (count > 2 && p == other);
        let late = patients.iter().copied().find(|p| may_be_late(*p) && rng.random_bool(0.15));
        let mut plan = Self {
            seed,
            name: token(&mut rng),
            first: patients.iter().copied().filter(|p| Some(*p) != late).collect(),
            patients,
            watched,
            other,
            reaction_of_the_other: REACTION,
            steps: Vec::new(),
        };
        let mut present = plan.first.clone();
        while plan.steps.len() < STEPS {
            if let Some(step) = plan.step(&mut rng, &mut present) {
                plan.steps.push((plan.steps.len(), step));
            }
        }
        let was_there = |step: &Step| matches!(step.act, Act::Includes(whom) if whom == watched);
        if late == Some(watched) && !plan.steps.iter().any(|(_, step)| was_there(step)) {
            plan.steps.push((plan.steps.len(), Step::of(OWNER, Act::Includes(watched))));
        }
        plan
    }

    /// Each patient writes once, and each of the staff.
    pub fn everybody_writes() -> Self {
        let mut rng = StdRng::seed_from_u64(0);
        let patients: Vec<usize> = (STAFF..STAFF + PATIENTS).collect();
        let mut plan = Self {
            seed: 0,
            name: token(&mut rng),
            first: patients.iter().copied().collect(),
            watched: patients[0],
            other: patients[1],
            reaction_of_the_other: REACTION,
            patients,
            steps: Vec::new(),
        };
        let present = plan.first.clone();
        for by in 0..STAFF + PATIENTS {
            let said = plan.says(&mut rng, &present, by, None, None);
            plan.steps.extend(said.map(|said| (by, said)));
        }
        plan
    }

    /// The next thing that can happen, if chance has met one.
    fn step(&mut self, rng: &mut StdRng, present: &mut BTreeSet<usize>) -> Option<Step> {
        let kind = WEIGHTS.choose_weighted(rng, |(_, weight)| *weight).ok()?.0;
        let writers: Vec<usize> = (0..STAFF).chain(present.iter().copied()).collect();
        let (staff, patient) =
            (rng.random_range(0..STAFF), *present.iter().collect::<Vec<_>>().choose(rng).copied()?);
        let anybody = *writers.choose(rng)?;
        let step = |by, act| Some(Step::of(by, act));
        let is_there = |whom: &usize| is_staff(*whom) || present.contains(whom);
        // What staff do about a message to somebody who is not there goes no further.
        let is_to_nobody = |plan: &Self, what: usize| matches!(plan.reach(what), For::One(patient) if is_staff(anybody) && !present.contains(&patient));
        match kind {
            Kind::StaffMessage => self.says(rng, present, staff, None, None),
            Kind::PatientMessage => self.says(rng, present, patient, None, None),
            Kind::Letter | Kind::Picture => {
                let answered = match rng.random_bool(0.3) {
                    true => Some(self.visible(rng, anybody, |_, _| true)?),
                    false => None,
                };
                let mut said = self.says(rng, present, anybody, answered, None)?;
                if let Act::Says { file, .. } = &mut said.act {
                    let word = token(rng);
                    *file = Some(if kind == Kind::Letter { File::Letter(word) } else { File::Picture(word) });
                }
                Some(said)
            }
            Kind::Reply => {
                let answered = self.visible(rng, anybody, |_, _| true)?;
                self.says(rng, present, anybody, Some(answered), None)
            }
            Kind::Mention => {
                // In an answer to one of them, as a rule: to all, such words are refused.
                let is_for_one = |step: &Step| matches!(&step.act, Act::Says { reaches: For::One(patient), .. } if present.contains(patient));
                let answered = match rng.random_bool(0.9) {
                    true => Some(self.visible(rng, staff, |_, step| is_for_one(step))?),
                    false => None,
                };
                let mentioned = self.mentioned(rng, answered.map(|answered| self.reach(answered)))?;
                self.says(rng, present, staff, answered, Some(mentioned))
            }
            Kind::Name => step(anybody, Act::Renames(token(rng))),
            Kind::Reaction => {
                let to = self.visible(rng, anybody, |_, _| true)?;
                // Nobody reacts in the same way twice (Matrix v1.19 client-server §Annotations).
                let has_reacted =
                    |step: &Step| step.by == anybody && matches!(step.act, Act::Reacts(what) if what == to);
                if self.steps.iter().any(|(_, step)| has_reacted(step)) {
                    return None;
                }
                let refused = is_to_nobody(self, to);
                let hears = |whom: &usize| match is_staff(anybody) {
                    true => is_staff(*whom) || (!refused && is_there(whom)),
                    // A patient's is for staff alone.
                    false => is_staff(*whom) || *whom == anybody,
                };
                let seen_by = self.step_of(to).seen_by.iter().copied().filter(hears).collect();
                Some(Step { seen_by, refused, ..Step::of(anybody, Act::Reacts(to)) })
            }
            Kind::Receipt => {
                let other_side = |by: usize, _: &Step| is_staff(by) != is_staff(anybody);
                step(anybody, Act::Reads(self.visible(rng, anybody, other_side)?))
            }
            Kind::Edit => {
                let is_file = |step: &Step| matches!(step.act, Act::Says { file: Some(_), .. });
                let edited = self.visible(rng, anybody, |by, step| by == anybody && !is_file(step))?;
                let reaches = self.reach(edited);
                let may_mention = is_staff(anybody) && (reaches != For::All || rng.random_bool(0.1));
                let mentions = self.mentioned(rng, Some(reaches)).filter(|_| may_mention);
                let refused = is_to_nobody(self, edited) || is_stranger(reaches, mentions);
                // Other words reach those who have the message and are there.
                let hears = |whom: &usize| is_staff(*whom) || (!refused && is_there(whom));
                let seen_by = self.step_of(edited).seen_by.iter().copied().filter(hears).collect();
                let act = Act::Edits { what: edited, words: token(rng), mentions };
                Some(Step { seen_by, refused, ..Step::of(anybody, act) })
            }
            Kind::Deletion => {
                let deleted = self.visible(rng, anybody, |by, _| by == anybody)?;
                self.steps[deleted].1.gone = true;
                step(anybody, Act::Deletes(deleted))
            }
            Kind::Participant => {
                let whom = *self.patients.choose(rng)?;
                // As in the beginning, there are always two without the other; of two, always one.
                let stay = |whom: usize| {
                    let without = |p: &&usize| **p != whom && (**p != self.other || self.patients.len() == 2);
                    present.iter().filter(without).count()
                };
                let fewest = if self.patients.len() == 2 { 1 } else { 2 };
                match present.contains(&whom) {
                    true if stay(whom) < fewest => None,
                    true => {
                        present.remove(&whom);
                        step(OWNER, Act::Excludes(whom))
                    }
                    false => {
                        present.insert(whom);
                        step(OWNER, Act::Includes(whom))
                    }
                }
            }
        }
    }

    /// Whom staff mention in what reaches somebody: them, as a rule.
    fn mentioned(&self, rng: &mut StdRng, reaches: Option<For>) -> Option<usize> {
        match reaches {
            Some(For::One(patient)) if rng.random_bool(0.8) => Some(patient),
            _ => self.patients.choose(rng).copied(),
        }
    }

    /// A message that somebody sees and that is still there.
    fn visible(&self, rng: &mut StdRng, whom: usize, fits: impl Fn(usize, &Step) -> bool) -> Option<usize> {
        let seen = self
            .steps
            .iter()
            .filter(|(_, step)| matches!(step.act, Act::Says { .. }) && !step.gone)
            .filter(|(_, step)| step.seen_by.contains(&whom) && fits(step.by, step));
        seen.map(|(number, _)| *number).collect::<Vec<_>>().choose(rng).copied()
    }

    fn says(
        &self,
        rng: &mut StdRng,
        present: &BTreeSet<usize>,
        by: usize,
        answers: Option<usize>,
        mentions: Option<usize>,
    ) -> Option<Step> {
        let answered = answers.map(|number| self.reach(number));
        let reaches = match answered {
            _ if !is_staff(by) => For::One(by),
            Some(For::One(patient)) if !present.contains(&patient) => For::Nobody,
            Some(For::One(_)) if is_stranger(answered?, mentions) => For::Nobody,
            Some(For::One(patient)) => For::One(patient),
            Some(For::Nobody) => return None,
            // LANE-3
            Some(For::All) | None if mentions.is_some() => For::Nobody,
            // What goes to one because nobody else is there just then stays theirs.
            Some(For::All) | None => match present.iter().collect::<Vec<_>>()[..] {
                [only] => For::One(*only),
                _ => For::All,
            },
        };
        let mut seen_by: BTreeSet<usize> = match reaches {
            For::All => (0..STAFF).chain(present.iter().copied()).collect(),
            For::One(patient) => (0..STAFF).chain([patient]).collect(),
            For::Nobody => BTreeSet::new(),
        };
        seen_by.insert(by);
        if reaches == For::Nobody {
            seen_by.clear();
        }
        let act = Act::Says { words: token(rng), file: None, answers, mentions, reaches };
        Some(Step { seen_by, refused: reaches == For::Nobody, ..Step::of(by, act) })
    }

    fn step_of(&self, number: usize) -> &Step {
        let found = self.steps.iter().find(|(known, _)| *known == number);
        &found.expect("a step").1
    }

    /// Whom the message of a step is for.
    pub fn reach(&self, number: usize) -> For {
        match &self.step_of(number).act {
            Act::Says { reaches, .. } => *reaches,
            _ => For::Nobody,
        }
    }

    /// The words of a step.
    pub fn words(&self, number: usize) -> &str {
        match &self.step_of(number).act {
            Act::Says { words, .. } => words,
            _ => "",
        }
    }

    /// The messages that are still there in the end.
    pub fn messages(&self) -> Vec<usize> {
        let there = self.steps.iter().filter(|(_, step)| !step.gone && matches!(step.act, Act::Says { .. }));
        there.map(|(number, _)| *number).collect()
    }

    /// The other words, of messages that are still there in the end, each with who sees them.
    pub fn edits(&self) -> Vec<(&str, &BTreeSet<usize>)> {
        let edits = self.steps.iter().filter_map(|(_, step)| match &step.act {
            Act::Edits { what, words, .. } if !self.step_of(*what).gone => {
                Some((words.as_str(), &step.seen_by))
            }
            _ => None,
        });
        edits.collect()
    }

    /// The reactions that somebody sees, to messages that are still there in the end: whose, and to which.
    pub fn reactions_for(&self, whom: usize) -> Vec<(usize, usize)> {
        let reactions = self.steps.iter().filter(|(_, step)| step.seen_by.contains(&whom));
        let reactions = reactions.filter_map(|(_, step)| match step.act {
            Act::Reacts(what) if !self.step_of(what).gone => Some((step.by, what)),
            _ => None,
        });
        reactions.collect()
    }

    /// The messages that are deleted in the end.
    pub fn deleted(&self) -> Vec<usize> {
        let deleted = self.steps.iter().filter_map(|(_, step)| match step.act {
            Act::Deletes(what) => Some(what),
            _ => None,
        });
        deleted.collect()
    }

    /// Whether somebody sees the message of a step.
    pub fn is_seen_by(&self, number: usize, whom: usize) -> bool {
        self.step_of(number).seen_by.contains(&whom)
    }

    /// The kinds of all that happens: an answer that mentions somebody is a message, an answer and a mention. What is refused
    /// does not count.
    pub fn kinds(&self) -> Vec<Kind> {
        let kinds =
            self.steps.iter().filter(|(_, step)| !step.refused).flat_map(|(_, step)| match &step.act {
                Act::Says { file, answers, mentions, .. } => {
                    let said = if is_staff(step.by) { Kind::StaffMessage } else { Kind::PatientMessage };
                    let (reply, mention) = (answers.map(|_| Kind::Reply), mentions.map(|_| Kind::Mention));
                    let file = file.as_ref().map(|file| match file {
                        File::Letter(_) => Kind::Letter,
                        File::Picture(_) => Kind::Picture,
                    });
                    [Some(said), file, reply, mention].into_iter().flatten().collect()
                }
                Act::Reacts(_) => vec![Kind::Reaction],
                Act::Reads(_) => vec![Kind::Receipt],
                Act::Edits { mentions: Some(_), .. } => vec![Kind::Edit, Kind::Mention],
                Act::Edits { .. } => vec![Kind::Edit],
                Act::Deletes(_) => vec![Kind::Deletion],
                Act::Renames(_) => vec![Kind::Name],
                Act::Excludes(_) | Act::Includes(_) => vec![Kind::Participant],
            });
        kinds.collect()
    }

    /// Whether what somebody does is not for the watched one: also what was said to all while they were not there.
    fn is_hidden(&self, step: &Step) -> bool {
        step.by != self.watched && !step.seen_by.contains(&self.watched)
    }

    /// Whether the file of a step is not for the watched one, as it was put on the homeserver: of somebody else's picture they
    /// get what is left of it.
    pub fn is_file_of_others(&self, number: usize) -> bool {
        let step = self.step_of(number);
        let is_picture = matches!(step.act, Act::Says { file: Some(File::Picture(_)), .. });
        self.is_hidden(step) || (is_picture && step.by != self.watched)
    }

    /// Everything of others that the watched one must not learn, of what was made for this case.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![self.name.clone()];
        for (_, step) in &self.steps {
            let is_hidden = self.is_hidden(step);
            match &step.act {
                Act::Says { file: Some(File::Picture(word)), .. }
                    if !is_hidden && step.by != self.watched =>
                {
                    secrets.push(word.clone());
                }
                Act::Says { words, file, .. } if is_hidden => {
                    let word = file.clone().map(|mut file| std::mem::take(file.word()));
                    secrets.extend([words.clone()].into_iter().chain(word));
                }
                Act::Edits { words, .. } if is_hidden => secrets.push(words.clone()),
                Act::Renames(name) if step.by != self.watched => secrets.push(name.clone()),
                _ => {}
            }
        }
        secrets
    }
}
