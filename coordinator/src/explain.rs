//! `unanimous explain`: what a code means, why it happens and what to do.

use crate::codes::{self, Code, Explained};
use crate::errors::{Exit, Failure};
use crate::nearest::nearest;
use crate::output::{Document, Output};
use serde_json::{Value, json};

/// One page, or the list of all.
pub(crate) fn run(asked: Option<&str>, output: Output) -> Result<(), Failure> {
    let all = codes::all();
    let Some(asked) = asked else { return output.show(&list(&all)) };
    let word = word(asked);
    match all.iter().find(|one| one.word == word) {
        Some(one) => output.show(&Document {
            whole: value(one),
            below: one.page.to_owned(),
            ids: vec![one.word.to_owned()],
            ..Document::default()
        }),
        None => Err(unknown(asked, &word, &all)),
    }
}

/// As people write it: `error[LOG_FULL]`, `log-full`, `heuristic mixed`.
fn word(asked: &str) -> String {
    let asked = asked.trim().trim_end_matches([':', ']']);
    let asked = asked.strip_prefix("error[").unwrap_or(asked);
    asked.to_uppercase().replace(['-', ' '], "_")
}

fn unknown(asked: &str, word: &str, all: &[Explained]) -> Failure {
    let near = nearest(word, all.iter().map(|one| one.word));
    let what = format!("there is no page for {asked:?}");
    let why = "it is not a code, a reason or an outcome of this version";
    match near {
        Some(near) => {
            Failure::new(Code::NoSuchPage, what, why, format!("unanimous explain {near}"))
                .or("unanimous explain, for all there are")
        }
        None => Failure::new(Code::NoSuchPage, what, why, "unanimous explain"),
    }
}

fn list(all: &[Explained]) -> Document {
    let items: Vec<Value> = all.iter().map(value).collect();
    let row = |one: &Explained| {
        let exit = one.exit.map_or_else(|| "-".to_owned(), |exit| exit.code().to_string());
        vec![one.word.to_owned(), exit, one.summary()]
    };
    Document {
        whole: json!({ "codes": items }),
        items: Some(items),
        header: vec!["CODE", "EXIT", "WHAT IT MEANS"],
        rows: all.iter().map(row).collect(),
        ids: all.iter().map(|one| one.word.to_owned()).collect(),
        ..Document::default()
    }
}

fn value(one: &Explained) -> Value {
    json!({
        "code": one.word,
        "exit": one.exit.map(Exit::code),
        "meaning": one.summary(),
        "page": one.page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_as_people_write_them() {
        for asked in ["LOG_FULL", "log_full", "log-full", " Log Full ", "error[LOG_FULL]:"] {
            assert_eq!(word(asked), "LOG_FULL", "{asked:?}");
        }
    }

    #[test]
    fn a_slip_names_the_nearest() {
        let told = unknown("log_ful", "LOG_FUL", &codes::all()).lines(false);
        assert!(told.contains("next: unanimous explain LOG_FULL\n"), "{told}");
        let told = unknown("\u{1b}[2J", "\u{1b}[2J", &codes::all()).lines(false);
        assert!(told.contains("next: unanimous explain\n") && !told.contains('\u{1b}'), "{told}");
    }
}
