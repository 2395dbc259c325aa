//! Acts as they come over the wire.

use super::act_of;
use super::entry::WORDS_BYTES_MAX;
use crate::refusal::Refusal;
use unanimous_core::coordinator::{Branch, Transaction};
use unanimous_core::{Act, Bqual, BranchId, BranchResult, Gtrid};
use unanimous_proto::v1;

pub(crate) use super::entry::wire as audit_entry;

/// An act on a transaction; its branch is looked up there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) gtrid: Gtrid,
    pub(crate) which: Which,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Rollback,
    Commit,
    Assert { branch: String, end: BranchResult },
    Abandon { branch: String },
    Resolve,
}

impl Wanted {
    /// With the branch that it names.
    pub(crate) fn act(&self, transaction: &Transaction) -> Result<Act, Refusal> {
        let named = match &self.which {
            Which::Assert { branch, .. } | Which::Abandon { branch } => Some(branch),
            Which::Rollback | Which::Commit | Which::Resolve => None,
        };
        let bqual = named.map(|named| branch(transaction, named)).transpose()?;
        act_of(&self.which, bqual).ok_or_else(Refusal::internal)
    }
}

/// By its full id, or by the name of its participant if that has only one.
fn branch(transaction: &Transaction, named: &str) -> Result<Bqual, Refusal> {
    let by_name =
        || transaction.branches.iter().filter(|branch| branch.participant.as_str() == named);
    if let Ok(bqual) = named.parse::<Bqual>()
        && transaction.branch(&bqual).is_some()
    {
        return Ok(bqual);
    }
    let mut found: Vec<&Branch> = by_name().collect();
    if found.len() > 1 {
        let ids: Vec<String> = found.iter().map(|branch| branch.bqual.to_string()).collect();
        return Err(Refusal::branch_ambiguous(named, &ids));
    }
    found.pop().map(|branch| branch.bqual).ok_or_else(|| Refusal::branch_unknown(named))
}

/// What a caller has sent.
pub(crate) fn wanted(act: Option<v1::Act>) -> Result<Wanted, Refusal> {
    let act = act.ok_or_else(|| Refusal::invalid("act", "an act is needed"))?;
    let gtrid = gtrid(&act.gtrid)?;
    let kind = act.kind();
    let takes_branch = matches!(kind, v1::ActKind::Assert | v1::ActKind::Abandon);
    if takes_branch == act.branch.is_empty() {
        let detail = "assert and abandon are about one branch, the others about all";
        return Err(Refusal::invalid("act.branch", detail));
    }
    if (kind == v1::ActKind::Assert) == (act.end() == v1::BranchEnd::Unspecified) {
        let detail = "assert says how the branch has ended, and nothing else does";
        return Err(Refusal::invalid("act.end", detail));
    }
    let which = match kind {
        v1::ActKind::Rollback => Which::Rollback,
        v1::ActKind::Commit => Which::Commit,
        v1::ActKind::Assert => Which::Assert { end: end(act.end())?, branch: act.branch },
        v1::ActKind::Abandon => Which::Abandon { branch: act.branch },
        v1::ActKind::Resolve => Which::Resolve,
        v1::ActKind::Orphan | v1::ActKind::Call | v1::ActKind::Unspecified => {
            return Err(Refusal::invalid("act.kind", "not an act on a transaction"));
        }
    };
    Ok(Wanted { gtrid, which })
}

/// The branch of an orphan, and what becomes of it.
pub(crate) fn orphan(
    request: &v1::ResolveOrphanRequest,
) -> Result<(BranchId, BranchResult), Refusal> {
    let gtrid = gtrid(&request.gtrid)?;
    let bqual = request.bqual.parse();
    let bqual = bqual
        .map_err(|error: unanimous_core::IdError| Refusal::invalid("bqual", error.to_string()))?;
    match end(request.end())? {
        BranchResult::Mixed | BranchResult::Hazard => {
            Err(Refusal::invalid("end", "a branch is committed or rolled back"))
        }
        end => Ok((BranchId { gtrid, bqual }, end)),
    }
}

pub(crate) fn gtrid(text: &str) -> Result<Gtrid, Refusal> {
    text.parse().map_err(|error: unanimous_core::IdError| {
        Refusal::invalid("gtrid", format!("{error}; an act needs the whole id"))
    })
}

fn end(end: v1::BranchEnd) -> Result<BranchResult, Refusal> {
    match end {
        v1::BranchEnd::Committed => Ok(BranchResult::Committed),
        v1::BranchEnd::RolledBack => Ok(BranchResult::RolledBack),
        v1::BranchEnd::Mixed => Ok(BranchResult::Mixed),
        v1::BranchEnd::Unspecified => Err(Refusal::invalid("end", "how the branch has ended")),
    }
}

/// An operator's words.
pub(crate) fn words(field: &'static str, text: String, required: bool) -> Result<String, Refusal> {
    if required && text.trim().is_empty() {
        return Err(Refusal::invalid(field, "say why: it is kept in the audit"));
    }
    if text.len() > WORDS_BYTES_MAX {
        let detail = format!("{} bytes are more than {WORDS_BYTES_MAX}", text.len());
        return Err(Refusal::invalid(field, detail));
    }
    Ok(text)
}
