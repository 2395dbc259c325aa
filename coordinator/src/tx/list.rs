//! `unanimous tx list`: pages of transactions that match a filter.

use super::words::{HEADER, WIDE_COLUMNS, needs_a_person, row, short_id};
use crate::cli::{Format, Global, LIMIT_DEFAULT, ListArgs, OrderArg};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape, escape_lines, grouped};
use crate::output::{quoted, talk};
use tonic::Status;
use tonic_types::StatusExt;
use unanimous_proto::v1;

/// The most transactions that the coordinator gives at once.
pub(super) const PAGE_MAX: u32 = 1_000;

/// Asks page by page, and shows.
pub(super) async fn run(global: &Global, output: Output, args: &ListArgs) -> Result<(), Failure> {
    let address = &global.admin_address;
    let mut admin = connect::admin(global).await?;
    let mut listed = v1::ListTransactionsResponse::default();
    let mut token = args.page_token.clone();
    let mut wanted = args.limit;
    while wanted > 0 {
        let request = v1::ListTransactionsRequest {
            page_size: wanted.min(PAGE_MAX),
            page_token: token,
            filter: filter(args),
            order: order(args).into(),
        };
        let page = admin
            .list_transactions(request)
            .await
            .map_err(|status| not_listed(&status, address, "tx list", &filter(args)))?
            .into_inner();
        let count = u32::try_from(page.transactions.len()).unwrap_or(u32::MAX);
        wanted = wanted.saturating_sub(count);
        listed.transactions.extend(page.transactions);
        listed.total = page.total;
        listed.next_page_token.clone_from(&page.next_page_token);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    output.show(&document(&listed, output)?)?;
    if matches!(output.format(), Format::Table | Format::Wide) {
        talk(escape_lines(&summary(&listed, args, global)).trim_end());
    }
    Ok(())
}

/// What was given, and what the switches mean.
fn filter(args: &ListArgs) -> String {
    let given = args.filter.text.trim();
    if !args.divergent && !args.resolved {
        return given.to_owned();
    }
    let given = if given.is_empty() { None } else { Some(format!("({given})")) };
    let divergent = args.divergent.then(|| DIVERGENT.to_owned());
    // Whoever compares `resolved` is shown what is.
    let resolved = args.resolved.then(|| "(resolved=true or resolved=false)".to_owned());
    let parts: Vec<String> = [given, divergent, resolved].into_iter().flatten().collect();
    parts.join(" and ")
}

/// A branch pending still does not hide what another one has done.
const DIVERGENT: &str = "(state=HEURISTIC or outcome=HEURISTIC_COMMIT or \
                         outcome=HEURISTIC_ROLLBACK or outcome=HEURISTIC_MIXED or \
                         outcome=HEURISTIC_HAZARD)";

fn order(args: &ListArgs) -> v1::TransactionOrder {
    match args.order {
        OrderArg::Age => v1::TransactionOrder::Unspecified,
        OrderArg::Locked => v1::TransactionOrder::Locked,
    }
}

fn document(listed: &v1::ListTransactionsResponse, output: Output) -> Result<Document, Failure> {
    let whole = canonical_json("ListTransactionsResponse", listed)?;
    let items = whole["transactions"].as_array().cloned().unwrap_or_default();
    Ok(Document {
        whole,
        items: Some(items),
        header: HEADER.to_vec(),
        rows: listed.transactions.iter().map(|transaction| row(transaction, output)).collect(),
        wide_columns: WIDE_COLUMNS.to_vec(),
        ids: listed.transactions.iter().map(|transaction| transaction.gtrid.clone()).collect(),
        ..Document::default()
    })
}

fn summary(listed: &v1::ListTransactionsResponse, args: &ListArgs, global: &Global) -> String {
    let shown = grouped(listed.transactions.len() as u64);
    let mut text = if listed.next_page_token.is_empty() {
        format!("{shown} shown.")
    } else {
        let total = grouped(listed.total);
        format!("{shown} of {total} shown; next: {}", next_page(listed, args, global))
    };
    let mut needy = listed.transactions.iter().filter(|t| needs_a_person(t));
    if let Some(first) = needy.next() {
        let (count, id) = (1 + needy.count(), short_id(&first.gtrid));
        let needs = if count == 1 { "needs" } else { "need" };
        let between = if listed.next_page_token.is_empty() { ' ' } else { '\n' };
        text += &format!("{between}{count} {needs} you: unanimous tx describe {id}");
    }
    text
}

/// The command that goes on, with everything that was asked for.
fn next_page(listed: &v1::ListTransactionsResponse, args: &ListArgs, global: &Global) -> String {
    let mut command = "unanimous tx list".to_owned();
    for (given, switch) in [(args.divergent, "--divergent"), (args.resolved, "--resolved")] {
        command.extend(given.then(|| format!(" {switch}")));
    }
    let mut add = |option: &str, value: &str| command += &format!(" {option} {}", quoted(value));
    if !args.filter.text.is_empty() {
        add("--filter", &args.filter.text);
    }
    if args.limit != LIMIT_DEFAULT {
        add("--limit", &args.limit.to_string());
    }
    if global.output == Format::Wide {
        add("--output", "wide");
    }
    command += &connect::options(global);
    command + &format!(" --page-token {}", quoted(&listed.next_page_token))
}

/// A filter that cannot be read is shown with the place of its first mistake; `command` is the one
/// that was given.
pub(super) fn not_listed(status: &Status, address: &str, command: &str, filter: &str) -> Failure {
    let failure = Failure::from_status(status, address, "listing transactions");
    let metadata = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
    let column = metadata.get("column").and_then(|column| column.parse::<usize>().ok());
    let (Code::InvalidArgument, Some(column)) = (failure.code(), column) else { return failure };
    let before: String = filter.chars().take(column.saturating_sub(1)).collect();
    let place = " ".repeat(escape(&before).chars().count());
    let why = format!("{}\n{}\n{place}^", status.message(), escape(filter));
    let what = "the filter cannot be read";
    let help = format!("unanimous {command} --help");
    match metadata.get("nearest").and_then(|nearest| corrected(filter, column, nearest)) {
        Some(meant) => {
            let next = format!("unanimous {command} --filter {}", quoted(&meant));
            Failure::new(Code::InvalidArgument, what, why, next).or(help)
        }
        None => Failure::new(Code::InvalidArgument, what, why, help),
    }
}

/// With the word at the column replaced, unless it stands in quotes.
fn corrected(filter: &str, column: usize, nearest: &str) -> Option<String> {
    let before: String = filter.chars().take(column.saturating_sub(1)).collect();
    let rest = filter.get(before.len()..)?;
    let word: String =
        rest.chars().take_while(|c| c.is_alphanumeric() || "_-.".contains(*c)).collect();
    (!word.is_empty()).then(|| format!("{before}{nearest}{}", &rest[word.len()..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::words::tests::transaction;
    use super::*;
    use crate::cli::{Cli, Command, TxCommand};
    use clap::Parser;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;
    use v1::TransactionState;

    fn given(args: &[&str]) -> (Global, ListArgs) {
        let cli = Cli::parse_from([&["unanimous", "tx", "list"], args].concat());
        let Command::Tx(TxCommand::List(list)) = cli.command else { panic!() };
        (cli.global, list)
    }

    #[test]
    fn the_summary_names_who_needs_a_person() {
        let (global, args) = given(&[]);
        let mut listed = v1::ListTransactionsResponse {
            transactions: vec![transaction(TransactionState::Committing)],
            total: 1,
            ..v1::ListTransactionsResponse::default()
        };
        assert_eq!(summary(&listed, &args, &global), "1 shown.");
        listed.transactions.push(transaction(TransactionState::Heuristic));
        let told = "2 shown. 1 needs you: unanimous tx describe 21f70c55";
        assert_eq!(summary(&listed, &args, &global), told);
    }

    #[test]
    fn the_next_page_asks_the_same_question() {
        let filter = "name='x' and age>1m";
        let (global, args) = given(&["--filter", filter, "--limit", "2", "-o", "wide"]);
        let listed = v1::ListTransactionsResponse {
            transactions: vec![transaction(TransactionState::Committing); 2],
            next_page_token: "aa".into(),
            total: 3_214,
        };
        let told = summary(&listed, &args, &global);
        let (shown, command) = told.split_once("; next: unanimous tx list ").unwrap();
        assert_eq!(shown, "2 of 3 214 shown");
        assert_eq!(
            command,
            "--filter 'name='\\''x'\\'' and age>1m' --limit 2 --output wide --page-token aa"
        );
        let (global, args) = given(&["--admin-address", "http://[::1]:1"]);
        let told = summary(&listed, &args, &global);
        assert!(told.ends_with("list --admin-address 'http://[::1]:1' --page-token aa"), "{told}");
    }

    #[test]
    fn switches_are_filters_beside_the_given_one() {
        let asked = |args: &[&str]| filter(&given(args).1);
        assert_eq!(asked(&[]), "");
        assert_eq!(asked(&["--filter", "age>1m"]), "age>1m");
        assert_eq!(asked(&["--divergent"]), DIVERGENT);
        assert_eq!(asked(&["--resolved"]), "(resolved=true or resolved=false)");
        assert_eq!(
            asked(&["--divergent", "--resolved", "--filter", "age>1m or tries>3"]),
            format!("(age>1m or tries>3) and {DIVERGENT} and (resolved=true or resolved=false)")
        );
        let (global, args) = given(&["--divergent", "--resolved"]);
        let listed = v1::ListTransactionsResponse {
            next_page_token: "aa".into(),
            ..v1::ListTransactionsResponse::default()
        };
        let told = summary(&listed, &args, &global);
        assert!(told.contains("tx list --divergent --resolved --page-token aa"), "{told}");
    }

    #[test]
    fn a_mistake_is_shown_below_its_place_with_the_command_that_was_meant() {
        let filter = "age>1m and nme=\u{1b}";
        let told = |metadata: &[(&str, &str)]| {
            let metadata: HashMap<String, String> =
                metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "unanimous", metadata);
            let code = tonic::Code::InvalidArgument;
            let status = Status::with_error_details(code, "column 12: found `nme`", details);
            not_listed(&status, "http://h", "tx list", filter).lines(false)
        };
        assert_eq!(
            told(&[("column", "12"), ("nearest", "name")]),
            "error[INVALID_ARGUMENT]: the filter cannot be read\n  \
             why:  column 12: found `nme`\n        \
             age>1m and nme=\\u{1b}\n        \
             \u{20}          ^\n  \
             next: unanimous tx list --filter 'age>1m and name=\\u{1b}'\n        \
             or unanimous tx list --help\n        \
             or unanimous explain INVALID_ARGUMENT\n"
        );
        assert!(told(&[("column", "12")]).contains("next: unanimous tx list --help\n"));
        for column in ["0", "99999999999999999999", "9000000"] {
            assert!(told(&[("column", column), ("nearest", "x")]).starts_with("error["));
        }
    }
}
