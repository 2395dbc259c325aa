//! `unanimous participant` and `unanimous orphan`: who takes part, and what nobody explains.

use crate::cli::{Format, Global};
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, talk};
use crate::runtime;
use serde_json::Value;
use unanimous_proto::v1;

/// Everybody the coordinator knows.
pub(crate) fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let address = &global.admin_address;
    let listed = runtime()?.block_on(async {
        let mut admin = connect::admin(address).await?;
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

/// Branches that are left alone.
pub(crate) fn orphans(global: &Global, output: Output) -> Result<(), Failure> {
    let address = &global.admin_address;
    let listed = runtime()?.block_on(async {
        let mut admin = connect::admin(address).await?;
        let listed = admin.list_orphans(v1::ListOrphansRequest {}).await;
        listed.map_err(|status| Failure::from_status(&status, address, "listing orphans"))
    })?;
    let listed = listed.into_inner();
    let whole = canonical_json("ListOrphansResponse", &listed)?;
    let row = |orphan: &v1::Orphan| {
        vec![
            orphan.participant.clone(),
            output.ago(orphan.first_asked_ms),
            output.ago(orphan.last_asked_ms),
            orphan.gtrid.clone(),
            orphan.bqual.clone(),
            orphan.reason.clone(),
        ]
    };
    output.show(&Document {
        items: items(&whole, "orphans"),
        whole,
        header: vec!["PARTICIPANT", "FIRST ASKED", "LAST ASKED", "TRANSACTION", "BRANCH", "WHY"],
        rows: listed.orphans.iter().map(row).collect(),
        wide_columns: vec![4],
        ids: listed.orphans.iter().map(|o| format!("{}.{}", o.gtrid, o.bqual)).collect(),
        ..Document::default()
    })?;
    if listed.not_listed > 0 && matches!(output.format(), Format::Table | Format::Wide) {
        talk(format!("{} more questions were about branches not listed", listed.not_listed));
    }
    Ok(())
}
