//! Whether a person has confirmed what cannot be undone: by the last digits of the id, typed on a
//! terminal, or in a script by the whole id. There is no third way: no option that says yes to
//! everything, and nothing in the environment.

use crate::codes::Code;
use crate::errors::Failure;
use crate::tx::short_id;
use std::io::{BufRead, IsTerminal, Write};

/// Something that is done only when it is confirmed.
#[derive(Clone, Debug)]
pub(crate) struct Danger<'a> {
    /// The full id that confirms it.
    pub(crate) id: &'a str,
    /// What was given with `--confirm`.
    pub(crate) given: Option<&'a str>,
    /// The command line that does it, without `--confirm`.
    pub(crate) again: String,
}

/// What is left to do for a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing: it was given.
    Given,
    /// The person at the terminal can be asked.
    Ask,
}

impl Danger<'_> {
    /// Whether `--confirm` names this very id.
    pub(crate) fn is_given(&self) -> bool {
        self.given.is_some_and(|given| given.eq_ignore_ascii_case(self.id))
    }

    /// What was given, or whether there is somebody to ask.
    pub(crate) fn word(&self, terminal: bool) -> Result<Word, Failure> {
        match self.given {
            _ if self.is_given() => Ok(Word::Given),
            Some(given) => Err(self.missing(
                "it is not confirmed, and nothing was done",
                format!("--confirm names {given}, and this is {}", self.id),
            )),
            None if terminal => Ok(Word::Ask),
            None => Err(self.missing(
                "it is not confirmed, and nothing was done",
                "there is no terminal to ask at: a script repeats the full id",
            )),
        }
    }

    /// Asks the person at the terminal for the last digits of the id.
    pub(crate) fn ask(&self) -> Result<(), Failure> {
        let short = short_id(self.id).len();
        let prompt = format!("Type the last {short} digits of the id to do it: ");
        // A question that nobody sees is answered by nobody.
        let _ = std::io::stderr().lock().write_all(prompt.as_bytes());
        self.typed(&mut std::io::stdin().lock())
    }

    fn typed(&self, input: &mut impl BufRead) -> Result<(), Failure> {
        let mut line = String::new();
        let read = input.read_line(&mut line);
        if read.is_ok() && line.trim().eq_ignore_ascii_case(short_id(self.id)) {
            return Ok(());
        }
        let why = "what was typed is not the end of its id";
        Err(self.missing("it is not confirmed, and nothing was done", why))
    }

    fn missing(&self, what: &str, why: impl Into<String>) -> Failure {
        let next = format!("{} --confirm {}", self.again, self.id);
        Failure::new(Code::NotConfirmed, what, why, next)
    }
}

/// Whether there is a person who reads the question and can answer it.
pub(crate) fn terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::errors::Exit;

    fn id() -> String {
        format!("{}21f70c55", "01".repeat(20))
    }

    fn danger<'a>(id: &'a str, given: Option<&'a str>) -> Danger<'a> {
        Danger { id, given, again: "unanimous force forget X".to_owned() }
    }

    #[test]
    fn only_the_full_id_confirms_and_only_a_terminal_is_asked() {
        let id = id();
        let upper = id.to_uppercase();
        let other = format!("{}21f70c56", "01".repeat(20));
        let no = Err(Exit::NotConfirmed);
        let table = [
            (Some(id.as_str()), false, Ok(Word::Given)),
            (Some(upper.as_str()), true, Ok(Word::Given)),
            (Some("21f70c55"), false, no),
            (Some(other.as_str()), true, no),
            (Some("yes"), true, no),
            (Some(""), true, no),
            (None, true, Ok(Word::Ask)),
            (None, false, no),
        ];
        for (given, terminal, expected) in table {
            let word = danger(&id, given).word(terminal).map_err(|failure| failure.exit());
            assert_eq!(word, expected, "{given:?} {terminal}");
        }
        let told = danger(&id, None).word(false).unwrap_err().lines(false);
        let line = format!("next: unanimous force forget X --confirm {id}\n");
        assert!(told.contains(&line), "{told}");
    }

    #[test]
    fn the_last_eight_digits_are_typed() {
        let id = id();
        for (typed, good) in [
            ("21f70c55\n", true),
            ("  21F70C55\r\n", true),
            ("21f70c55", true),
            ("21f70c5\n", false),
            ("1f70c55\n", false),
            ("y\n", false),
            ("\n21f70c55\n", false),
            ("", false),
        ] {
            let confirmed = danger(&id, None).typed(&mut typed.as_bytes());
            let exit = confirmed.as_ref().err().map(Failure::exit);
            assert_eq!(exit, (!good).then_some(Exit::NotConfirmed), "{typed:?}");
        }
        assert!(danger(&id, None).typed(&mut &[0xff, b'\n'][..]).is_err());
    }
}
