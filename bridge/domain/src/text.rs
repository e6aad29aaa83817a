//! Words that people type: their limits, and what of them may travel.

/// The longest text that is passed on, in bytes: encrypted, it still fits Matrix's 65,536 bytes an event
/// (Matrix v1.19 client-server §Size limits).
pub const MAX_TEXT_BYTES: usize = 40_000;

/// Why a name, a subject or a number is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// More characters than allowed.
    #[error("it is longer than {0} characters")]
    TooLong(usize),
    /// A line break or another control character.
    #[error("it holds a line break or another control character")]
    Control,
}

/// One line of 1 to `limit` characters, without white space around it.
pub(crate) fn one_line(value: &str, limit: usize) -> Result<String, InvalidText> {
    let value = value.trim();
    if value.is_empty() {
        return Err(InvalidText::Empty);
    }
    if value.chars().count() > limit {
        return Err(InvalidText::TooLong(limit));
    }
    if value.chars().any(is_misleading) {
        return Err(InvalidText::Control);
    }
    Ok(value.to_owned())
}

/// What ends a line or the like; bidirectional overrides would let a name pretend to be another.
pub(crate) fn is_misleading(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A reply's own words: the quotation of the answered message that older clients write in front is cut off,
/// because it may quote another patient (`> <@user:server> words`, Matrix before v1.13 §Fallbacks for rich
/// replies). For bodies of replies only: anybody else may well begin with these characters.
#[must_use]
pub fn without_reply_fallback(body: &str) -> &str {
    if !body.starts_with("> <@") && !body.starts_with("> * <@") {
        return body;
    }
    let mut rest = body;
    while rest.starts_with('>') {
        rest = rest.split_once('\n').map_or("", |(_, after)| after);
    }
    rest.strip_prefix('\n').unwrap_or(rest)
}

/// The same of formatted words (`<mx-reply>`). One that does not end is no quotation, and stays.
#[must_use]
pub fn without_formatted_fallback(html: &str) -> String {
    let mut words = html.to_owned();
    while let Some(from) = words.find("<mx-reply>")
        && let Some(length) = words[from..].find(END)
    {
        words.replace_range(from..from + length + END.len(), "");
    }
    words
}

const END: &str = "</mx-reply>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_quotation_is_cut_off() {
        for (name, body, wanted) in [
            ("no quotation", "Yes, please", "Yes, please"),
            ("one line", "> <@ann:x> my result?\n\nYes", "Yes"),
            ("two lines", "> <@ann:x> my\n> result?\n\nYes\nand no", "Yes\nand no"),
            ("an emote", "> * <@ann:x> waves\n\nYes", "Yes"),
            ("a person's own greater-than", "> 5 mmol/l is high", "> 5 mmol/l is high"),
            (
                "a value that looks like a quotation",
                "> <4.0 is low\nplease retest",
                "> <4.0 is low\nplease retest",
            ),
            ("nothing else", "> <@ann:x> my result?", ""),
        ] {
            assert_eq!(without_reply_fallback(body), wanted, "{name}");
        }
    }

    #[test]
    fn a_name_is_one_honest_line() {
        for (value, wanted) in [
            ("  Ann ", Ok("Ann".to_owned())),
            (" ", Err(InvalidText::Empty)),
            ("abcdef", Err(InvalidText::TooLong(5))),
            ("a\nb", Err(InvalidText::Control)),
            ("a\u{202e}b", Err(InvalidText::Control)),
        ] {
            assert_eq!(one_line(value, 5), wanted, "{value:?}");
        }
    }

    #[test]
    fn only_the_formatted_quotation_is_cut_out() {
        for (html, wanted) in [
            ("<b>a</b>", "<b>a</b>"),
            ("<mx-reply><blockquote>b</blockquote></mx-reply><b>a</b>", "<b>a</b>"),
            ("<mx-reply>b</mx-reply>a<mx-reply>c</mx-reply>", "a"),
            ("a</mx-reply><mx-reply>b", "a</mx-reply><mx-reply>b"),
        ] {
            assert_eq!(without_formatted_fallback(html), wanted, "{html}");
        }
    }
}
