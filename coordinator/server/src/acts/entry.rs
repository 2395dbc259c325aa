//! Entries of the audit. Every text is cut to its bound here.

use super::{Operator, Order, OrphanOrder, kind};
use crate::audit_hash;
use crate::refusal::Refusal;
use crate::view;
use unanimous_core::record::cut;
use unanimous_core::{Act, AuditEntry, AuditKind, AuditResult, Bqual, BranchResult, Gtrid};
use unanimous_proto::v1;

const WHO_BYTES_MAX: usize = 256;
const FROM_BYTES_MAX: usize = 64;
const PLAN_BYTES_MAX: usize = 4_096;
/// What an operator may write, in bytes.
pub(crate) const WORDS_BYTES_MAX: usize = 512;

/// An entry without its place in the chain.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) by: Operator,
    pub(super) kind: AuditKind,
    pub(super) gtrid: Option<Gtrid>,
    pub(super) bqual: Option<Bqual>,
    pub(super) end: Option<BranchResult>,
    pub(super) before: String,
    pub(super) after: String,
    pub(super) plan: String,
    pub(super) reason: String,
    pub(super) evidence: String,
    pub(super) concerns: u64,
}

impl Draft {
    pub(super) fn of(order: &Order, act: &Act, plan: &v1::Plan) -> Self {
        let end = match act {
            Act::Assert { end, .. } => Some(*end),
            Act::Rollback | Act::Commit | Act::Abandon { .. } | Act::Resolve => None,
        };
        Self {
            by: order.by.clone(),
            kind: kind(act),
            gtrid: Some(order.wanted.gtrid),
            bqual: act.bqual(),
            end,
            before: view::wire_state_word(plan.state()).to_owned(),
            after: view::wire_state_word(plan.state_after()).to_owned(),
            plan: plan_lines(plan),
            reason: order.reason.clone(),
            evidence: order.evidence.clone(),
            concerns: 0,
        }
    }

    pub(super) fn of_orphan(order: &OrphanOrder) -> Self {
        Self {
            by: order.by.clone(),
            kind: AuditKind::Orphan,
            gtrid: Some(order.branch.gtrid),
            bqual: Some(order.branch.bqual),
            end: Some(order.end),
            before: "PREPARED".to_owned(),
            after: result_word(order.end).to_owned(),
            plan: "its participant is told so when it asks again".to_owned(),
            reason: order.reason.clone(),
            evidence: String::new(),
            concerns: 0,
        }
    }

    pub(super) fn of_call(by: &Operator, call: &str, why: &str, unsaid: u64) -> Self {
        let others = match unsaid {
            0 => String::new(),
            more => format!("; and {more} more since the last entry of this kind"),
        };
        Self {
            by: by.clone(),
            kind: AuditKind::Call,
            gtrid: None,
            bqual: None,
            end: None,
            before: String::new(),
            after: String::new(),
            plan: format!("{call}: {why}{others}"),
            reason: String::new(),
            evidence: String::new(),
            concerns: 0,
        }
    }

    pub(super) fn refused(self, refusal: &Refusal) -> Self {
        Self { after: self.before.clone(), plan: refusal.words(), ..self }
    }

    /// The act that it is about.
    pub(super) fn act(&self) -> Option<Act> {
        Some(match (self.kind, self.bqual) {
            (AuditKind::Rollback, _) => Act::Rollback,
            (AuditKind::Commit, _) => Act::Commit,
            (AuditKind::Resolve, _) => Act::Resolve,
            (AuditKind::Assert, Some(bqual)) => Act::Assert { bqual, end: self.end? },
            (AuditKind::Abandon, Some(bqual)) => Act::Abandon { bqual },
            _ => return None,
        })
    }

    pub(super) fn entry(
        &self,
        at_ms: u64,
        result: AuditResult,
        head: Option<&AuditEntry>,
    ) -> AuditEntry {
        let text = |text: &str, bytes_max: usize| cut(text, bytes_max).to_owned();
        let mut entry = AuditEntry {
            number: head.map_or(0, |head| head.number) + 1,
            at_ms,
            who: text(&self.by.name, WHO_BYTES_MAX),
            from: text(&self.by.from, FROM_BYTES_MAX),
            kind: self.kind,
            result,
            gtrid: self.gtrid,
            bqual: self.bqual,
            end: self.end,
            before: self.before.clone(),
            after: self.after.clone(),
            plan: text(&self.plan, PLAN_BYTES_MAX),
            reason: text(&self.reason, WORDS_BYTES_MAX),
            evidence: text(&self.evidence, WORDS_BYTES_MAX),
            concerns: self.concerns,
            previous: head.map_or([0; 32], |head| head.hash),
            hash: [0; 32],
        };
        entry.hash = audit_hash(&wire(&entry));
        entry
    }
}

/// A line for each branch, as it was shown.
fn plan_lines(plan: &v1::Plan) -> String {
    let branches = plan.branches.iter().map(|branch| {
        let v1::PlannedBranch { participant, detail, .. } = branch;
        let now = view::branch_state_word(branch.now());
        let then = view::branch_state_word(branch.then());
        format!("{participant} {now} -> {then} {detail}").trim_end().to_owned()
    });
    branches.chain(plan.warnings.iter().cloned()).collect::<Vec<_>>().join("\n")
}

fn result_word(result: BranchResult) -> &'static str {
    match result {
        BranchResult::Committed => "COMMITTED",
        BranchResult::RolledBack => "ROLLED_BACK",
        BranchResult::Mixed => "MIXED",
        BranchResult::Hazard => "HAZARD",
    }
}

/// An entry on the wire.
pub(crate) fn wire(entry: &AuditEntry) -> v1::AuditEntry {
    let kind = match entry.kind {
        AuditKind::Rollback => v1::ActKind::Rollback,
        AuditKind::Commit => v1::ActKind::Commit,
        AuditKind::Assert => v1::ActKind::Assert,
        AuditKind::Abandon => v1::ActKind::Abandon,
        AuditKind::Resolve => v1::ActKind::Resolve,
        AuditKind::Orphan => v1::ActKind::Orphan,
        AuditKind::Call => v1::ActKind::Call,
    };
    let result = match entry.result {
        AuditResult::Done => v1::AuditResult::Done,
        AuditResult::Refused => v1::AuditResult::Refused,
        AuditResult::Proposed => v1::AuditResult::Proposed,
        AuditResult::Overtaken => v1::AuditResult::Overtaken,
    };
    let end = match entry.end {
        Some(BranchResult::Committed) => v1::BranchEnd::Committed,
        Some(BranchResult::RolledBack) => v1::BranchEnd::RolledBack,
        Some(BranchResult::Mixed) => v1::BranchEnd::Mixed,
        Some(BranchResult::Hazard) | None => v1::BranchEnd::Unspecified,
    };
    v1::AuditEntry {
        number: entry.number,
        at_ms: entry.at_ms,
        who: entry.who.clone(),
        from: entry.from.clone(),
        kind: kind.into(),
        result: result.into(),
        gtrid: entry.gtrid.map(|gtrid| gtrid.to_string()).unwrap_or_default(),
        bqual: entry.bqual.map(|bqual| bqual.to_string()).unwrap_or_default(),
        end: end.into(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        plan: entry.plan.clone(),
        reason: entry.reason.clone(),
        evidence: entry.evidence.clone(),
        concerns: entry.concerns,
        previous: entry.previous.to_vec(),
        hash: entry.hash.to_vec(),
    }
}
