//! What a transaction's state means and what to do next, in plain words.

use unanimous_core::coordinator::State;

/// `silent`: those waited for that have no session.
pub(crate) fn explain(
    state: State,
    resolved: bool,
    gtrid: &str,
    waiting_on: &[String],
    silent: &[&str],
) -> (String, String) {
    if resolved {
        let meaning = "A person has settled what its branches did differently, and has marked it \
             resolved: it is on the list no more.";
        let next = format!("Nothing: see who and why with `unanimous tx history {gtrid}`.");
        return (meaning.to_owned(), next);
    }
    let whom = join(waiting_on.iter().map(String::as_str));
    let meaning = match state {
        State::Active => "The application is still working in it.".to_owned(),
        State::MarkedRollback => "A participant has voted rollback before the end: it will be \
             rolled back when the application ends it, or at its time-out."
            .to_owned(),
        State::Preparing => format!("The commit was asked for; the vote of {whom} is awaited."),
        State::OnePhase => {
            format!("Its only participant, {whom}, has been asked to commit; its answer decides.")
        }
        State::Deciding => "All have voted commit; the decision is being written to the log, and \
             nobody can know it yet."
            .to_owned(),
        State::Committing => {
            format!("Decided: commit. {whom} has not confirmed yet and keeps its locks until then.")
        }
        State::RollingBack => format!("Decided: rollback. {whom} has not confirmed yet."),
        State::Heuristic => "A participant, or a person, decided alone: branches have ended \
             differently from the decision, or nobody knows how. Nothing repairs this by itself."
            .to_owned(),
    };
    (meaning, next(state, gtrid, silent))
}

fn next(state: State, gtrid: &str, silent: &[&str]) -> String {
    match state {
        State::Active | State::MarkedRollback => {
            "Nothing: the application ends it, or its time-out rolls it back.".to_owned()
        }
        State::Deciding => {
            "Nothing: it waits for the disk. If it stays, look at the log's device.".to_owned()
        }
        State::Heuristic => format!(
            "Compare the data of its branches by hand, see `unanimous explain HEURISTIC`, and \
             correct what differs; then take it off the list with `unanimous force forget {gtrid} \
             --reason \"...\"`."
        ),
        State::Preparing | State::OnePhase | State::Committing | State::RollingBack => {
            if silent.is_empty() {
                let now = format!("at once with `unanimous tx retry {gtrid}`");
                return format!("Nothing: it is asked again until it answers, {now}.");
            }
            let whom = join(silent.iter().copied());
            format!("Start {whom}, which is not connected: it ends by itself then.")
        }
    }
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        None => "nobody".to_owned(),
        Some((only, [])) => (*only).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_meaning_and_a_next_step_and_names_who_is_missing() {
        let waiting = ["bank-a".to_owned(), "bank-b".to_owned()];
        for state in State::ALL {
            let (meaning, next) = explain(state, false, "00", &waiting, &["bank-b"]);
            assert!(meaning.ends_with('.') && next.ends_with('.'), "{state:?}");
        }
        let (meaning, next) = explain(State::Committing, false, "00", &waiting, &["bank-b"]);
        assert!(meaning.contains("bank-a and bank-b"));
        assert!(next.starts_with("Start bank-b,"));
    }
}
