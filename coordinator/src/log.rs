//! `unanimous log`: the log of a stopped coordinator, read only.

use crate::cli::{Format, LogCommand};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output, escape, write_stdout};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};
use unanimous_core::record::{BranchRecord, OutcomeRecord};
use unanimous_core::{AuditEntry, Bqual, BranchResult, Decision, Record, ResourceId};
use unanimous_recovery::codec::{CodecError, decode_record};
use unanimous_recovery::{LogKind, StoredRecord};

/// Does a `log` command.
pub(crate) fn run(command: &LogCommand, output: Output) -> Result<(), Failure> {
    match command {
        LogCommand::Verify(args) => verify(&args.dir(), output),
        LogCommand::Dump(args) => dump(&args.dir(), output),
    }
}

fn verify(dir: &Path, output: Output) -> Result<(), Failure> {
    let again = format!("unanimous log verify {}", dir.display());
    let report = unanimous_recovery::verify(dir, LogKind::Coordinator)
        .map_err(|error| from_open(&error, dir, &again))?;
    let id = report.id;
    let end = if report.clean { "clean" } else { "a kill or a crash" };
    let owner =
        format!("cluster {} slot {} incarnation {:08x}", id.cluster, id.slot, id.incarnation);
    let place = if report.in_place { "where it was made" } else { "moved or copied" };
    let rows = [
        ("log", owner),
        ("last stop", end.to_owned()),
        ("place", place.to_owned()),
        ("frames", report.frames.to_string()),
        ("records", report.records.to_string()),
        ("last frame", report.last_frame.0.to_string()),
        ("beyond the witness", format!("{} frames", report.unwitnessed)),
        ("verdict", "good".to_owned()),
    ];
    output.show(&Document {
        whole: json!({
            "cluster": id.cluster,
            "slot": id.slot,
            "incarnation": format!("{:08x}", id.incarnation),
            "clean": report.clean,
            "in_place": report.in_place,
            "generation": report.generation,
            "frames": report.frames,
            "records": report.records,
            "last_frame": report.last_frame.0,
            "next_lsn": report.next_lsn.0,
            "unwitnessed": report.unwitnessed,
        }),
        rows: rows.map(|(name, value)| vec![name.to_owned(), value]).to_vec(),
        ids: vec![format!("{:08x}", id.incarnation)],
        ..Document::default()
    })
}

/// What to do about a damaged log is more than looking at it again.
fn from_open(error: &unanimous_recovery::OpenError, dir: &Path, again: &str) -> Failure {
    if error.class() != unanimous_recovery::ErrorClass::Damaged {
        return Failure::from_open(error, dir, again);
    }
    let shown = dir.display();
    Failure::new(
        Code::LogDamaged,
        "the log is damaged",
        error.to_string(),
        format!("unanimous log dump {shown}, for what can be read up to the damage"),
    )
    .or(format!(
        "restore the newest copy to another directory, then serve it with --copied; \
                 keep {shown} as it is"
    ))
}

fn dump(dir: &Path, output: Output) -> Result<(), Failure> {
    let again = format!("unanimous log dump {}", dir.display());
    let (records, damage) = unanimous_recovery::read_records_lenient(dir);
    let shown = show_records(&records, output, dir);
    shown?;
    match damage {
        None => Ok(()),
        Some(error) => Err(Failure::from_open(&error, dir, &again)),
    }
}

fn show_records(records: &[StoredRecord], output: Output, dir: &Path) -> Result<(), Failure> {
    let decode = |stored: &StoredRecord| {
        decode_record(&stored.bytes).map_err(|error| unreadable(stored, &error, dir))
    };
    match output.format() {
        // Line by line: a log may be larger than what fits in memory twice.
        Format::Table | Format::Wide => records.iter().try_for_each(|stored| {
            let line = line(stored, &decode(stored)?, output);
            write_stdout(format!("{}\n", escape(&line)).as_bytes())
        }),
        Format::Jsonl => records.iter().try_for_each(|stored| {
            write_stdout(format!("{}\n", value(stored, &decode(stored)?)).as_bytes())
        }),
        Format::Id => records.iter().try_for_each(|stored| match gtrid(&decode(stored)?) {
            Some(gtrid) => write_stdout(format!("{gtrid}\n").as_bytes()),
            None => Ok(()),
        }),
        Format::Json | Format::Yaml => {
            let values: Result<Vec<Value>, Failure> =
                records.iter().map(|stored| Ok(value(stored, &decode(stored)?))).collect();
            output.show(&Document { whole: json!({ "records": values? }), ..Document::default() })
        }
    }
}

fn unreadable(stored: &StoredRecord, error: &CodecError, dir: &Path) -> Failure {
    let code = match error {
        CodecError::UnknownTag(_) => Code::LogNewer,
        _ => Code::LogDamaged,
    };
    let what = format!("record {} in frame {} cannot be read", stored.lsn.0, stored.frame.0);
    let next = format!("unanimous log verify {}", dir.display());
    Failure::new(code, what, error.to_string(), next)
}

fn gtrid(record: &Record) -> Option<unanimous_core::Gtrid> {
    match record {
        Record::Boot { .. }
        | Record::OutcomeFloor { .. }
        | Record::CarriedOutcomes { .. }
        | Record::Participant { .. } => None,
        Record::OperatorAct { entry } => entry.gtrid,
        Record::Commit { gtrid, .. }
        | Record::Carried { gtrid, .. }
        | Record::Labelled { gtrid, .. }
        | Record::Forced { gtrid, .. }
        | Record::Forgotten { gtrid, .. }
        | Record::Heuristic { gtrid, .. }
        | Record::Matched { gtrid, .. }
        | Record::End { gtrid } => Some(*gtrid),
    }
}

fn line(stored: &StoredRecord, record: &Record, output: Output) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(stored.unix_ms));
    let at = at.map(|at| output.at(at)).unwrap_or_default();
    let what = match record {
        Record::Boot { epoch } => format!("BOOT       epoch {epoch}"),
        Record::Commit { gtrid, name, branches } => {
            format!("COMMIT     {gtrid} {name} {}", branches_words(branches))
        }
        Record::Heuristic { gtrid, name, decision, branches } => {
            let decision = decision_word(*decision);
            format!("HEURISTIC  {gtrid} {name} decided {decision} {}", branches_words(branches))
        }
        Record::Matched { gtrid, bqual, result } => {
            format!("MATCHED    {gtrid} branch {bqual} {}", result_word(*result))
        }
        Record::End { gtrid } => format!("END        {gtrid}"),
        Record::OutcomeFloor { epoch, sequence } => {
            format!("FLOOR      epoch {epoch} sequence {sequence}")
        }
        Record::Carried { gtrid, name, decision, heuristic, branches, .. } => {
            let heuristic = if *heuristic { "heuristic, " } else { "" };
            let decision = decision_word(*decision);
            let branches = branches_words(branches);
            format!("CARRIED    {gtrid} {name} {heuristic}decided {decision} {branches}")
        }
        Record::CarriedOutcomes { committed } => {
            let ids: Vec<String> = committed.iter().map(|one| one.gtrid.to_string()).collect();
            format!("OUTCOMES   committed {}", ids.join(" "))
        }
        Record::Forgotten { gtrid, bqual } => format!("FORGOTTEN  {gtrid} branch {bqual}"),
        Record::Participant { name, resources } => {
            format!("KNOWN      {name} {}", resource_words(resources).join(" "))
        }
        Record::Labelled { gtrid, labels } => {
            let words: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
            format!("LABELLED   {gtrid} {}", words.join(" "))
        }
        Record::Forced { gtrid, name, decision, branches, asserted, resolved, .. } => {
            let resolved = if *resolved { "resolved, " } else { "" };
            let decision = decision_word(*decision);
            let (asserted, branches) = (asserted.len(), branches_words(branches));
            format!(
                "FORCED     {gtrid} {name} {resolved}decided {decision} {branches}, \
                 {asserted} asserted"
            )
        }
        Record::OperatorAct { entry } => {
            let AuditEntry { number, who, from, kind, result, reason, .. } = &**entry;
            let about = entry.gtrid.map(|gtrid| gtrid.to_string()).unwrap_or_default();
            format!(
                "OPERATOR   {about} {number}: {kind:?} {result:?} by {who} from {from}: {reason}"
            )
        }
    };
    format!("{:>10} {:>10}  {at}  {what}", stored.frame.0, stored.lsn.0)
}

fn branches_words(branches: &[BranchRecord]) -> String {
    let words = branches.iter().map(|branch| {
        let result = branch.result.map_or("pending", result_word);
        format!("{}={result}", branch.participant)
    });
    words.collect::<Vec<_>>().join(" ")
}

fn resource_words(resources: &[ResourceId]) -> Vec<&str> {
    resources.iter().map(ResourceId::as_str).collect()
}

fn decision_word(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "commit",
        Decision::Rollback => "rollback",
    }
}

fn result_word(result: BranchResult) -> &'static str {
    match result {
        BranchResult::Committed => "committed",
        BranchResult::RolledBack => "rolled back",
        BranchResult::Mixed => "mixed",
        BranchResult::Hazard => "hazard",
    }
}

fn value(stored: &StoredRecord, record: &Record) -> Value {
    let mut value = match record {
        Record::Boot { epoch } => json!({ "record": "boot", "epoch": epoch }),
        Record::Commit { gtrid, name, branches } => json!({
            "record": "commit",
            "gtrid": gtrid.to_string(),
            "name": name.as_str(),
            "branches": branches.iter().map(branch_value).collect::<Vec<_>>(),
        }),
        Record::Heuristic { gtrid, name, decision, branches } => json!({
            "record": "heuristic",
            "gtrid": gtrid.to_string(),
            "name": name.as_str(),
            "decision": decision_word(*decision),
            "branches": branches.iter().map(branch_value).collect::<Vec<_>>(),
        }),
        Record::Matched { gtrid, bqual, result } => json!({
            "record": "matched",
            "gtrid": gtrid.to_string(),
            "bqual": bqual.to_string(),
            "result": result_word(*result),
        }),
        Record::End { gtrid } => json!({ "record": "end", "gtrid": gtrid.to_string() }),
        Record::OutcomeFloor { epoch, sequence } => {
            json!({ "record": "outcome_floor", "epoch": epoch, "sequence": sequence })
        }
        Record::Carried { gtrid, name, decision, heuristic, branches, matched } => json!({
            "record": "carried",
            "gtrid": gtrid.to_string(),
            "name": name.as_str(),
            "decision": decision_word(*decision),
            "heuristic": heuristic,
            "branches": branches.iter().map(branch_value).collect::<Vec<_>>(),
            "matched": words(matched),
        }),
        Record::CarriedOutcomes { committed } => json!({
            "record": "carried_outcomes",
            "committed": committed.iter().map(outcome_value).collect::<Vec<_>>(),
        }),
        Record::Forgotten { gtrid, bqual } => json!({
            "record": "forgotten",
            "gtrid": gtrid.to_string(),
            "bqual": bqual.to_string(),
        }),
        Record::Participant { name, resources } => json!({
            "record": "participant",
            "name": name.as_str(),
            "resource_ids": resource_words(resources),
        }),
        Record::Labelled { gtrid, labels } => json!({
            "record": "labelled",
            "gtrid": gtrid.to_string(),
            "labels": labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        }),
        Record::Forced { gtrid, name, decision, branches, matched, asserted, resolved } => json!({
            "record": "forced",
            "gtrid": gtrid.to_string(),
            "name": name.as_str(),
            "decision": decision_word(*decision),
            "branches": branches.iter().map(branch_value).collect::<Vec<_>>(),
            "matched": words(matched),
            "asserted": words(asserted),
            "resolved": resolved,
        }),
        Record::OperatorAct { entry } => audit_value(entry),
    };
    value["frame"] = stored.frame.0.into();
    value["lsn"] = stored.lsn.0.into();
    value["unix_ms"] = stored.unix_ms.into();
    value
}

fn audit_value(entry: &AuditEntry) -> Value {
    json!({
        "record": "operator_act",
        "gtrid": entry.gtrid.map(|gtrid| gtrid.to_string()),
        "bqual": entry.bqual.map(|bqual| bqual.to_string()),
        "number": entry.number,
        "at_ms": entry.at_ms,
        "who": entry.who,
        "from": entry.from,
        "kind": format!("{:?}", entry.kind),
        "result": format!("{:?}", entry.result),
        "end": entry.end.map(result_word),
        "before": entry.before,
        "after": entry.after,
        "plan": entry.plan,
        "reason": entry.reason,
        "evidence": entry.evidence,
        "concerns": entry.concerns,
    })
}

fn words(bquals: &[Bqual]) -> Vec<String> {
    bquals.iter().map(ToString::to_string).collect()
}

fn outcome_value(outcome: &OutcomeRecord) -> Value {
    json!({
        "gtrid": outcome.gtrid.to_string(),
        "branches": words(&outcome.branches),
        "unforgotten": words(&outcome.unforgotten),
    })
}

fn branch_value(branch: &BranchRecord) -> Value {
    let evidence = branch.evidence.as_ref().map(|evidence| {
        let data: String = evidence.data.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "kind": evidence.kind, "data": data })
    });
    json!({
        "bqual": branch.bqual.to_string(),
        "participant": branch.participant.as_str(),
        "resource_id": branch.resource.as_str(),
        "inquires": branch.inquires,
        "evidence": evidence,
        "result": branch.result.map(result_word),
        "detail": branch.detail,
    })
}
