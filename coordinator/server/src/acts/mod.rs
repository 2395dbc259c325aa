//! Operator acts: planned, audited, carried out or left for a second person. Part of the driver:
//! between the plan and the act nothing else happens to the core.
//!
//! `plan` says what an act would do, in words; `entry` makes the entries of the audit; `convert`
//! knows the wire.

pub(crate) mod convert;
mod entry;
mod plan;

use crate::driver::{self, Driver};
use crate::refusal::Refusal;
use crate::view;
use convert::{Wanted, Which};
use entry::Draft;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use unanimous_core::coordinator::Transaction;
use unanimous_core::{
    Act, ActRefusal, AuditEntry, AuditKind, AuditResult, BranchId, BranchResult, CallerId, Event,
    Gtrid, Millis, Outcome, Request, Response,
};
use unanimous_proto::v1;

pub(crate) use plan::refusal_words;

/// Proposals at a time; at the limit a new one is refused.
const PROPOSALS_MAX: usize = 1_000;
/// A proposal is gone after a day: nobody remembers why.
const PROPOSAL_MS_MAX: u64 = 24 * 3_600_000;
/// Entries about refused calls, at most one in this time: others are only counted.
const REFUSED_CALLS_PAUSE_MS: u64 = 1_000;

/// Who acts, as the connection proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) name: String,
    pub(crate) from: String,
    /// Somebody has proven the name.
    pub(crate) verified: bool,
}

/// An operator's wish.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) by: Operator,
    pub(crate) wanted: Wanted,
    pub(crate) version: u64,
    pub(crate) reason: String,
    pub(crate) evidence: String,
    /// Leave it for a second person.
    pub(crate) propose: bool,
}

/// A branch that no log knows, and what an operator says of it.
#[derive(Clone, Debug)]
pub(crate) struct OrphanOrder {
    pub(crate) by: Operator,
    pub(crate) branch: BranchId,
    pub(crate) end: BranchResult,
    pub(crate) reason: String,
    /// Leave it for a second person.
    pub(crate) propose: bool,
}

/// What became of an order.
#[derive(Debug)]
pub(crate) struct Acted {
    pub(crate) transaction: Option<v1::Transaction>,
    pub(crate) audit_number: u64,
    pub(crate) proposal: Option<v1::Proposal>,
}

pub(crate) type Answer = oneshot::Sender<Result<Acted, Refusal>>;

/// What an entry is written for, and who waits for it.
#[derive(Debug)]
pub(crate) struct Writing {
    gtrid: Option<Gtrid>,
    number: u64,
    draft: Draft,
    then: Then,
    to: Option<Answer>,
}

#[derive(Debug)]
enum Then {
    /// The act has been handed to the core with its entry; it was approved, or not.
    Act { proposal: Option<u64> },
    /// A refusal is on record.
    Refuse(Refusal),
    /// A proposal is.
    Propose(Box<Proposal>),
    /// An orphan's end is.
    Orphan,
    /// What a first person says of an orphan is.
    ProposeOrphan(Box<OrphanProposal>),
}

#[derive(Clone, Debug)]
struct Proposal {
    order: Order,
    plan: v1::Plan,
    at: Millis,
}

/// What a first person says of an orphan, until a second one says the same.
#[derive(Debug)]
struct OrphanProposal {
    number: u64,
    order: OrphanOrder,
    at: Millis,
}

/// What the driver keeps of acts.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    proposals: BTreeMap<u64, Proposal>,
    /// The last one about each.
    orphans: BTreeMap<BranchId, OrphanProposal>,
    refused_call_at: Option<Millis>,
    refused_calls_unsaid: u64,
}

impl Acts {
    pub(crate) fn proposals_len(&self) -> usize {
        self.proposals.len() + self.orphans.len()
    }

    fn drop_old(&mut self, now: Millis) {
        let young = |at: Millis| now.since(at) < PROPOSAL_MS_MAX;
        self.proposals.retain(|_, proposal| young(proposal.at));
        self.orphans.retain(|_, proposal| young(proposal.at));
    }
}

impl Driver {
    /// What an act would do.
    pub(crate) fn plan_act(&self, wanted: &Wanted) -> Result<v1::Plan, Refusal> {
        let transaction = self.unfinished(&wanted.gtrid)?;
        let act = wanted.act(transaction)?;
        Ok(plan::view(self, &wanted.gtrid, transaction, &act))
    }

    fn unfinished(&self, gtrid: &Gtrid) -> Result<&Transaction, Refusal> {
        self.coordinator.transaction(gtrid).ok_or_else(|| match self.coordinator.outcome(gtrid) {
            Some(Outcome::Committed) => Refusal::has_ended("COMMITTED"),
            Some(_) => Refusal::has_ended("ROLLED_BACK"),
            None => driver::no_such_transaction(),
        })
    }

    pub(crate) fn act(&mut self, now: Millis, order: Order, to: Answer) {
        let gtrid = order.wanted.gtrid;
        self.acts.drop_old(now);
        if order.propose && self.acts.proposals_len() >= PROPOSALS_MAX {
            return answer(to, Err(Refusal::too_many_proposals(PROPOSALS_MAX)));
        }
        match self.judge(&order) {
            Err(refusal) => answer(to, Err(refusal)),
            Ok((draft, Err(refusal))) => self.refuse(now, Some(gtrid), draft, refusal, Some(to)),
            Ok((draft, Ok((_, plan)))) if order.propose => {
                let proposal = Box::new(Proposal { order, plan, at: now });
                let then = Then::Propose(proposal);
                self.write(now, AuditResult::Proposed, Some(gtrid), draft, then, Some(to));
            }
            Ok((draft, Ok((act, _)))) => self.begin(now, order, act, draft, None, to),
        }
    }

    /// The entry that an order gets, and whether it is allowed. Without an entry: nothing that
    /// could be on record, such as an unknown transaction.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart at once")]
    fn judge(&self, order: &Order) -> Result<(Draft, Result<(Act, v1::Plan), Refusal>), Refusal> {
        let gtrid = order.wanted.gtrid;
        let transaction = self.unfinished(&gtrid)?;
        let act = order.wanted.act(transaction)?;
        let plan = plan::view(self, &gtrid, transaction, &act);
        let draft = Draft::of(order, &act, &plan);
        let (version, epoch) = view::split_version(order.version);
        let moved = version != transaction.version || epoch != self.coordinator.owner().epoch;
        let judged = if moved {
            Err(self.refusal_of(&gtrid, &act, ActRefusal::Moved))
        } else if let Some(refusal) = &plan.refusal {
            Err(Refusal::act(refusal))
        } else if self.gate.config().second_person && !order.propose {
            Err(Refusal::second_person_needed())
        } else {
            Ok((act, plan))
        };
        Ok((draft, judged))
    }

    fn refusal_of(&self, gtrid: &Gtrid, act: &Act, why: ActRefusal) -> Refusal {
        let transaction = self.coordinator.transaction(gtrid);
        Refusal::act(&refusal_words(gtrid, transaction, act, why))
    }

    fn begin(
        &mut self,
        now: Millis,
        order: Order,
        act: Act,
        draft: Draft,
        proposal: Option<u64>,
        to: Answer,
    ) {
        let (gtrid, version) = (order.wanted.gtrid, view::split_version(order.version).0);
        let entry = self.entry(AuditResult::Done, &draft);
        let writing = Writing {
            gtrid: Some(gtrid),
            number: entry.number,
            draft,
            then: Then::Act { proposal },
            to: Some(to),
        };
        let by = self.acting(writing);
        let request = Request::Operate { gtrid, version, act, entry: Box::new(entry) };
        self.handle(now, Event::Requested { by, request });
    }

    fn refuse(
        &mut self,
        now: Millis,
        gtrid: Option<Gtrid>,
        draft: Draft,
        refusal: Refusal,
        to: Option<Answer>,
    ) {
        let draft = draft.refused(&refusal);
        self.write(now, AuditResult::Refused, gtrid, draft, Then::Refuse(refusal), to);
    }

    fn write(
        &mut self,
        now: Millis,
        result: AuditResult,
        gtrid: Option<Gtrid>,
        draft: Draft,
        then: Then,
        to: Option<Answer>,
    ) {
        let entry = self.entry(result, &draft);
        let writing = Writing { gtrid, number: entry.number, draft, then, to };
        let by = self.acting(writing);
        let request = Request::Audit { entry: Box::new(entry) };
        self.handle(now, Event::Requested { by, request });
    }

    /// The next entry of the chain.
    fn entry(&self, result: AuditResult, draft: &Draft) -> AuditEntry {
        draft.entry(view::unix_ms(), result, self.coordinator.audit_head())
    }

    /// The core has answered an order.
    pub(crate) fn acted(&mut self, now: Millis, writing: Writing, response: Response) {
        let Writing { gtrid, number, draft, then, to } = writing;
        let transaction = gtrid.and_then(|gtrid| {
            let found = self.coordinator.transaction(&gtrid)?;
            Some(view::transaction(self, now, &gtrid, found))
        });
        let mut acted = Acted { transaction, audit_number: number, proposal: None };
        let told = match (then, response) {
            (Then::Act { proposal }, Response::Operated) => {
                if let Some(proposal) = proposal {
                    self.acts.proposals.remove(&proposal);
                }
                Ok(acted)
            }
            (Then::Act { .. }, Response::ActRefused(why)) => {
                let (Some(gtrid), Some(act)) = (gtrid, draft.act()) else { return };
                let refusal = self.refusal_of(&gtrid, &act, why);
                return self.refuse(now, Some(gtrid), draft, refusal, to);
            }
            (Then::Act { .. }, Response::Overtaken) => {
                let (Some(gtrid), Some(act)) = (gtrid, draft.act()) else { return };
                let refusal = self.refusal_of(&gtrid, &act, ActRefusal::Moved);
                let draft = Draft { concerns: number, ..draft };
                let then = Then::Refuse(refusal);
                return self.write(now, AuditResult::Overtaken, Some(gtrid), draft, then, to);
            }
            (Then::Refuse(refusal), _) => Err(refusal),
            (Then::Propose(proposal), Response::Audited) => {
                acted.proposal = Some(proposal_view(number, &proposal, now));
                self.acts.proposals.insert(number, *proposal);
                Ok(acted)
            }
            (Then::Orphan, Response::Audited) => {
                if let (Some(gtrid), Some(bqual)) = (draft.gtrid, draft.bqual) {
                    self.orphans.explained(&BranchId { gtrid, bqual });
                    self.acts.orphans.remove(&BranchId { gtrid, bqual });
                }
                Ok(acted)
            }
            (Then::ProposeOrphan(proposal), Response::Audited) => {
                let proposal = OrphanProposal { number, ..*proposal };
                self.acts.orphans.insert(proposal.order.branch, proposal);
                Ok(acted)
            }
            (_, Response::Refused(refusal)) => Err(Refusal::from(refusal)),
            (_, Response::Unknown) => Err(driver::no_such_transaction()),
            _ => Err(Refusal::internal()),
        };
        if let Some(to) = to {
            answer(to, told);
        }
    }

    /// A second person agrees.
    pub(crate) fn approve(
        &mut self,
        now: Millis,
        by: Operator,
        number: u64,
        reason: String,
        to: Answer,
    ) {
        self.acts.drop_old(now);
        let Some(proposal) = self.acts.proposals.get(&number) else {
            return answer(to, Err(Refusal::proposal_unknown(number)));
        };
        let proposer = proposal.order.by.clone();
        let order = Order { by: by.clone(), reason, propose: true, ..proposal.order.clone() };
        let gtrid = order.wanted.gtrid;
        match self.judge(&order) {
            Err(refusal) => answer(to, Err(refusal)),
            Ok((draft, judged)) => {
                let draft = Draft { concerns: number, ..draft };
                let same = !by.verified || by.name == proposer.name;
                match judged {
                    _ if same => {
                        let refusal = Refusal::same_person(by.verified);
                        self.refuse(now, Some(gtrid), draft, refusal, Some(to));
                    }
                    Err(refusal) => self.refuse(now, Some(gtrid), draft, refusal, Some(to)),
                    Ok((act, _)) => self.begin(now, order, act, draft, Some(number), to),
                }
            }
        }
    }

    pub(crate) fn proposals(&mut self, now: Millis) -> v1::ListProposalsResponse {
        self.acts.drop_old(now);
        let one = |(number, proposal): (&u64, &Proposal)| proposal_view(*number, proposal, now);
        v1::ListProposalsResponse { proposals: self.acts.proposals.iter().map(one).collect() }
    }

    /// Decides about a branch that no log knows.
    pub(crate) fn resolve_orphan(&mut self, now: Millis, order: OrphanOrder, to: Answer) {
        let draft = Draft::of_orphan(&order);
        self.acts.drop_old(now);
        if !self.orphans.knows(&order.branch) {
            return self.refuse(now, None, draft, Refusal::not_an_orphan(), Some(to));
        }
        if order.propose {
            if self.acts.proposals_len() >= PROPOSALS_MAX {
                return answer(to, Err(Refusal::too_many_proposals(PROPOSALS_MAX)));
            }
            let proposal = Box::new(OrphanProposal { number: 0, order, at: now });
            let then = Then::ProposeOrphan(proposal);
            return self.write(now, AuditResult::Proposed, None, draft, then, Some(to));
        }
        match self.second_word(&order) {
            Ok(concerns) => {
                let draft = Draft { concerns, ..draft };
                self.write(now, AuditResult::Done, None, draft, Then::Orphan, Some(to));
            }
            Err(refusal) => self.refuse(now, None, draft, refusal, Some(to)),
        }
    }

    /// Whether enough people say so of an orphan; the number of what the first one said, 0 where
    /// one is enough.
    fn second_word(&self, order: &OrphanOrder) -> Result<u64, Refusal> {
        let first = self.acts.orphans.get(&order.branch);
        let first = first.filter(|first| first.order.end == order.end);
        let other =
            |first: &&OrphanProposal| order.by.verified && first.order.by.name != order.by.name;
        match (first, first.filter(other)) {
            (_, Some(first)) => Ok(first.number),
            _ if !self.gate.config().second_person => Ok(0),
            (Some(_), None) => Err(Refusal::same_person(order.by.verified)),
            (None, None) => Err(Refusal::second_person_needed()),
        }
    }

    /// A call was refused for its caller's role.
    pub(crate) fn refused_call(&mut self, now: Millis, by: Operator, call: &str, why: &str) {
        let pause = |at: Millis| now.since(at) < REFUSED_CALLS_PAUSE_MS;
        if self.acts.refused_call_at.is_some_and(pause) || self.audit_is_nearly_full() {
            self.acts.refused_calls_unsaid += 1;
            return;
        }
        self.acts.refused_call_at = Some(now);
        let unsaid = std::mem::take(&mut self.acts.refused_calls_unsaid);
        let draft = Draft::of_call(&by, call, why, unsaid);
        let refusal = Refusal::internal();
        self.write(now, AuditResult::Refused, None, draft, Then::Refuse(refusal), None);
    }

    /// Whoever may do nothing must not be able to fill the audit: the last tenth is for acts.
    fn audit_is_nearly_full(&self) -> bool {
        let audit_max = self.coordinator.limits().audit_max;
        self.coordinator.audit_len() >= audit_max - audit_max / 10
    }

    fn acting(&mut self, writing: Writing) -> CallerId {
        self.caller(driver::Caller::Act(Box::new(writing)))
    }
}

/// The caller may be gone.
fn answer(to: Answer, told: Result<Acted, Refusal>) {
    let _ = to.send(told);
}

fn proposal_view(number: u64, proposal: &Proposal, now: Millis) -> v1::Proposal {
    let Proposal { order, plan, at } = proposal;
    v1::Proposal {
        proposal: number,
        plan: Some(plan.clone()),
        reason: order.reason.clone(),
        evidence: order.evidence.clone(),
        who: order.by.name.clone(),
        from: order.by.from.clone(),
        age_ms: now.since(*at),
    }
}

/// What the audit calls an act.
fn kind(act: &Act) -> AuditKind {
    match act {
        Act::Rollback => AuditKind::Rollback,
        Act::Commit => AuditKind::Commit,
        Act::Assert { .. } => AuditKind::Assert,
        Act::Abandon { .. } => AuditKind::Abandon,
        Act::Resolve => AuditKind::Resolve,
    }
}

/// An act as an operator asks for it: the branch may be named by its participant.
pub(crate) fn act_of(which: &Which, branch: Option<unanimous_core::Bqual>) -> Option<Act> {
    Some(match (which, branch) {
        (Which::Rollback, _) => Act::Rollback,
        (Which::Commit, _) => Act::Commit,
        (Which::Resolve, _) => Act::Resolve,
        (Which::Assert { end, .. }, Some(bqual)) => Act::Assert { bqual, end: *end },
        (Which::Abandon { .. }, Some(bqual)) => Act::Abandon { bqual },
        (Which::Assert { .. } | Which::Abandon { .. }, None) => return None,
    })
}
