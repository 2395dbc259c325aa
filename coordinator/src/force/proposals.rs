//! Acts of two people: one leaves a plan, another one carries it out.

use super::ladder::{self, Given, Step};
use super::{plan, show_done, verb};
use crate::cli::{ApproveArgs, ForceArgs, Global};
use crate::codes::Code;
use crate::confirm::{self, Danger};
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, escape, quoted, talk};
use crate::runtime;
use crate::tx::{enum_word, short_id};
use unanimous_proto::v1;

/// Leaves it. Nothing but the audit is changed, so nothing is asked.
pub(super) fn propose(
    plan: &v1::Plan,
    args: &ForceArgs,
    danger: &Danger<'_>,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let address = &global.admin_address;
    let request = v1::ProposeActRequest {
        act: plan.act.clone(),
        version: plan.version,
        reason: args.reason.clone(),
        evidence: args.evidence.clone().unwrap_or_default(),
    };
    let proposed = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let proposed = admin.propose_act(request).await;
        proposed.map_err(|status| ladder::not_done(&status, plan, danger, address))
    })?;
    let proposed = proposed.into_inner();
    let number = proposed.proposal.as_ref().map(|proposal| proposal.proposal).unwrap_or_default();
    output.show(&Document {
        whole: canonical_json("ProposeActResponse", &proposed)?,
        rows: vec![
            vec!["proposal".to_owned(), number.to_string()],
            vec!["id".to_owned(), danger.id.to_owned()],
        ],
        below: format!("\nnext, by another person: {}\n", approval(number)),
        ids: vec![number.to_string()],
        ..Document::default()
    })
}

fn approval(number: u64) -> String {
    format!("unanimous force approve {number} --reason WHY")
}

/// Everything that waits.
pub(super) fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let listed = waiting(global)?;
    let whole = canonical_json("ListProposalsResponse", &listed)?;
    output.show(&Document {
        items: whole["proposals"].as_array().cloned(),
        whole,
        header: vec!["PLAN", "AGE", "WHO", "ACT", "TRANSACTION", "BRANCH", "REASON", "FROM"],
        rows: listed.proposals.iter().map(|one| row(one, output)).collect(),
        wide_columns: vec![7],
        ids: listed.proposals.iter().map(|one| one.proposal.to_string()).collect(),
        ..Document::default()
    })
}

fn row(proposal: &v1::Proposal, output: Output) -> Vec<String> {
    let act = proposal.plan.as_ref().and_then(|plan| plan.act.clone()).unwrap_or_default();
    vec![
        proposal.proposal.to_string(),
        output.ago(proposal.age_ms),
        proposal.who.clone(),
        act_words(&act),
        short_id(&act.gtrid).to_owned(),
        act.branch.get(..16).unwrap_or(&act.branch).to_owned(),
        proposal.reason.clone(),
        proposal.from.clone(),
    ]
}

/// The act, and for an assertion how the branch has ended.
fn act_words(act: &v1::Act) -> String {
    match act.end() {
        v1::BranchEnd::Unspecified => verb(act.kind()).to_owned(),
        end => {
            format!("{} {}", verb(act.kind()), enum_word(end.as_str_name(), "BRANCH_END_"))
        }
    }
}

fn waiting(global: &Global) -> Result<v1::ListProposalsResponse, Failure> {
    let address = &global.admin_address;
    let listed = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let listed = admin.list_proposals(v1::ListProposalsRequest {}).await;
        listed.map_err(|status| Failure::from_status(&status, address, "listing proposals"))
    })?;
    Ok(listed.into_inner())
}

/// Shows what another person has left, and carries it out when it is confirmed.
pub(super) fn approve(args: &ApproveArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let mut proposals = waiting(global)?.proposals.into_iter();
    let proposal = proposals.find(|one| one.proposal == args.plan);
    let proposal = proposal.ok_or_else(|| gone(args.plan))?;
    // The second person is here.
    let planned = v1::Plan {
        second_person_needed: false,
        evidence_needed: false,
        ..proposal.plan.clone().unwrap_or_default()
    };
    let act = planned.act.clone().unwrap_or_default();
    talk(escape(&format!(
        "Proposal {} of {} from {}, {}: {}",
        proposal.proposal,
        proposal.who,
        proposal.from,
        act_words(&act),
        proposal.reason
    )));
    if !proposal.evidence.is_empty() {
        talk(escape(&format!("evidence: {}", proposal.evidence)));
    }
    talk(plan::text(&planned).trim_end());
    let (reason, options) = (quoted(&args.reason), connect::options(global));
    let again = format!("unanimous force approve {} --reason {reason}{options}", args.plan);
    let danger = Danger { id: &act.gtrid, given: args.confirm.as_deref(), again };
    let given = Given { danger, dry_run: false, propose: false, evidence: true };
    if ladder::step(&planned, &given, confirm::terminal())? == Step::Ask {
        given.danger.ask()?;
    }
    let address = &global.admin_address;
    let request = v1::ApproveActRequest { proposal: args.plan, reason: args.reason.clone() };
    let done = runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let done = admin.approve_act(request).await;
        done.map_err(|status| ladder::not_done(&status, &planned, &given.danger, address))
    })?;
    let done = done.into_inner();
    let whole = canonical_json("ApproveActResponse", &done)?;
    show_done(whole, done.transaction.as_ref(), done.audit_number, &act.gtrid, output)
}

fn gone(number: u64) -> Failure {
    let what = format!("no proposal {number} waits for a second person");
    let why = "it was approved, is older than a day, or the coordinator has been started again";
    Failure::new(Code::ProposalUnknown, what, why, "unanimous force list")
}
