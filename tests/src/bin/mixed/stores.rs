//! What the stopped banks hold, read afresh, against what clients were told.

use super::fleet::{Dirs, Victim};
use super::transfers::{Ledger, Move};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use unanimous_sdk::Gtrid;
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_tests::real::Report;
use unanimous_tests::real::memory::Ended;

/// What is in each account at first, in hundredths.
const OPENING_CENTS: i64 = 100_000;
/// Reads the SQLite file without any code of the bank's.
const READ: &str = include_str!("read_store.py");

#[derive(Debug, Deserialize)]
struct Store {
    /// In cents, account 1 first.
    balances: Vec<i64>,
    prepared: usize,
    /// What each transfer has done, if the store remembers: (gtrid, account, cents).
    #[serde(default)]
    statement: Option<Vec<(String, u32, i64)>>,
}

/// Compares every account, and every transfer where the store remembers it.
pub(crate) fn verify(
    python: &Path,
    dirs: &Dirs,
    ledger: &Ledger,
    report: &mut Report,
) -> anyhow::Result<()> {
    let [rust, python] = [read_rust(&dirs[0])?, read_python(python, &dirs[1], &[])?];
    report.field("left_prepared", rust.prepared + python.prepared);
    let stores = [(Victim::Rust, &rust), (Victim::Python, &python)];
    let (mut sum, mut sum_expected) = (0, 0);
    for (bank, store) in stores {
        let name = bank.name();
        report.must(store.prepared == 0, || format!("{name}: {} left prepared", store.prepared));
        let mut expected: Vec<i64> = store.balances.iter().map(|_| OPENING_CENTS).collect();
        for work in committed(ledger).flat_map(|(_, moves)| moves).filter(|work| work.bank == bank)
        {
            let index = usize::try_from(work.account)?.checked_sub(1).context("from 1")?;
            *expected.get_mut(index).context("an account of the bank")? += work.cents;
        }
        for (index, (balance, expected)) in store.balances.iter().zip(&expected).enumerate() {
            report.must(balance == expected, || {
                format!("{name}: account {} has {balance} instead of {expected}", index + 1)
            });
        }
        let overdrawn = store.balances.iter().filter(|balance| **balance < 0).count();
        report.must(overdrawn == 0, || format!("{name}: {overdrawn} accounts are overdrawn"));
        sum += store.balances.iter().sum::<i64>();
        sum_expected += OPENING_CENTS * i64::try_from(store.balances.len())?;
    }
    report.field("sum_expected", sum_expected);
    report.field("sum_actual", sum);
    report.must(sum == sum_expected, || "money has come or gone".to_owned());
    verify_statement(&python.statement.context("a statement")?, ledger, report)
}

/// The transfers that were told committed, with what they have moved.
fn committed(ledger: &Ledger) -> impl Iterator<Item = (&Gtrid, &Vec<Move>)> {
    let committed = ledger.iter().filter(|(_, transfer)| transfer.told == Ended::Committed);
    committed.map(|(gtrid, transfer)| (gtrid, &transfer.moves))
}

/// Each committed transfer is there once and whole, and there is nothing else.
fn verify_statement(
    statement: &[(String, u32, i64)],
    ledger: &Ledger,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut found = BTreeMap::<Gtrid, BTreeMap<u32, i64>>::new();
    for (gtrid, account, cents) in statement {
        *found.entry(gtrid.parse()?).or_default().entry(*account).or_default() += cents;
    }
    for (gtrid, moves) in committed(ledger) {
        let mut expected = BTreeMap::new();
        for work in moves.iter().filter(|work| work.bank == Victim::Python) {
            *expected.entry(work.account).or_default() += work.cents;
        }
        let found = found.remove(gtrid).unwrap_or_default();
        report.must(found == expected, || {
            format!("{gtrid} was told committed: {found:?} instead of {expected:?}")
        });
    }
    for gtrid in found.keys() {
        let told = ledger.get(gtrid).map(|transfer| &transfer.told);
        report.must(false, || format!("{gtrid} has changed accounts, and was told {told:?}"));
    }
    Ok(())
}

fn read_rust(dir: &Path) -> anyhow::Result<Store> {
    let accounts = Accounts::open(dir, Opening::default())?;
    let (balances, prepared) = (accounts.balances(), accounts.in_doubt().len());
    accounts.close()?;
    Ok(Store { balances, prepared, statement: None })
}

fn read_python(python: &Path, dir: &Path, more: &[&str]) -> anyhow::Result<Store> {
    let mut command = Command::new(python);
    command.args(["-c", READ]).arg(dir.join("bank.sqlite")).args(more);
    let output = command.output().context("reading the bank's store")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "reading the bank's store: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// One cent from nowhere.
pub(crate) fn plant(python: &Path, dirs: &Dirs) -> anyhow::Result<()> {
    read_python(python, &dirs[1], &["--plant"]).map(drop)
}
