//! `unanimous doctor`: the log compared with what participants hold, and what is wrong with both.

use crate::cli::Global;
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape_lines, grouped};
use crate::runtime;
use unanimous_proto::v1;
use v1::Severity;

/// Asks, shows, and ends with the worst that was found.
pub(crate) fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let address = &global.admin_address;
    let found = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let found = admin.diagnose(v1::DiagnoseRequest {}).await;
        found.map_err(|status| Failure::from_status(&status, address, "comparing"))
    })?;
    let found = found.into_inner();
    let whole = canonical_json("DiagnoseResponse", &found)?;
    output.show(&Document {
        items: Some(whole["diagnoses"].as_array().cloned().unwrap_or_default()),
        whole,
        header: vec!["SEVERITY", "CODE", "WHERE", "WHAT"],
        rows: found.diagnoses.iter().map(row).collect(),
        below: escape_lines(&below(&found)),
        ids: found.diagnoses.iter().map(|one| finding(one).code).collect(),
        ..Document::default()
    })?;
    verdict(&found)
}

fn finding(diagnosis: &v1::Diagnosis) -> v1::Finding {
    diagnosis.finding.clone().unwrap_or_default()
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
        Severity::Unspecified => "unknown",
    }
}

fn row(diagnosis: &v1::Diagnosis) -> Vec<String> {
    let found = finding(diagnosis);
    vec![word(found.severity()).to_owned(), found.code.clone(), place(diagnosis), found.what]
}

/// What it is about, the transaction by the end of its id.
fn place(diagnosis: &v1::Diagnosis) -> String {
    let v1::Diagnosis { participant, resource_id, gtrid, .. } = diagnosis;
    let short = gtrid.get(gtrid.len().saturating_sub(8)..).unwrap_or_default();
    let words = [participant.as_str(), resource_id.as_str(), short];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "coordinator".to_owned() } else { words.join(" ") }
}

/// What was compared, and why each finding matters and what to do about it.
fn below(found: &v1::DiagnoseResponse) -> String {
    let mut text = String::new();
    for diagnosis in &found.diagnoses {
        let v1::Finding { code, why, next, .. } = finding(diagnosis);
        text += &format!("\n{code} at {}\n  why:  {why}\n  next: {next}\n", place(diagnosis));
    }
    let expected = grouped(found.branches_expected);
    let (held, asked) = (grouped(found.branches_prepared), found.resources_examined);
    text += &format!(
        "\nCompared: {expected} branches that the log counts on, {held} that {asked} resources \
         hold prepared.\n"
    );
    text
}

fn verdict(found: &v1::DiagnoseResponse) -> Result<(), Failure> {
    let severity = |one: &v1::Diagnosis| finding(one).severity();
    let Some(worst) = found.diagnoses.iter().max_by_key(|one| severity(one) as i32) else {
        return Ok(());
    };
    let code = match severity(worst) {
        Severity::Critical | Severity::Unspecified => Code::FindingsCritical,
        Severity::Warning => Code::FindingsWarning,
        Severity::Notice => return Ok(()),
    };
    let count = found.diagnoses.iter().filter(|one| severity(one) == severity(worst)).count();
    let what = format!("{count} of {} findings: {}", found.diagnoses.len(), word(severity(worst)));
    let v1::Finding { what: why, next, .. } = finding(worst);
    Err(Failure::new(code, what, why, next))
}
