//! Lanes: whom a staff message reaches (design of a conversation with several patients, S17).

use std::collections::BTreeSet;

use crate::{PersonId, Refusal, Timestamp};

/// Whom an earlier message reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Staff wrote it to every patient.
    Everybody,
    /// A patient wrote it, or it went to this patient only.
    Only(PersonId),
    /// Nothing is known of it: a notice, a refused message, one from before.
    Unknown,
}

/// What a staff message says about its own place.
#[derive(Clone, Debug)]
pub struct LaneFacts {
    /// How many patients take part, or have taken part: each has a spoke.
    pub spokes: usize,
    /// Those of them who do not take part any more.
    pub gone: BTreeSet<PersonId>,
    /// The message it answers, if it truly answers one (a thread's `is_falling_back` reply does not).
    pub answers: Option<Reach>,
    /// The root of the thread that it stands in.
    pub thread: Option<Reach>,
    /// Whether it is words, and a file of its sender's waits for words that is for one patient only.
    pub file_waits_for_one: bool,
}

/// Whom a staff message is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Every patient of the conversation.
    Everybody,
    /// This patient only.
    Only(PersonId),
}

/// Whom a staff message reaches.
///
/// # Errors
/// [`Refusal::PatientGone`], [`Refusal::ThreadToEverybody`], [`Refusal::LaneUnknown`], [`Refusal::FileForOne`].
pub fn lane(facts: &LaneFacts) -> Result<Lane, Refusal> {
    // LANE-4: what answers a patient who does not take part any more reaches nobody, and goes to nobody else instead.
    let is_gone = |reach: &Reach| matches!(reach, Reach::Only(patient) if facts.gone.contains(patient));
    if [&facts.thread, &facts.answers].into_iter().flatten().any(is_gone) {
        return Err(Refusal::PatientGone);
    }
    // With one patient, or none, there is one lane.
    if facts.spokes <= 1 {
        return Ok(Lane::Everybody);
    }
    let lane = match (&facts.thread, &facts.answers) {
        // LANE-2: a target whose lane is unknown is refused, never sent to all.
        (Some(Reach::Unknown), _) | (_, Some(Reach::Unknown)) => return Err(Refusal::LaneUnknown),
        // A thread rooted in one patient's lane stays there, and nothing answers out of it.
        (Some(Reach::Only(root)), Some(Reach::Only(answered))) if root != answered => {
            return Err(Refusal::LaneUnknown);
        }
        (Some(Reach::Only(patient)), _) | (_, Some(Reach::Only(patient))) => Lane::Only(patient.clone()),
        // LANE-1: in a thread rooted in a message to all, what answers nobody is refused.
        (Some(Reach::Everybody), None) => return Err(Refusal::ThreadToEverybody),
        (_, Some(Reach::Everybody)) | (None, None) => Lane::Everybody,
    };
    // LANE-5: what is written next after a file for one patient may be about it, and must not reach the others.
    if (&facts.thread, &facts.answers) == (&None, &None) && facts.file_waits_for_one {
        return Err(Refusal::FileForOne);
    }
    Ok(lane)
}

/// A message, and a room that it may go into. A room is named by the patient whose it is; none is the hub.
#[derive(Clone, Copy, Debug)]
pub struct TargetFacts<'a> {
    /// The room that it was written in.
    pub from: Option<&'a PersonId>,
    /// When, by the homeserver's clock.
    pub written_at: Timestamp,
    /// The room that it may go into.
    pub to: Option<&'a PersonId>,
    /// Since when that patient takes part; none does not.
    pub since: Option<Timestamp>,
}

/// Whether a message goes into a room: from the hub into the spokes of its lane, from a spoke into the hub, and never from
/// spoke to spoke (S7).
#[must_use]
pub fn goes_into(facts: &TargetFacts<'_>, lane: &Lane) -> bool {
    match (facts.from, facts.to) {
        (None, Some(patient)) => {
            // JOIN-2, JOIN-3: what was written before a patient was included, or when they are gone, does not go to them.
            let takes_part = facts.since.is_some_and(|since| since <= facts.written_at);
            let is_in_lane = match lane {
                Lane::Everybody => true,
                Lane::Only(only) => only == patient,
            };
            takes_part && is_in_lane
        }
        (Some(_), None) => true,
        (None, None) | (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_from_spoke_to_spoke() {
        let [ann, ben] = [1, 2].map(|n| PersonId::from_bytes([n; 16]));
        let (all, to_ann) = (Lane::Everybody, Lane::Only(ann.clone()));
        let at = Timestamp::from_millis;
        for (name, from, to, since, lane, wanted) in [
            ("hub to all", None, Some(&ben), Some(at(5)), &all, true),
            ("hub to Ann", None, Some(&ann), Some(at(5)), &to_ann, true),
            ("hub to Ann, not Ben", None, Some(&ben), Some(at(5)), &to_ann, false),
            ("hub to who came just then", None, Some(&ben), Some(at(6)), &all, true),
            ("hub to who came later", None, Some(&ben), Some(at(7)), &all, false),
            ("hub to who is gone", None, Some(&ann), None, &to_ann, false),
            ("hub to itself", None, None, None, &all, false),
            ("Ann to the hub", Some(&ann), None, None, &all, true),
            ("Ann to Ben", Some(&ann), Some(&ben), Some(at(5)), &all, false),
            ("Ann to herself", Some(&ann), Some(&ann), Some(at(5)), &all, false),
        ] {
            let facts = TargetFacts { from, written_at: at(6), to, since };
            assert_eq!(goes_into(&facts, lane), wanted, "{name}");
        }
    }

    #[test]
    fn whom_a_staff_message_reaches() {
        let ann = PersonId::from_bytes([1; 16]);
        let ben = PersonId::from_bytes([2; 16]);
        let only = |p: &PersonId| Some(Reach::Only(p.clone()));
        let to_ann = Ok(Lane::Only(ann.clone()));
        let all = Some(Reach::Everybody);
        for (name, spokes, answers, thread, wanted) in [
            ("plain", 3, None, None, Ok(Lane::Everybody)),
            ("reply to a patient", 3, only(&ann), None, to_ann.clone()),
            ("reply to a message to all", 3, all.clone(), None, Ok(Lane::Everybody)),
            ("reply to a notice", 3, Some(Reach::Unknown), None, Err(Refusal::LaneUnknown)),
            ("in a patient's thread", 3, None, only(&ann), to_ann.clone()),
            ("reply within it", 3, only(&ann), only(&ann), to_ann.clone()),
            ("reply out of it", 3, only(&ben), only(&ann), Err(Refusal::LaneUnknown)),
            ("reply to all within it", 3, all.clone(), only(&ann), to_ann.clone()),
            ("in a thread to all", 3, None, all.clone(), Err(Refusal::ThreadToEverybody)),
            ("reply to a patient in it", 3, only(&ann), all.clone(), to_ann),
            ("reply to all in it", 3, all.clone(), all, Ok(Lane::Everybody)),
            ("in an unknown thread", 3, None, Some(Reach::Unknown), Err(Refusal::LaneUnknown)),
            ("one patient: one lane", 1, Some(Reach::Unknown), None, Ok(Lane::Everybody)),
            ("staff only", 0, None, None, Ok(Lane::Everybody)),
        ] {
            let alone = spokes < 2 || (&answers, &thread) != (&None, &None);
            let gone = BTreeSet::new();
            let facts = LaneFacts { spokes, gone, answers, thread, file_waits_for_one: false };
            assert_eq!(lane(&facts), wanted, "{name}");
            let wanted = if alone { wanted } else { Err(Refusal::FileForOne) };
            assert_eq!(
                lane(&LaneFacts { file_waits_for_one: true, ..facts }),
                wanted,
                "{name}, a file waits"
            );
        }
        // Ben does not take part any more.
        let gone = Err(Refusal::PatientGone);
        for (name, spokes, answers, thread, wanted) in [
            ("plain", 2, None, None, Ok(Lane::Everybody)),
            ("reply to who is there", 2, only(&ann), None, Ok(Lane::Only(ann.clone()))),
            ("reply to who is gone", 2, only(&ben), None, gone.clone()),
            ("in the thread of who is gone", 2, None, only(&ben), gone.clone()),
            ("reply to who was alone there", 1, only(&ben), None, gone),
        ] {
            let gone = BTreeSet::from([ben.clone()]);
            let facts = LaneFacts { spokes, gone, answers, thread, file_waits_for_one: false };
            assert_eq!(lane(&facts), wanted, "{name}");
        }
    }
}
