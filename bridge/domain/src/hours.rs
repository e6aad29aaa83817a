//! When a practice is there, and what it tells whoever writes when it is not.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp as Instant, ToSpan as _,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

use crate::{
    Timestamp,
    people::private_line,
    text::{InvalidText, one_line},
};

/// How far ahead it is looked when the practice is there again, in days.
const AHEAD: i32 = 400;

private_line! {
    /// What to do in an emergency, in the practice's own words: one line of at most 300 characters, shown to every patient.
    EmergencyWords, 300
}

/// A time of a day during which the practice is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: Time,
    /// None is midnight.
    until: Option<Time>,
}

/// The opening hours of a practice, in its own time zone.
#[derive(Clone, PartialEq, Eq)]
pub struct Hours {
    zone: TimeZone,
    /// From Monday to Sunday, each in order.
    week: [Vec<Span>; 7],
    /// Days on which it is closed, whatever the weekday.
    holidays: Vec<Date>,
}

/// Whether the practice is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Open,
    /// It is not, until then; none is for longer than can be told.
    Closed(Option<Timestamp>),
}

/// Why opening hours are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHours {
    /// No such time zone.
    #[error("`{0}` is no time zone; write it as in `Europe/Dublin`")]
    Zone(String),
    /// No time of a day.
    #[error("`{0}` is no time of a day; write it as in `09:00-17:30`, the end after the beginning")]
    Span(String),
    /// Two of one day overlap, or stand in the wrong order.
    #[error("`{0}` begins before the one before it ends")]
    Order(String),
    /// No date.
    #[error("`{0}` is no date; write it as in `2026-12-25`")]
    Date(String),
}

impl Hours {
    /// Reads them: the name of a time zone, the times of each day from Monday on (`09:00-13:00`; `00:00-24:00` is the whole of
    /// it), and holidays (`2026-12-25`).
    ///
    /// # Errors
    /// [`InvalidHours`], the first that applies.
    pub fn new(zone: &str, week: [&[String]; 7], holidays: &[String]) -> Result<Self, InvalidHours> {
        let zone = TimeZone::get(zone).map_err(|_| InvalidHours::Zone(zone.to_owned()))?;
        let mut read: [Vec<Span>; 7] = Default::default();
        for (day, texts) in read.iter_mut().zip(week) {
            for text in texts {
                let span = Span::read(text).ok_or_else(|| InvalidHours::Span(text.clone()))?;
                // One that ends at midnight is the last of its day.
                if day.last().is_some_and(|before| before.until.is_none_or(|until| until > span.from)) {
                    return Err(InvalidHours::Order(text.clone()));
                }
                day.push(span);
            }
        }
        let holiday = |text: &String| text.parse().map_err(|_| InvalidHours::Date(text.clone()));
        let holidays = holidays.iter().map(holiday).collect::<Result<_, _>>()?;
        Ok(Self { zone, week: read, holidays })
    }

    /// Whether the practice is there at a time.
    #[must_use]
    pub fn at(&self, at: Timestamp) -> Standing {
        let Some(now) = self.zoned(at) else { return Standing::Closed(None) };
        let (today, time) = (now.date(), now.time());
        let is_open = |span: &Span| span.from <= time && span.until.is_none_or(|until| time < until);
        if self.of(today).iter().any(is_open) {
            return Standing::Open;
        }
        let later = self.of(today).iter().find(|span| span.from > time).map(|span| (today, span.from));
        let next = later.or_else(|| {
            (1..=AHEAD).find_map(|days| {
                let day = today.checked_add(days.days()).ok()?;
                self.of(day).first().map(|span| (day, span.from))
            })
        });
        let next = next.and_then(|(day, from)| self.zone.to_zoned_datetime(day.to_datetime(from)).ok());
        Standing::Closed(next.map(|next| Timestamp::from_millis(next.timestamp().as_millisecond())))
    }

    /// What the practice tells whoever writes when it is closed until then; and whether what they have written `has_come`.
    #[must_use]
    pub fn answer(
        &self,
        now: Timestamp,
        until: Option<Timestamp>,
        has_come: bool,
        emergency: Option<&EmergencyWords>,
    ) -> String {
        let day = until.and_then(|until| self.day(now, until));
        let mut words = match (day, has_come) {
            (Some(day), true) => {
                format!("We have your message. The practice is closed now and will answer {day}.")
            }
            (None, true) => {
                "We have your message. The practice is closed now and will answer when it is open again."
                    .to_owned()
            }
            (Some(day), false) => format!("The practice is closed now, and open {day}."),
            (None, false) => "The practice is closed now.".to_owned(),
        };
        if let Some(emergency) = emergency {
            words.push(' ');
            words.push_str(emergency.as_str());
        }
        words
    }

    /// A day as people say it, with the time from which on.
    fn day(&self, now: Timestamp, until: Timestamp) -> Option<String> {
        let (now, until) = (self.zoned(now)?, self.zoned(until)?);
        let from = until.strftime("from %H:%M");
        let date = until.strftime("%A %-d %B");
        Some(match until.date().since(now.date()).ok()?.get_days() {
            0 => format!("today {from}"),
            1 => format!("tomorrow, {date}, {from}"),
            _ => format!("on {date}, {from}"),
        })
    }

    fn of(&self, day: Date) -> &[Span] {
        if self.holidays.contains(&day) {
            return &[];
        }
        &self.week[place(day.weekday())]
    }

    fn zoned(&self, at: Timestamp) -> Option<jiff::ZonedDateTime> {
        Some(Instant::from_millisecond(at.millis()).ok()?.to_zoned_datetime(self.zone.clone()))
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hours({:?})", self.zone.iana_name())
    }
}

impl Span {
    fn read(text: &str) -> Option<Self> {
        let (from, until) = text.split_once('-')?;
        let time = |text: &str| Time::strptime("%H:%M", text.trim()).ok();
        let from = time(from)?;
        let until = if until.trim() == "24:00" { None } else { Some(time(until)?) };
        until.is_none_or(|until| until > from).then_some(Self { from, until })
    }
}

fn place(day: Weekday) -> usize {
    usize::try_from(day.to_monday_zero_offset()).unwrap_or(0) % 7
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weekdays with a pause at noon, Saturday morning, closed at Christmas.
    fn hours() -> Hours {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (weekday, saturday, none) =
            (texts(&["09:00-13:00", "14:00-17:30"]), texts(&["09:00-12:00"]), texts(&[]));
        let week = [&weekday, &weekday, &weekday, &weekday, &weekday, &saturday, &none].map(Vec::as_slice);
        Hours::new("Europe/Dublin", week, &texts(&["2026-12-25"])).expect("hours")
    }

    /// A time in Dublin.
    fn dublin(text: &str) -> Timestamp {
        let zoned: jiff::ZonedDateTime = format!("{text}[Europe/Dublin]").parse().expect("a time");
        Timestamp::from_millis(zoned.timestamp().as_millisecond())
    }

    #[test]
    fn when_the_practice_is_there() {
        let closed = |until| Standing::Closed(Some(dublin(until)));
        for (name, at, wanted) in [
            ("a Thursday morning", "2026-11-26T10:00", Standing::Open),
            ("as it opens", "2026-11-26T09:00", Standing::Open),
            ("as it closes", "2026-11-26T17:30", closed("2026-11-27T09:00")),
            ("at noon", "2026-11-26T13:30", closed("2026-11-26T14:00")),
            ("before it opens", "2026-11-26T08:59", closed("2026-11-26T09:00")),
            ("a Saturday afternoon", "2026-11-28T15:00", closed("2026-11-30T09:00")),
            ("the day before a holiday", "2026-12-24T20:00", closed("2026-12-26T09:00")),
            ("a holiday", "2026-12-25T10:00", closed("2026-12-26T09:00")),
            ("the night before summer time", "2026-03-28T23:00", closed("2026-03-30T09:00")),
            ("in summer time", "2026-07-06T09:00", Standing::Open),
        ] {
            assert_eq!(hours().at(dublin(at)), wanted, "{name}");
        }
    }

    #[test]
    fn the_day_is_said_as_people_say_it() {
        for (now, until, wanted) in [
            ("2026-11-26T13:30", "2026-11-26T14:00", "today from 14:00."),
            ("2026-11-26T20:00", "2026-11-27T09:00", "tomorrow, Friday 27 November, from 09:00."),
            ("2026-11-28T15:00", "2026-11-30T09:00", "on Monday 30 November, from 09:00."),
            // Not yet midnight here, though it is elsewhere.
            ("2026-07-01T23:30", "2026-07-02T09:00", "tomorrow, Thursday 2 July, from 09:00."),
        ] {
            let words = hours().answer(dublin(now), Some(dublin(until)), true, None);
            assert!(words.ends_with(wanted) && words.starts_with("We have your message."), "{words}");
            let words = hours().answer(dublin(now), Some(dublin(until)), false, None);
            assert_eq!(words, format!("The practice is closed now, and open {wanted}"));
        }
        let emergency = "In an emergency call 112.".parse().expect("words");
        for (has_come, wanted) in [
            (true, "when it is open again. In an emergency call 112."),
            (false, "The practice is closed now. In an emergency call 112."),
        ] {
            let words = hours().answer(dublin("2026-11-26T20:00"), None, has_come, Some(&emergency));
            assert!(words.ends_with(wanted), "{words}");
        }
    }

    #[test]
    fn a_practice_that_never_opens_says_no_day() {
        let never = Hours::new("Europe/Dublin", [&[]; 7], &[]).expect("hours");
        assert_eq!(never.at(dublin("2026-11-26T10:00")), Standing::Closed(None));
        let always = ["00:00-24:00".to_owned()];
        let always = Hours::new("America/New_York", [&always; 7], &[]).expect("hours");
        for at in ["2026-11-26T00:00", "2026-11-26T23:59"] {
            assert_eq!(always.at(dublin(at)), Standing::Open, "{at}");
        }
    }

    #[test]
    fn what_is_no_time_is_said() {
        let one = |text: &str| [text.to_owned()];
        let with = |zone: &str, monday: &[String], holidays: &[String]| {
            Hours::new(zone, [monday, &[], &[], &[], &[], &[], &[]], holidays).err()
        };
        let two = ["09:00-13:00".to_owned(), "12:00-17:00".to_owned()];
        let dublin = "Europe/Dublin";
        for (name, found, wanted) in [
            ("a zone", with("Dublin", &[], &[]), Some(InvalidHours::Zone("Dublin".to_owned()))),
            ("no span", with(dublin, &one("9"), &[]), Some(InvalidHours::Span("9".to_owned()))),
            (
                "backwards",
                with(dublin, &one("17:00-09:00"), &[]),
                Some(InvalidHours::Span("17:00-09:00".to_owned())),
            ),
            (
                "over midnight",
                with(dublin, &one("22:00-25:00"), &[]),
                Some(InvalidHours::Span("22:00-25:00".to_owned())),
            ),
            ("overlapping", with(dublin, &two, &[]), Some(InvalidHours::Order("12:00-17:00".to_owned()))),
            (
                "no date",
                with(dublin, &[], &one("25 December")),
                Some(InvalidHours::Date("25 December".to_owned())),
            ),
        ] {
            assert_eq!(found, wanted, "{name}");
        }
    }
}
