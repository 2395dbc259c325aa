//! `unanimous participant`: who takes part, and what waits for whom.

use crate::cli::{Format, Global, ParticipantCommand};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape_lines, grouped};
use crate::runtime;
use crate::tx::{self, HEADER, WIDE_COLUMNS};
use serde_json::Value;
use unanimous_proto::v1;

/// The oldest transactions shown that wait for a participant.
const WAITING_SHOWN: u32 = 5;

/// Does a `participant` command.
pub(crate) fn run(
    command: &ParticipantCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    match command {
        ParticipantCommand::List => list(global, output),
        ParticipantCommand::Describe { name } => describe(global, output, name),
    }
}

/// Everybody the coordinator knows.
fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let address = &global.admin_address;
    let listed = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let listed = admin.list_participants(v1::ListParticipantsRequest {}).await;
        listed.map_err(|status| Failure::from_status(&status, address, "listing participants"))
    })?;
    let listed = listed.into_inner();
    let whole = canonical_json("ListParticipantsResponse", &listed)?;
    output.show(&Document {
        items: items(&whole, "participants"),
        whole,
        header: vec!["NAME", "STATE", "SINCE", "PENDING", "INSTANCES", "RESOURCES"],
        rows: listed.participants.iter().map(|one| row(one, output)).collect(),
        wide_columns: vec![5],
        ids: listed.participants.iter().map(|one| one.name.clone()).collect(),
        ..Document::default()
    })
}

fn describe(global: &Global, output: Output, name: &str) -> Result<(), Failure> {
    let address = &global.admin_address;
    let (participant, waiting) = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let request = v1::GetParticipantRequest { name: name.to_owned() };
        let found = admin.get_participant(request).await.map_err(|status| {
            match Failure::from_status(&status, address, &format!("finding participant {name}")) {
                failure if failure.code() == Code::NotFound => unknown(name, status.message()),
                failure => failure,
            }
        })?;
        let participant = found.into_inner().participant.unwrap_or_default();
        let request = v1::ListTransactionsRequest {
            page_size: WAITING_SHOWN,
            filter: format!("waiting_on=\"{}\"", participant.name),
            ..v1::ListTransactionsRequest::default()
        };
        let doing = "listing what waits for it";
        let listed = admin.list_transactions(request).await;
        let listed = listed.map_err(|status| Failure::from_status(&status, address, doing))?;
        Ok::<_, Failure>((participant, listed.into_inner()))
    })?;
    let mut whole = canonical_json(
        "GetParticipantResponse",
        &v1::GetParticipantResponse { participant: Some(participant.clone()) },
    )?;
    whole["waiting"] = canonical_json("ListTransactionsResponse", &waiting)?;
    output.show(&Document {
        whole,
        rows: described(&participant, output),
        below: escape_lines(&meaning(&participant, &waiting, output)),
        ids: vec![participant.name],
        ..Document::default()
    })
}

fn unknown(name: &str, why: &str) -> Failure {
    let what = format!("no participant {name:?} is known");
    Failure::new(Code::NotFound, what, why, "unanimous participant list")
}

fn described(participant: &v1::Participant, output: Output) -> Vec<Vec<String>> {
    let state = if participant.connected { "connected" } else { "away" };
    let mut rows = vec![
        vec!["name".to_owned(), participant.name.clone()],
        vec!["state".to_owned(), state.to_owned()],
        vec!["pending".to_owned(), format!("{} branches", grouped(participant.branches_pending))],
        vec!["resources".to_owned(), participant.resource_ids.join(" ")],
    ];
    rows.extend(participant.instances.iter().map(|instance| {
        let state = if instance.connected { "connected" } else { "away" };
        let since = output.ago(instance.since_ms);
        let id = instance.instance.get(..8).unwrap_or(&instance.instance);
        vec![format!("process {id}"), format!("{state} for {since}, {}", instance.sdk)]
    }));
    rows
}

/// What its state means, what waits for it, and what to do.
fn meaning(
    participant: &v1::Participant,
    waiting: &v1::ListTransactionsResponse,
    output: Output,
) -> String {
    let name = &participant.name;
    let (meaning, next) = match (participant.connected, waiting.total) {
        (true, 0) => ("It takes part, and nothing waits for it.", "Nothing.".to_owned()),
        (true, _) => (
            "It takes part, and transactions wait for its answer. It is asked again until it \
             answers.",
            format!("unanimous tx list --filter 'waiting_on=\"{name}\"'"),
        ),
        (false, 0) => (
            "It is away, and nothing waits for it. New work at it fails until it is back.",
            format!("Start {name}, if it is needed."),
        ),
        (false, _) => (
            "It is away, and transactions wait for it. What is decided is told when it is back, \
             and it keeps its locks until then; what is undecided rolls back at its time-out.",
            format!("Start {name}: what waits for it ends by itself then."),
        ),
    };
    let mut text = format!("\n{meaning}\nnext: {next}\n");
    if waiting.total > 0 {
        let shown = grouped(waiting.transactions.len() as u64);
        text += &format!("\nThe oldest {shown} of {} that wait for it:\n", grouped(waiting.total));
        let table = Document {
            header: HEADER.to_vec(),
            rows: waiting.transactions.iter().map(|one| tx::row(one, output)).collect(),
            wide_columns: WIDE_COLUMNS.to_vec(),
            ..Document::default()
        };
        text += &table.table(output.format() == Format::Wide);
    }
    text
}

fn items(whole: &Value, name: &str) -> Option<Vec<Value>> {
    Some(whole[name].as_array().cloned().unwrap_or_default())
}

fn row(participant: &v1::Participant, output: Output) -> Vec<String> {
    let since = participant.instances.iter().map(|instance| instance.since_ms).min();
    let connected = participant.instances.iter().filter(|instance| instance.connected).count();
    vec![
        participant.name.clone(),
        if participant.connected { "connected" } else { "away" }.to_owned(),
        since.map_or_else(|| "-".to_owned(), |since_ms| output.ago(since_ms)),
        participant.branches_pending.to_string(),
        connected.to_string(),
        participant.resource_ids.join(" "),
    ]
}
