//! The lines of the roles' and the tokens' files: words between spaces, `#` begins a comment.

use super::AccessError;
use super::file;
use crate::identity::{Role, Roles};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;
use subtle::ConstantTimeEq;

/// The longest name of a caller, in bytes.
const NAME_BYTES_MAX: usize = 256;

pub(crate) type Digest = [u8; SHA256_OUTPUT_LEN];

/// What a token is known by.
pub(crate) fn token_digest(token: &[u8]) -> Digest {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// A line of the tokens' file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) roles: Roles,
    digest: Digest,
    ends: Option<SystemTime>,
}

impl Token {
    pub(crate) fn is(&self, digest: &Digest) -> bool {
        self.digest.ct_eq(digest).into()
    }

    pub(crate) fn ended(&self, now: SystemTime) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// `NAME ROLE[,ROLE..] SHA256 [END]`
pub(super) fn read_tokens(path: &Path) -> Result<Vec<Token>, AccessError> {
    const KEY: &str = "tls.tokens_file";
    let text = file::text(KEY, path, true)?;
    let mut tokens: Vec<Token> = Vec::new();
    for (number, words) in lines(&text) {
        let bad = |why: &str| at_line(KEY, path, number, why);
        let token = read_token(&words).map_err(|why| bad(&why))?;
        if tokens.iter().any(|other| other.digest == token.digest) {
            return Err(bad("the token is there twice"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn read_token(words: &[&str]) -> Result<Token, String> {
    let (name, roles, digits, ends) = match words[..] {
        [name, roles, digits] => (name, roles, digits, None),
        [name, roles, digits, ends] => (name, roles, digits, Some(ends)),
        _ => return Err("it must be: NAME ROLES SHA256, and the time at which it ends".to_owned()),
    };
    let name = checked_name(name).ok_or("the name is too long")?;
    let roles = roles_of(&mut roles.split(','))?;
    let digest =
        digest_of(digits).ok_or("the third word must be 64 hexadecimal digits, a SHA-256")?;
    let bad_time = "the fourth word must be a time as 2027-01-31 or 2027-01-31T12:00:00Z";
    let ends = ends.map(|word| time_of(word).ok_or(bad_time)).transpose()?;
    Ok(Token { name, roles, digest, ends })
}

/// `NAME ROLE ..`
pub(super) fn read_roles(path: &Path) -> Result<Vec<(String, Roles)>, AccessError> {
    const KEY: &str = "tls.roles_file";
    let text = file::text(KEY, path, false)?;
    let mut entries: Vec<(String, Roles)> = Vec::new();
    for (number, words) in lines(&text) {
        let bad = |why: &str| at_line(KEY, path, number, why);
        let (name, roles) = words.split_first().ok_or_else(|| bad("it is empty"))?;
        if roles.is_empty() {
            return Err(bad("it must be: NAME ROLE, and more roles"));
        }
        let name = checked_name(name).ok_or_else(|| bad("the name is too long"))?;
        let roles = roles_of(&mut roles.iter().copied()).map_err(|why| bad(&why))?;
        if entries.iter().any(|(other, _)| *other == name) {
            return Err(bad("the name is there twice"));
        }
        entries.push((name, roles));
    }
    Ok(entries)
}

/// The line that lets a token in. Only the token's SHA-256 is in it.
///
/// # Errors
/// What is wrong with the name or the time: the line would be refused.
pub fn token_line(
    name: &str,
    roles: &[Role],
    token: &str,
    ends: Option<&str>,
) -> Result<String, String> {
    let roles: Vec<&str> = roles.iter().map(|role| role.word()).collect();
    let mut line = format!("{name} {} ", roles.join(","));
    for byte in token_digest(token.as_bytes()) {
        // Writing to a string does not fail.
        let _ = write!(line, "{byte:02x}");
    }
    if let Some(ends) = ends {
        line = format!("{line} {ends}");
    }
    let (_, words) = lines(&line).next().ok_or("the name begins a comment")?;
    read_token(&words)?;
    Ok(line)
}

fn at_line(key: &'static str, path: &Path, number: usize, why: &str) -> AccessError {
    file::unusable(key, path, format!("line {number}: {why}"), &format!("sed -n {number}p"))
}

/// With their numbers, from 1, those that say something.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let words = |line: &str| -> usize { line.find('#').unwrap_or(line.len()) };
    text.lines().enumerate().filter_map(move |(index, line)| {
        let words: Vec<&str> = line[..words(line)].split_whitespace().collect();
        (!words.is_empty()).then_some((index + 1, words))
    })
}

fn checked_name(word: &str) -> Option<String> {
    let good = word.len() <= NAME_BYTES_MAX && !word.chars().any(char::is_control);
    good.then(|| word.to_owned())
}

fn roles_of(words: &mut dyn Iterator<Item = &str>) -> Result<Roles, String> {
    let mut roles = Roles::none();
    for word in words {
        roles.add_word(word)?;
    }
    Ok(roles)
}

fn digest_of(digits: &str) -> Option<Digest> {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    if digits.len() != 2 * bytes.len() || !digits.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    // A sign is no digit.
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(bytes)
}

fn time_of(word: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(word)
        .or_else(|_| humantime::parse_rfc3339(&format!("{word}T00:00:00Z")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(line: &str) -> Result<Token, String> {
        let (_, words) = lines(line).next().ok_or("nothing")?;
        read_token(&words)
    }

    #[test]
    fn a_line_that_is_made_is_read_and_lets_in_only_its_token() {
        let line = token_line("alice", &[Role::Operator, Role::Client], "s3cret", None).unwrap();
        assert!(!line.contains("s3cret"));
        let token = read(&line).unwrap();
        assert_eq!((token.name.as_str(), token.roles.words().len()), ("alice", 2));
        for (word, fits) in [("s3cret", true), ("s3cre", false), ("", false), ("S3CRET", false)] {
            assert_eq!(token.is(&token_digest(word.as_bytes())), fits, "{word:?}");
        }
        for name in ["", "a b", "#", &"a".repeat(257)] {
            assert!(token_line(name, &[Role::Reader], "x", None).is_err(), "{name:?}");
        }
        assert!(token_line("a", &[], "x", None).is_err(), "a token for nothing");
        assert!(token_line("a", &[Role::Reader], "x", Some("soon")).is_err());
    }

    #[test]
    fn a_token_ends_at_its_time() {
        let ends = |text: &str| {
            let line = token_line("a", &[Role::Reader], "x", Some(text)).unwrap();
            read(&line).unwrap()
        };
        let day = humantime::parse_rfc3339("2027-01-31T00:00:00Z").unwrap();
        let second = Duration::from_secs(1);
        for text in ["2027-01-31", "2027-01-31T00:00:00Z"] {
            let token = ends(text);
            assert!(!token.ended(day - second) && token.ended(day), "{text}");
        }
        assert!(!read(&token_line("a", &[Role::Reader], "x", None).unwrap()).unwrap().ended(day));
    }

    #[test]
    fn digests_have_digits_only() {
        let digits = "0".repeat(62);
        assert!(digest_of(&format!("{digits}aF")).is_some());
        for bad in ["+1", "é", "0", "0x", " 1", "000"] {
            assert_eq!(digest_of(&format!("{digits}{bad}")), None, "{bad:?}");
        }
    }
}
