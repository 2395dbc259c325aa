//! What the two databases hold, made and read by their own command-line clients: nothing of the
//! software that is tried.

use super::fleet::{DATABASE, Databases, TABLES};
use super::transfers::Ledger;
use anyhow::{Context as _, ensure};
use std::collections::{BTreeMap, BTreeSet};
use unanimous_tests::real::Report;
use unanimous_tests::real::memory::Ended;

const OPENING_CENTS: i64 = 100_000;
/// A prepared branch that is not ours, in each server.
const FOREIGN: &str = "somebody-else";

/// A row of `accounts`, or of `entries`.
type Row = Vec<String>;

/// Makes the tables as `unanimous dev` does.
pub(crate) fn create(databases: &Databases) -> anyhow::Result<()> {
    let number = "bigint NOT NULL";
    let rows: Vec<String> =
        (1..=databases.accounts).map(|account| format!("({account}, {OPENING_CENTS})")).collect();
    let rows = rows.join(", ");
    let statements = [
        format!(
            "CREATE TABLE {TABLES}_accounts (account bigint PRIMARY KEY, cents {number},
                 writes {number} DEFAULT 0, CHECK (cents >= 0))"
        ),
        format!(
            "CREATE TABLE {TABLES}_entries (account {number}, number {number},
                 gtrid char(48) NOT NULL, cents {number}, PRIMARY KEY (account, number))"
        ),
        format!("INSERT INTO {TABLES}_accounts (account, cents) VALUES {rows}"),
        "CREATE TABLE foreign_work (id bigint PRIMARY KEY)".to_owned(),
    ];
    for statement in statements {
        databases.postgres.sql(DATABASE, &statement)?;
        databases.mariadb.sql(DATABASE, &statement)?;
    }
    Ok(())
}

/// Somebody else's prepared branch, with an id that is not of our form.
pub(crate) fn prepare_foreign(databases: &Databases) -> anyhow::Result<()> {
    let insert = "INSERT INTO foreign_work VALUES (1)";
    databases
        .postgres
        .sql(DATABASE, &format!("BEGIN; {insert}; PREPARE TRANSACTION '{FOREIGN}'"))?;
    let xa = format!("XA START '{FOREIGN}'; {insert}; XA END '{FOREIGN}'; XA PREPARE '{FOREIGN}'");
    databases.mariadb.sql(DATABASE, &xa)?;
    Ok(())
}

/// Makes a cent from nothing.
pub(crate) fn plant(databases: &Databases) -> anyhow::Result<()> {
    let sql = format!("UPDATE {TABLES}_accounts SET cents = cents + 1 WHERE account = 7");
    databases.mariadb.sql(DATABASE, &sql)?;
    Ok(())
}

fn rows(databases: &Databases, sql: &str) -> anyhow::Result<[Vec<Row>; 2]> {
    let split = |text: String, at: char| -> Vec<Row> {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.split(at).map(ToOwned::to_owned).collect()).collect()
    };
    Ok([
        split(databases.postgres.sql(DATABASE, sql)?, '|'),
        split(databases.mariadb.sql(DATABASE, sql)?, '\t'),
    ])
}

fn number(row: &Row, at: usize) -> anyhow::Result<i64> {
    let text = row.get(at).with_context(|| format!("column {at} of {row:?}"))?;
    text.trim().parse().with_context(|| format!("column {at} of {row:?}"))
}

/// Compares everything with everything.
pub(crate) fn verify(
    databases: &Databases,
    ledger: &Ledger,
    report: &mut Report,
) -> anyhow::Result<()> {
    balances(databases, report)?;
    writers(databases, ledger, report)?;
    prepared(databases, report)
}

/// Both accounts of a pair hold together what they were opened with.
fn balances(databases: &Databases, report: &mut Report) -> anyhow::Result<()> {
    let sql = format!("SELECT account, cents FROM {TABLES}_accounts ORDER BY account");
    let sides = rows(databases, &sql)?;
    let mut sum = 0;
    ensure!(
        sides.iter().all(|side| side.len() == databases.accounts as usize),
        "accounts are missing"
    );
    for (a, b) in sides[0].iter().zip(&sides[1]) {
        let both = number(a, 1)? + number(b, 1)?;
        sum += both;
        report.must(both == 2 * OPENING_CENTS, || {
            format!("accounts {} hold {both} cents together", a[0])
        });
    }
    report.field("sum_expected", 2 * OPENING_CENTS * i64::from(databases.accounts));
    report.field("sum_actual", sum);
    Ok(())
}

/// Both sides of each pair have the same writers in the same order: those told committed.
fn writers(databases: &Databases, ledger: &Ledger, report: &mut Report) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT account, number, gtrid, cents FROM {TABLES}_entries ORDER BY account, number"
    );
    let sides = rows(databases, &sql)?;
    let mut orders: [BTreeMap<i64, Vec<&str>>; 2] = Default::default();
    let mut cents: [BTreeMap<&str, i64>; 2] = Default::default();
    for (side, rows) in sides.iter().enumerate() {
        for row in rows {
            let (account, gtrid) = (number(row, 0)?, row[2].trim());
            let order = orders[side].entry(account).or_default();
            order.push(gtrid);
            let (is, counted) = (number(row, 1)?, i64::try_from(order.len())?);
            report.must(is == counted, || format!("account {account} lacks a writer {counted}"));
            cents[side].insert(gtrid, number(row, 3)?);
        }
    }
    let [a, b] = &orders;
    let differ =
        (1..=i64::from(databases.accounts)).filter(|account| a.get(account) != b.get(account));
    for account in differ.take(10) {
        report.must(false, || format!("the writers of accounts {account} differ"));
    }
    for (gtrid, cents_a) in &cents[0] {
        let cents_b = cents[1].get(gtrid).copied().unwrap_or_default();
        report.must(cents_a + cents_b == 0, || format!("{gtrid}: {cents_a} and {cents_b} cents"));
    }
    let written: BTreeSet<String> = cents[0].keys().map(|gtrid| (*gtrid).to_owned()).collect();
    for (gtrid, told) in ledger {
        let (is, should) = (written.contains(&gtrid.to_string()), *told == Ended::Committed);
        report.must(is == should, || format!("{gtrid} was told {told:?}, written: {is}"));
    }
    report.field("writers_compared", written.len());
    Ok(())
}

/// Nothing of ours is prepared, and what is not ours still is.
fn prepared(databases: &Databases, report: &mut Report) -> anyhow::Result<()> {
    let postgres = databases.postgres.sql(DATABASE, "SELECT gid FROM pg_prepared_xacts")?;
    let mariadb = databases.mariadb.sql(DATABASE, "XA RECOVER")?;
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.trim().is_empty()).map(ToOwned::to_owned).collect()
    };
    let all = [lines(&postgres), lines(&mariadb)];
    let hex: String = FOREIGN.bytes().map(|byte| format!("{byte:02X}")).collect();
    let is_foreign = |line: &String| line.contains(FOREIGN) || line.contains(&hex);
    let foreign = all.iter().filter(|side| side.iter().any(is_foreign)).count();
    report.must(foreign == 2, || format!("a foreign branch was touched: {all:?}"));
    let ours: usize = all.iter().map(|side| side.len()).sum::<usize>() - foreign;
    report.field("left_prepared", ours);
    report.must(ours == 0, || format!("prepared branches are left: {all:?}"));
    Ok(())
}
