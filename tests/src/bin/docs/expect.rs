//! What a command must print.
//!
//! A line `...` stands for any number of lines, `[..]` for any text within a line, `<words>` for
//! text without spaces. How many spaces stand between words is not compared: columns move with
//! what is in them; how far a line is indented is.

/// Whether the output is as expected, or else the first expected line that was not found.
///
/// # Errors
/// The index of that line; the length of `expected` if there was more output than expected.
pub(crate) fn compare(expected: &[String], found: &[String]) -> Result<(), usize> {
    let mut furthest = 0;
    if lines_match(expected, found, 0, &mut furthest) { Ok(()) } else { Err(furthest) }
}

fn lines_match(expected: &[String], found: &[String], at: usize, furthest: &mut usize) -> bool {
    *furthest = (*furthest).max(at);
    match expected.get(at) {
        None => found.is_empty(),
        Some(gap) if gap.trim() == "..." => {
            (0..=found.len()).any(|skip| lines_match(expected, &found[skip..], at + 1, furthest))
        }
        Some(line) => match found.split_first() {
            Some((first, rest)) if line_matches(&even(line), &even(first)) => {
                lines_match(expected, rest, at + 1, furthest)
            }
            _ => false,
        },
    }
}

/// One space between words, none at the end, as many as there are in front.
fn even(line: &str) -> String {
    let words = line.trim_start();
    let indent = &line[..line.len() - words.len()];
    let words: Vec<&str> = words.split_whitespace().collect();
    format!("{indent}{}", words.join(" "))
}

fn line_matches(pattern: &str, text: &str) -> bool {
    if pattern.is_empty() {
        return text.is_empty();
    }
    let tails = |text: &str| -> Vec<usize> {
        text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
    };
    if let Some(rest) = pattern.strip_prefix("[..]") {
        return tails(text).into_iter().any(|at| line_matches(rest, &text[at..]));
    }
    if let Some(rest) = placeholder(pattern) {
        let word = text.find(' ').unwrap_or(text.len());
        let ends = tails(&text[..word]);
        return ends.into_iter().skip(1).any(|at| line_matches(rest, &text[at..]));
    }
    match (pattern.chars().next(), text.chars().next()) {
        (Some(wanted), Some(found)) if wanted == found => {
            line_matches(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }
        _ => false,
    }
}

/// What follows a `<placeholder>` at the start.
fn placeholder(pattern: &str) -> Option<&str> {
    let (name, rest) = pattern.strip_prefix('<')?.split_once('>')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " -".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn lines_are_compared_with_their_gaps() {
        for (expected, found, result) in [
            ("a\nb", "a\nb", Ok(())),
            ("a\nb", "a\nc", Err(1)),
            ("a", "a\nb", Err(1)),
            ("a\nb", "a", Err(1)),
            ("", "a", Err(0)),
            ("a\n...\nz", "a\nz", Ok(())),
            ("a\n...\nz", "a\nb\nz\nz", Ok(())),
            ("a\n...", "a\nb\nc", Ok(())),
            ("a\n  ...", "a\nb\nc", Ok(())),
            ("...\nb\n...", "a\nb\nc", Ok(())),
            ("...\nx\n...", "a\nb\nc", Err(1)),
        ] {
            assert_eq!(compare(&lines(expected), &lines(found)), result, "{expected:?} {found:?}");
        }
    }

    #[test]
    fn within_a_line_wildcards_stand_for_text() {
        for (pattern, text, yes) in [
            ("ID   NAME", "ID NAME", true),
            ("  why: x", "why: x", false),
            ("<id> committed", "21f7 committed", true),
            ("<id> committed", " committed", false),
            ("<id> committed", "21 f7 committed", false),
            ("up <time>.", "up 1.5s.", true),
            ("up [..] ago", "up 1 m 5 s ago", true),
            ("up [..]", "down 3", false),
            ("<FILE> is", "<FILE> is", true),
            ("<FILE> is", "x is", false),
            ("é<a>é", "éüé", true),
        ] {
            assert_eq!(line_matches(&even(pattern), &even(text)), yes, "{pattern:?} {text:?}");
        }
    }
}
