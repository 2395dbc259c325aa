//! `unanimous status`: how the coordinator is.

use crate::cli::Global;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape_lines, short_duration};
use crate::runtime;
use unanimous_proto::v1;

/// Asks and shows.
pub(crate) fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let address = &global.admin_address;
    let status = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        admin
            .get_status(v1::GetStatusRequest {})
            .await
            .map_err(|status| Failure::from_status(&status, address, "asking for the status"))
    })?;
    let status = status.into_inner();
    output.show(&Document {
        whole: canonical_json("GetStatusResponse", &status)?,
        above: escape_lines(&sentence(&status)),
        rows: rows(&status),
        below: escape_lines(&next(&status)),
        ids: status.coordinator.iter().map(owner_words).collect(),
        ..Document::default()
    })
}

fn sentence(status: &v1::GetStatusResponse) -> String {
    let mut chars = status.summary.chars();
    let first: String =
        chars.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.\n\n", chars.as_str())
}

/// Commands for what needs a person, the worst first.
fn next(status: &v1::GetStatusResponse) -> String {
    let given_up = v1::LogDirectoryState::GivenUp;
    let lost = status.log_directories.iter().any(|directory| directory.state() == given_up);
    let commands = [
        (status.log_behind, "restore a log that is not behind, see: unanimous orphan list"),
        (lost, "replace the disk, then: unanimous serve --rebuild with both directories"),
        (status.log_space_low, "free some space on the log's file system: df -h"),
        (status.transactions_heuristic > 0, "unanimous tx list --filter 'state=HEURISTIC'"),
        (status.transactions_stuck > 0, "unanimous tx list --filter 'stuck=true'"),
        (status.orphans > 0, "unanimous orphan list"),
        (status.proposals > 0, "unanimous force list"),
    ];
    let commands: Vec<&str> =
        commands.into_iter().filter(|(needed, _)| *needed).map(|(_, command)| command).collect();
    match commands.as_slice() {
        [] => String::new(),
        commands => format!("\nnext: {}\n", commands.join("\n      ")),
    }
}

fn owner_words(owner: &v1::Owner) -> String {
    let v1::Owner { cluster, slot, incarnation, epoch } = owner;
    format!("cluster {cluster} slot {slot} incarnation {incarnation:08x} epoch {epoch}")
}

fn rows(status: &v1::GetStatusResponse) -> Vec<Vec<String>> {
    let owner = status.coordinator.as_ref().map(owner_words).unwrap_or_default();
    let group = match status.frames_total {
        0 => String::new(),
        frames => format!(", {:.1} records a frame", status.records_total as f64 / frames as f64),
    };
    let log = format!(
        "{}, frame {}, {} bytes, {} of them frames, {} compactions{group}{}",
        status.data_dir,
        status.durable_frame,
        status.log_bytes,
        status.log_retained_bytes,
        status.compactions_total,
        if status.log_behind { ", BEHIND what participants were told" } else { "" }
    );
    let low = if status.log_space_low { "LOW: nothing begins" } else { "ample" };
    let space = format!("{low}, {} bytes free", status.log_free_bytes);
    let now = format!(
        "{} transactions: {} active, {} in doubt, {} heuristic, {} stuck",
        status.transactions,
        status.transactions_active,
        status.transactions_in_doubt,
        status.transactions_heuristic,
        status.transactions_stuck
    );
    let since = format!(
        "{} begun, {} committed, {} rolled back, {} heuristic, {} refused",
        status.begun_total,
        status.committed_total,
        status.rolled_back_total,
        status.heuristic_total,
        status.refused_total
    );
    let recovered = format!(
        "{} taken over from the log, {} of them finished",
        status.recovered_total, status.recovered_finished_total
    );
    let operators = format!(
        "{} forced, {} entries in the audit, {} acts wait for a second person",
        status.forced_total, status.audit_entries, status.proposals
    );
    let sessions = format!(
        "{} of {} known participants, {} clients connected",
        status.participants_connected, status.participants_known, status.clients_connected
    );
    let version = format!("{}, up {}", status.version, short_duration(status.uptime_ms));
    let directories = status.log_directories.iter().map(directory);
    let mut rows =
        vec![("coordinator", owner), ("version", version), ("log", log), ("space", space)];
    rows.extend(directories.map(|words| ("directory", words)));
    rows.extend([
        ("now", now),
        ("sessions", sessions),
        ("since start", since),
        ("recovered", recovered),
        ("operators", operators),
        ("orphans", format!("{} branches that no record explains", status.orphans)),
        ("unexpected", format!("{} messages", status.unexpected_messages_total)),
        ("not allowed", format!("{} calls", status.refused_calls_total)),
    ]);
    rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}

fn directory(directory: &v1::LogDirectory) -> String {
    let state = match directory.state() {
        v1::LogDirectoryState::Good => "good",
        v1::LogDirectoryState::Rebuilt => "good, REBUILT from the other one at the start",
        v1::LogDirectoryState::GivenUp => "GIVEN UP: not written any more",
        v1::LogDirectoryState::Unspecified => "in a state that this version does not know",
    };
    let detail = match directory.detail.as_str() {
        "" => String::new(),
        detail => format!(" ({detail})"),
    };
    format!("{} {state}{detail}", directory.dir)
}
