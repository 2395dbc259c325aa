//! The check of a finished run, from its stopped stores alone: nothing is remembered, everything is
//! read.

use super::session::database_failed;
use super::{BANKS, COORDINATOR, Layout};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output};
use crate::runtime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use unanimous_core::coordinator::{Recovered, State};
use unanimous_core::{Gtrid, Record};
use unanimous_recovery::codec::decode_record;
use unanimous_sdk::embedded;

/// What the stores say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Branches that a bank holds prepared, and decisions the coordinator has not finished.
    pub(crate) in_doubt: u64,
    /// Transactions with a heuristic outcome.
    pub(crate) heuristic: u64,
    /// The sum of all accounts as they were opened, in hundredths.
    pub(crate) sum_expected: i64,
    /// The sum now.
    pub(crate) sum_actual: i64,
    /// Transactions that the log knows as committed.
    pub(crate) commits_logged: u64,
    /// Answers about transactions whose outcome the log has dropped since: only the sums speak for
    /// them.
    pub(crate) outcomes_dropped: u64,
    /// Decisions that were finished in a later life of the coordinator than they were made in, as
    /// far as the log has kept both.
    pub(crate) finished_by_recovery: u64,
    /// Transactions that a client was told are committed, and of which the log has no commit.
    pub(crate) acknowledged_missing: u64,
    /// Transactions that a client was told are rolled back, and of which the log has a commit.
    pub(crate) rolled_back_but_committed: u64,
}

impl Verified {
    /// What is wrong, in words; `None`: nothing.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut wrong = Vec::new();
        if self.sum_actual != self.sum_expected {
            let difference = self.sum_actual - self.sum_expected;
            wrong.push(format!("the sum of all accounts differs by {difference} cents"));
        }
        let counts = [
            (self.in_doubt, "branches or decisions are not finished"),
            (self.heuristic, "transactions have a heuristic outcome"),
            (self.acknowledged_missing, "commits were told to clients and are not in the log"),
            (self.rolled_back_but_committed, "commits were told to clients as rolled back"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        wrong.extend(counts.map(|(count, words)| format!("{count} {words}")));
        (!wrong.is_empty()).then(|| wrong.join("\n"))
    }

    /// For people and programs.
    pub(crate) fn document(&self) -> Document {
        let whole = serde_json::to_value(self).unwrap_or_default();
        let rows = whole.as_object().into_iter().flatten();
        let rows = rows.map(|(name, value)| vec![name.replace('_', " "), value.to_string()]);
        Document { rows: rows.collect(), whole, ..Document::default() }
    }
}

/// `dev verify`: reads, shows, and fails if anything is wrong.
pub(crate) fn run(layout: &Layout, output: Output) -> Result<(), Failure> {
    let verified = read(layout)?;
    output.show_line(&verified.document())?;
    match verified.complaint() {
        None => Ok(()),
        Some(why) => Err(complain(&why, layout)),
    }
}

/// The stores do not agree.
pub(crate) fn complain(why: &str, layout: &Layout) -> Failure {
    let dir = layout.store(COORDINATOR);
    let what = "the stores do not agree with each other or with what was told";
    let next = format!("unanimous log dump {}", dir.display());
    Failure::new(Code::CheckFailed, what, why, next)
        .or(format!("less {}", layout.log_file(COORDINATOR).display()))
}

fn read(layout: &Layout) -> Result<Verified, Failure> {
    let mut verified = read_coordinator(layout)?;
    let databases = layout.databases()?;
    let kept_in = |bank| databases.iter().find(|(at, _)| *at == bank).map(|(_, database)| database);
    for bank in BANKS {
        if let Some(database) = kept_in(bank) {
            let totals = runtime()?.block_on(database.totals());
            let totals = totals.map_err(|error| database_failed(bank, &*error))?;
            verified.sum_expected += totals.sum_expected;
            verified.sum_actual += totals.sum_actual;
            verified.in_doubt += count(totals.in_doubt);
            continue;
        }
        let dir = layout.store(bank);
        let summary = embedded::inspect(&dir).map_err(|error| {
            let next = format!("unanimous dev verify {}", layout.root().display());
            let what = format!("the store of {bank} cannot be read");
            Failure::new(Code::BankStore, what, crate::connect::causes(&error), next)
        })?;
        verified.sum_expected += summary.sum_expected;
        verified.sum_actual += summary.sum_actual;
        verified.in_doubt += count(summary.in_doubt.len());
    }
    Ok(verified)
}

fn read_coordinator(layout: &Layout) -> Result<Verified, Failure> {
    let dir = layout.store(COORDINATOR);
    let again = format!("unanimous dev verify {}", layout.root().display());
    let stored = unanimous_recovery::read_records(&dir)
        .map_err(|error| Failure::from_open(&error, &dir, &again))?;
    let mut lives = Lives::default();
    let mut recovered = Recovered::default();
    for stored in stored {
        let record = decode_record(&stored.bytes).map_err(|error| {
            let next = format!("unanimous log verify {}", dir.display());
            let what = format!("record {} cannot be read", stored.lsn.0);
            Failure::new(Code::LogDamaged, what, error.to_string(), next)
        })?;
        lives.fold(&record);
        recovered.fold(stored.lsn, record);
    }
    let heuristic = recovered.transactions().filter(|(_, t)| t.state() == State::Heuristic).count();
    let unfinished = recovered.transactions().count() - heuristic;
    let (told_committed, told_rolled_back) = read_answers(layout)?;
    let committed: BTreeSet<&Gtrid> = recovered.committed().collect();
    let dropped =
        |gtrid: &&Gtrid| recovered.outcome_floor() >= Some((gtrid.owner().epoch, gtrid.sequence()));
    let told = told_committed.iter().chain(&told_rolled_back);
    let missing = told_committed.iter().filter(|gtrid| !committed.contains(gtrid));
    Ok(Verified {
        in_doubt: count(unfinished),
        heuristic: count(heuristic.max(lives.heuristic.len())),
        commits_logged: count(committed.len()),
        outcomes_dropped: count(told.filter(dropped).count()),
        finished_by_recovery: lives.finished_by_recovery,
        acknowledged_missing: count(missing.filter(|gtrid| !dropped(gtrid)).count()),
        rolled_back_but_committed: count(
            told_rolled_back.iter().filter(|gtrid| committed.contains(gtrid)).count(),
        ),
        ..Verified::default()
    })
}

/// In which life of the coordinator what was done.
#[derive(Debug, Default)]
struct Lives {
    epoch: u32,
    heuristic: BTreeSet<Gtrid>,
    finished_by_recovery: u64,
}

impl Lives {
    fn fold(&mut self, record: &Record) {
        match record {
            Record::Boot { epoch } => self.epoch = *epoch,
            Record::Heuristic { gtrid, .. }
            | Record::Forced { gtrid, .. }
            | Record::Carried { gtrid, heuristic: true, .. } => {
                self.heuristic.insert(*gtrid);
            }
            Record::End { gtrid } => {
                self.finished_by_recovery += u64::from(gtrid.owner().epoch < self.epoch);
            }
            Record::Commit { .. }
            | Record::Carried { .. }
            | Record::Matched { .. }
            | Record::CarriedOutcomes { .. }
            | Record::Forgotten { .. }
            | Record::Participant { .. }
            | Record::Labelled { .. }
            | Record::OperatorAct { .. }
            | Record::OutcomeFloor { .. } => {}
        }
    }
}

/// The file in which the load notes what it was told: `C` or `R`, a space, the gtrid.
fn read_answers(layout: &Layout) -> Result<(Vec<Gtrid>, Vec<Gtrid>), Failure> {
    let path = layout.answers();
    let failed = |error: &dyn std::fmt::Display| {
        let next = format!("less {}", path.display());
        Failure::io(&format!("reading {}", path.display()), error, next)
    };
    let (mut committed, mut rolled_back) = (Vec::new(), Vec::new());
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((committed, rolled_back)),
        opened => opened.map_err(|error| failed(&error))?,
    };
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| failed(&error))?;
        let (word, gtrid) = line.split_once(' ').unwrap_or_default();
        let gtrid: Gtrid = gtrid.parse().map_err(|error| failed(&error))?;
        match word {
            "C" => committed.push(gtrid),
            "R" => rolled_back.push(gtrid),
            _ => return Err(failed(&format!("a line that starts with {word:?}"))),
        }
    }
    Ok((committed, rolled_back))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{LogId, Owner};

    fn gtrid(sequence: u64) -> Gtrid {
        let log = LogId { cluster: 0, slot: 0, incarnation: 1 };
        Gtrid::new(Owner { log, epoch: 1 }, sequence, 0)
    }

    #[test]
    fn only_what_ended_in_a_later_life_was_finished_by_recovery() {
        let mut lives = Lives::default();
        let end = |sequence| Record::End { gtrid: gtrid(sequence) };
        let boot = |epoch| Record::Boot { epoch };
        for record in [boot(1), end(1), boot(1), boot(2), end(2)] {
            lives.fold(&record);
        }
        assert_eq!(lives.finished_by_recovery, 1);
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_complained_about() {
        let good = Verified { sum_expected: 5, sum_actual: 5, ..Verified::default() };
        assert_eq!(good.complaint(), None);
        let wrong = [
            Verified { sum_actual: 6, ..good.clone() },
            Verified { in_doubt: 1, ..good.clone() },
            Verified { heuristic: 1, ..good.clone() },
            Verified { acknowledged_missing: 1, ..good.clone() },
            Verified { rolled_back_but_committed: 1, ..good },
        ];
        for verified in wrong {
            assert!(verified.complaint().is_some(), "{verified:?}");
        }
    }
}
