//! The text of a filter, by recursive descent; the first mistake is told with its place.

use super::{By, Comparison, Filter, Flag, Order, Quantity, Word, outcomes};
use crate::view;
use std::time::Duration;
use unanimous_core::coordinator::State;

/// The longest text that is read.
const BYTES_MAX: usize = 1_024;
/// Parentheses and `not`s inside each other.
const DEPTH_MAX: usize = 16;
/// The longest piece of a text that is shown in a mistake.
const FOUND_CHARS_MAX: usize = 32;

/// Fields, as they are written.
const FIELDS: [&str; 16] = [
    "state",
    "outcome",
    "name",
    "id",
    "label.KEY",
    "participant",
    "waiting_on",
    "resource",
    "age",
    "locked",
    "remaining",
    "tries",
    "branches",
    "stuck",
    "recovered",
    "resolved",
];

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The character it begins at, from 1.
    pub(crate) column: usize,
    /// What stands there.
    pub(crate) found: String,
    /// What should stand there.
    pub(crate) expected: String,
    /// What was probably meant.
    pub(crate) nearest: Option<String>,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { column, found, expected, nearest } = self;
        write!(f, "column {column}: found {found}, expected {expected}")?;
        match nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// Reads a filter.
///
/// # Errors
/// The first mistake in it.
pub(crate) fn parse(text: &str) -> Result<Filter, Mistake> {
    if text.len() > BYTES_MAX {
        return Err(Mistake {
            column: 1,
            found: format!("{} bytes", text.len()),
            expected: format!("at most {BYTES_MAX}"),
            nearest: None,
        });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let filter = parser.any()?;
    match parser.next() {
        Token { kind: Kind::End, .. } => Ok(filter),
        other => Err(other.instead_of("`and`, `or` or the end")),
    }
}

#[derive(Clone, Debug)]
struct Token {
    column: usize,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// As it stands.
    Bare(String),
    /// In quotes, without them.
    Quoted(String),
    Operator(&'static str),
    Open,
    Close,
    End,
}

/// Longer ones first: the first that fits is taken.
const OPERATORS: [&str; 7] = ["!=", "<=", ">=", "=", "~", "<", ">"];

fn tokens(text: &str) -> Result<Vec<Token>, Mistake> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&first) = chars.get(at) {
        let column = at + 1;
        let starts = |operator: &&&str| {
            operator.chars().eq(chars.iter().copied().skip(at).take(operator.len()))
        };
        let kind = match first {
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '(' => Kind::Open,
            ')' => Kind::Close,
            '"' | '\'' => {
                let (word, length) = quoted(&chars[at..], column)?;
                at += length;
                tokens.push(Token { column, kind: Kind::Quoted(word) });
                continue;
            }
            c if is_bare(c) => {
                let word: String = chars[at..].iter().take_while(|c| is_bare(**c)).collect();
                at += word.chars().count();
                tokens.push(Token { column, kind: Kind::Bare(word) });
                continue;
            }
            _ => match OPERATORS.iter().find(starts) {
                Some(operator) => Kind::Operator(operator),
                None => {
                    let found = Token { column, kind: Kind::Bare(first.to_string()) };
                    return Err(found.instead_of(
                        "a word; others than letters, digits and _-.:/+@ stand in quotes",
                    ));
                }
            },
        };
        at += if let Kind::Operator(operator) = kind { operator.len() } else { 1 };
        tokens.push(Token { column, kind });
    }
    tokens.push(Token { column: chars.len() + 1, kind: Kind::End });
    Ok(tokens)
}

fn is_bare(c: char) -> bool {
    c.is_alphanumeric() || "_-.:/+@".contains(c)
}

/// A word in quotes and how many characters it takes. A backslash takes the next one as it is.
fn quoted(chars: &[char], column: usize) -> Result<(String, usize), Mistake> {
    let mut word = String::new();
    let mut rest = chars.iter().enumerate().skip(1);
    while let Some((at, &c)) = rest.next() {
        match c {
            c if Some(&c) == chars.first() => return Ok((word, at + 1)),
            '\\' => word.extend(rest.next().map(|(_, c)| c)),
            c => word.push(c),
        }
    }
    let all: String = chars.iter().collect();
    Err(Token { column, kind: Kind::Bare(all) }.instead_of("a closing quote"))
}

impl Token {
    fn instead_of(&self, expected: impl Into<String>) -> Mistake {
        let found = match &self.kind {
            Kind::Bare(word) => format!("`{}`", cut(word)),
            Kind::Quoted(word) => format!("{:?}", cut(word)),
            Kind::Operator(operator) => format!("`{operator}`"),
            Kind::Open => "`(`".to_owned(),
            Kind::Close => "`)`".to_owned(),
            Kind::End => "the end".to_owned(),
        };
        Mistake { column: self.column, found, expected: expected.into(), nearest: None }
    }

    /// As [`Token::instead_of`], with the nearest of what is known.
    fn instead_of_one<'a>(
        &self,
        what: &str,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Mistake {
        let all = known.clone().into_iter().collect::<Vec<_>>().join(", ");
        let mut mistake = self.instead_of(format!("{what}: {all}"));
        if let Kind::Bare(word) | Kind::Quoted(word) = &self.kind {
            mistake.nearest = nearest(word, known).map(ToOwned::to_owned);
        }
        mistake
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(&self.kind, Kind::Bare(word) if word.eq_ignore_ascii_case(keyword))
    }
}

fn cut(word: &str) -> String {
    let mut cut: String = word.chars().take(FOUND_CHARS_MAX).collect();
    if cut.len() < word.len() {
        cut.push_str("...");
    }
    cut
}

fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| {
        strsim::damerau_levenshtein(&wrong.to_ascii_lowercase(), &name.to_ascii_lowercase())
    };
    let near = known.into_iter().map(|name| (distance(name), name));
    let likely = near.filter(|(distance, name)| *distance <= 3 && distance * 2 < name.len());
    likely.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// After the end there is the end.
    fn peek(&self) -> Token {
        let end = || Token { column: 1, kind: Kind::End };
        self.tokens.get(self.at).or(self.tokens.last()).cloned().unwrap_or_else(end)
    }

    fn any(&mut self) -> Result<Filter, Mistake> {
        self.joined("or", Self::all, Filter::Any)
    }

    fn all(&mut self) -> Result<Filter, Mistake> {
        self.joined("and", Self::one, Filter::All)
    }

    fn joined(
        &mut self,
        keyword: &str,
        part: fn(&mut Self) -> Result<Filter, Mistake>,
        join: fn(Vec<Filter>) -> Filter,
    ) -> Result<Filter, Mistake> {
        let first = part(self)?;
        let mut more = Vec::new();
        while self.peek().is_keyword(keyword) {
            self.next();
            more.push(part(self)?);
        }
        if more.is_empty() {
            return Ok(first);
        }
        more.insert(0, first);
        Ok(join(more))
    }

    fn one(&mut self) -> Result<Filter, Mistake> {
        let token = self.next();
        if token.kind == Kind::Open {
            let inside = self.deeper(&token, Self::any)?;
            let close = self.next();
            return match close.kind {
                Kind::Close => Ok(inside),
                _ => Err(close.instead_of("`and`, `or` or `)`")),
            };
        }
        if token.is_keyword("not") {
            return Ok(Filter::Not(Box::new(self.deeper(&token, Self::one)?)));
        }
        match &token.kind {
            Kind::Bare(field) if !token.is_keyword("and") && !token.is_keyword("or") => {
                self.comparison(&token, field).map(Filter::Compare)
            }
            _ => Err(token.instead_of("a comparison such as state=COMMITTING, `not` or `(`")),
        }
    }

    fn deeper(
        &mut self,
        token: &Token,
        part: fn(&mut Self) -> Result<Filter, Mistake>,
    ) -> Result<Filter, Mistake> {
        if self.depth == DEPTH_MAX {
            let expected = format!("at most {DEPTH_MAX} of `(` and `not` inside each other");
            return Err(token.instead_of(expected));
        }
        self.depth += 1;
        let inside = part(self);
        self.depth -= 1;
        inside
    }

    fn comparison(&mut self, token: &Token, field: &str) -> Result<Comparison, Mistake> {
        Ok(match field {
            "state" => {
                let is = self.is()?;
                let known = State::ALL.map(|state| (view::state_word(state), state));
                Comparison::State(is, self.known("a state", &known)?)
            }
            "outcome" => {
                let is = self.is()?;
                let known: Vec<_> =
                    outcomes().into_iter().map(|o| (view::outcome_word(o), o)).collect();
                Comparison::Outcome(is, self.known("an outcome", &known)?)
            }
            "id" => Comparison::Word(Word::Id, self.by()?, self.digits()?),
            "name" => self.word(Word::Name)?,
            "participant" => self.word(Word::Participant)?,
            "resource" => self.word(Word::Resource)?,
            "waiting_on" => self.word(Word::WaitingOn)?,
            "age" => self.time(Quantity::Age)?,
            "locked" => self.time(Quantity::Locked)?,
            "remaining" => self.time(Quantity::Remaining)?,
            "tries" => self.number(Quantity::Tries)?,
            "branches" => self.number(Quantity::Branches)?,
            "stuck" => self.flag(Flag::Stuck)?,
            "recovered" => self.flag(Flag::Recovered)?,
            "resolved" => self.flag(Flag::Resolved)?,
            field => match field.strip_prefix("label.") {
                Some(key) if is_label_key(key) => self.word(Word::Label(key.to_owned()))?,
                Some(_) => {
                    let expected = "label.KEY with a key of 1 to 32 of a-z, 0-9, '-', '_' and '.'";
                    return Err(token.instead_of(expected));
                }
                None => return Err(token.instead_of_one("a field", FIELDS)),
            },
        })
    }

    fn operator<T: Copy>(&mut self, known: &[(&'static str, T)]) -> Result<T, Mistake> {
        let token = self.next();
        let meant = known.iter().find(|(operator, _)| token.kind == Kind::Operator(operator));
        meant.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let all: Vec<_> = known.iter().map(|(operator, _)| *operator).collect();
            token.instead_of(format!("one of {}", all.join(" ")))
        })
    }

    fn is(&mut self) -> Result<bool, Mistake> {
        self.operator(&[("=", true), ("!=", false)])
    }

    fn by(&mut self) -> Result<By, Mistake> {
        self.operator(&[("=", By::Is), ("!=", By::IsNot), ("~", By::Contains)])
    }

    fn order(&mut self) -> Result<Order, Mistake> {
        self.operator(&[
            ("=", Order::Is),
            ("!=", Order::IsNot),
            ("<", Order::Less),
            ("<=", Order::AtMost),
            (">", Order::More),
            (">=", Order::AtLeast),
        ])
    }

    /// The next word, which is a value.
    fn value(&mut self, expected: &str) -> Result<(Token, String), Mistake> {
        let token = self.next();
        let keyword = ["and", "or", "not"].iter().any(|keyword| token.is_keyword(keyword));
        match &token.kind {
            Kind::Bare(word) if !keyword => Ok((token.clone(), word.clone())),
            Kind::Quoted(word) => Ok((token.clone(), word.clone())),
            _ => Err(token.instead_of(expected)),
        }
    }

    fn word(&mut self, word: Word) -> Result<Comparison, Mistake> {
        let by = self.by()?;
        let (_, text) = self.value("a word, in quotes if it is more than one")?;
        Ok(Comparison::Word(word, by, text))
    }

    fn digits(&mut self) -> Result<String, Mistake> {
        let expected = "the last hexadecimal digits of an id";
        let (token, text) = self.value(expected)?;
        let fits = (1..=48).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
        if fits { Ok(text.to_ascii_lowercase()) } else { Err(token.instead_of(expected)) }
    }

    fn known<T: Copy>(&mut self, what: &str, known: &[(&'static str, T)]) -> Result<T, Mistake> {
        let names = || known.iter().map(|(name, _)| *name);
        let (token, text) = match self.value(what) {
            Ok(found) => found,
            Err(mistake) => {
                let all = names().collect::<Vec<_>>().join(", ");
                return Err(Mistake { expected: format!("{what}: {all}"), ..mistake });
            }
        };
        let written = text.replace(['-', ' '], "_");
        let meant = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&written));
        let all: Vec<_> = names().collect();
        meant.map(|(_, meant)| *meant).ok_or_else(|| token.instead_of_one(what, all))
    }

    fn time(&mut self, quantity: Quantity) -> Result<Comparison, Mistake> {
        let order = self.order()?;
        let expected = "a time such as 90s, 5m or 1h30m";
        let (token, text) = self.value(expected)?;
        let time_ms = humantime::parse_duration(&text)
            .ok()
            .and_then(|time: Duration| u64::try_from(time.as_millis()).ok())
            .ok_or_else(|| token.instead_of(expected))?;
        Ok(Comparison::Quantity(quantity, order, time_ms))
    }

    fn number(&mut self, quantity: Quantity) -> Result<Comparison, Mistake> {
        let order = self.order()?;
        let expected = "a number such as 3";
        let (token, text) = self.value(expected)?;
        let digits = text.bytes().all(|c| c.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        let number = number.ok_or_else(|| token.instead_of(expected))?;
        Ok(Comparison::Quantity(quantity, order, number))
    }

    fn flag(&mut self, flag: Flag) -> Result<Comparison, Mistake> {
        let is = self.is()?;
        let so = self.known("one of two", &[("true", true), ("false", false)])?;
        Ok(Comparison::Flag(flag, is == so))
    }
}

fn is_label_key(key: &str) -> bool {
    let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    (1..=32).contains(&key.len()) && key.bytes().all(known)
}
