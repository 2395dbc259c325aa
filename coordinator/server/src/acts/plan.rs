//! What an act would do, in words.

use crate::driver::Driver;
use crate::view;
use unanimous_core::coordinator::{Branch, Planned, State, Transaction};
use unanimous_core::{Act, ActRefusal, BranchResult, Decision, Gtrid, Outcome};
use unanimous_proto::v1;

/// An act on a transaction as it stands.
pub(super) fn view(
    driver: &Driver,
    gtrid: &Gtrid,
    transaction: &Transaction,
    act: &Act,
) -> v1::Plan {
    let planned = driver.coordinator.plan(gtrid, act);
    let (planned, refusal) = match planned {
        Some(Ok(planned)) => (Some(planned), None),
        Some(Err(why)) => (None, Some(refusal_words(gtrid, Some(transaction), act, why))),
        None => (None, None),
    };
    let after = planned.as_ref().map_or(transaction, |planned| &planned.after);
    let told = planned.as_ref().map_or(&[][..], |planned| &planned.told);
    let outcome_after = after.outcome();
    let split = matches!(outcome_after, Outcome::Mixed | Outcome::Hazard);
    let evidence_needed =
        matches!(act, Act::Assert { .. }) && transaction.state() == State::Committing;
    v1::Plan {
        act: Some(wire_act(gtrid, act)),
        state: view::state(transaction.state()).into(),
        version: view::version(driver, transaction),
        standing: standing(transaction),
        branches: transaction
            .branches
            .iter()
            .map(|branch| planned_branch(transaction, after, branch, told))
            .collect(),
        state_after: view::state(after.state()).into(),
        outcome_after: view::outcome(after).into(),
        consistent: !split,
        warnings: planned
            .as_ref()
            .map(|planned| warnings(act, transaction, planned))
            .unwrap_or_default(),
        refusal,
        evidence_needed,
        second_person_needed: driver.gate.config().second_person,
    }
}

fn wire_act(gtrid: &Gtrid, act: &Act) -> v1::Act {
    let (kind, end) = match act {
        Act::Rollback => (v1::ActKind::Rollback, v1::BranchEnd::Unspecified),
        Act::Commit => (v1::ActKind::Commit, v1::BranchEnd::Unspecified),
        Act::Abandon { .. } => (v1::ActKind::Abandon, v1::BranchEnd::Unspecified),
        Act::Resolve => (v1::ActKind::Resolve, v1::BranchEnd::Unspecified),
        Act::Assert { end: BranchResult::Committed, .. } => {
            (v1::ActKind::Assert, v1::BranchEnd::Committed)
        }
        Act::Assert { end: BranchResult::RolledBack, .. } => {
            (v1::ActKind::Assert, v1::BranchEnd::RolledBack)
        }
        Act::Assert { .. } => (v1::ActKind::Assert, v1::BranchEnd::Mixed),
    };
    v1::Act {
        kind: kind.into(),
        gtrid: gtrid.to_string(),
        branch: act.bqual().map(|bqual| bqual.to_string()).unwrap_or_default(),
        end: end.into(),
    }
}

/// What is decided, and how firmly.
fn standing(transaction: &Transaction) -> String {
    let branches = transaction.branches.len();
    let outstanding = transaction.pending().count();
    match transaction.state() {
        State::Active => "undecided: the application is working in it".to_owned(),
        State::MarkedRollback => "undecided: a branch has voted rollback already".to_owned(),
        State::Preparing => {
            format!("undecided: {} of {branches} branches have voted", branches - outstanding)
        }
        State::OnePhase => "its only branch was asked to commit, and decides".to_owned(),
        State::Deciding => "the decision COMMIT is being written to the log".to_owned(),
        State::Committing => "the decision COMMIT is durable".to_owned(),
        State::RollingBack => "the decision is ROLLBACK".to_owned(),
        State::Heuristic => match transaction.decision() {
            Decision::Commit => "the decision was COMMIT, and every branch has ended".to_owned(),
            Decision::Rollback => {
                "the decision was ROLLBACK, and every branch has ended".to_owned()
            }
        },
    }
}

fn planned_branch(
    before: &Transaction,
    after: &Transaction,
    branch: &Branch,
    told: &[unanimous_core::Bqual],
) -> v1::PlannedBranch {
    let now = view::branch_state(branch.state(before.decision()));
    let next = after.branch(&branch.bqual).unwrap_or(branch);
    let is_told = told.contains(&branch.bqual);
    let then = match view::branch_state(next.state(after.decision())) {
        _ if is_told => v1::BranchState::Done,
        then => then,
    };
    let detail = match after.decision() {
        Decision::Commit if is_told => "is told COMMIT",
        Decision::Rollback if is_told => "is told ROLLBACK",
        _ if next.asserted && next.result == Some(BranchResult::Hazard) => {
            "is asked no more; nobody knows how it ends"
        }
        _ if next.asserted && !branch.asserted => "is asked no more; you say so",
        _ if branch.result.is_some() => "has ended; nothing changes",
        _ => "",
    };
    v1::PlannedBranch {
        bqual: branch.bqual.to_string(),
        participant: branch.participant.as_str().to_owned(),
        now: now.into(),
        then: then.into(),
        detail: detail.to_owned(),
    }
}

fn warnings(act: &Act, before: &Transaction, planned: &Planned) -> Vec<String> {
    let mut warnings = Vec::new();
    match act {
        Act::Rollback if before.decision() == Decision::Commit => {
            warnings
                .push("the work of its branches is undone: that cannot be taken back".to_owned());
        }
        Act::Rollback | Act::Commit => {}
        Act::Assert { .. } => warnings.push(
            "if the participant says otherwise later, the transaction is MIXED and listed again"
                .to_owned(),
        ),
        Act::Abandon { .. } => warnings.push(
            "if it is still prepared it keeps its locks; should it come back, it is told the \
             decision"
                .to_owned(),
        ),
        Act::Resolve => warnings.push(
            "the transaction leaves the list; what differs between its branches stays as it is"
                .to_owned(),
        ),
    }
    match planned.after.outcome() {
        Outcome::Mixed => warnings.push("the branches do not end alike".to_owned()),
        Outcome::Hazard => {
            warnings.push("nobody knows whether the branches end alike".to_owned());
        }
        _ => {}
    }
    warnings
}

/// Why an act is refused: three lines for people.
pub(crate) fn refusal_words(
    gtrid: &Gtrid,
    transaction: Option<&Transaction>,
    act: &Act,
    why: ActRefusal,
) -> v1::ActRefusal {
    let full = gtrid.to_string();
    let short = &full[full.len() - 8..];
    let describe = format!("unanimous tx describe {full}");
    let pending = transaction.and_then(|transaction| transaction.pending().next());
    let abandon = pending.map(|branch| {
        let branch = &branch.participant;
        format!("unanimous force abandon {full} --branch {branch} --reason \"...\"")
    });
    let retry = format!("unanimous tx retry {short}");
    let rollback = format!("unanimous force rollback {full} --reason \"...\"");
    let (reason, what, why, next) = match why {
        ActRefusal::Decided => decided(transaction, act, retry, abandon, describe),
        ActRefusal::VotesMissing | ActRefusal::Undecided => undecided(why, rollback, describe),
        ActRefusal::BranchUnknown | ActRefusal::BranchFinished => {
            of_branch(transaction, act, why, describe)
        }
        ActRefusal::OnePhase => (
            "ONE_PHASE_UNDECIDED",
            "it cannot be forced either way".to_owned(),
            "its only branch has been asked to commit, and alone decides".to_owned(),
            [Some(retry), abandon].into_iter().flatten().collect(),
        ),
        ActRefusal::WaitForLog => (
            "WAIT_FOR_LOG",
            "nothing can be done to it now".to_owned(),
            "a record of it is being written to the log, and the log's answer comes first"
                .to_owned(),
            vec![describe, "unanimous status".to_owned()],
        ),
        ActRefusal::NotHeuristic => (
            "NOT_HEURISTIC",
            "there is nothing to be marked resolved".to_owned(),
            "none of its branches has ended otherwise than decided".to_owned(),
            vec![describe],
        ),
        ActRefusal::BranchesPending => (
            "BRANCHES_PENDING",
            "it cannot be marked resolved yet".to_owned(),
            "branches have not answered, and may still change what there is to resolve".to_owned(),
            [Some(retry), abandon].into_iter().flatten().collect(),
        ),
        ActRefusal::Resolved => (
            "ALREADY_RESOLVED",
            "it is marked resolved already".to_owned(),
            "somebody has taken it off the list".to_owned(),
            vec![format!("unanimous tx history {full}")],
        ),
        ActRefusal::Moved => (
            "TX_MOVED",
            "it does not stand as in the plan any more".to_owned(),
            "a branch has answered, it was sent on, or another operator has acted".to_owned(),
            vec![describe],
        ),
    };
    v1::ActRefusal { reason: reason.to_owned(), what: format!("refused: {what}"), why, next }
}

type Words = (&'static str, String, String, Vec<String>);

fn undecided(why: ActRefusal, rollback: String, describe: String) -> Words {
    if why == ActRefusal::VotesMissing {
        return (
            "VOTES_MISSING",
            "it cannot be committed by force".to_owned(),
            "votes are missing: a branch that has not prepared may not be able to commit"
                .to_owned(),
            vec![describe, rollback],
        );
    }
    (
        "TX_UNDECIDED",
        "none of its branches can be ended alone".to_owned(),
        "it is undecided: as a whole it can still be rolled back".to_owned(),
        vec![rollback, describe],
    )
}

fn of_branch(
    transaction: Option<&Transaction>,
    act: &Act,
    why: ActRefusal,
    describe: String,
) -> Words {
    if why == ActRefusal::BranchUnknown {
        return (
            "BRANCH_UNKNOWN",
            "it has no such branch".to_owned(),
            "no branch of phase two has this id".to_owned(),
            vec![describe],
        );
    }
    (
        "BRANCH_FINISHED",
        "the branch has ended".to_owned(),
        branch_words(transaction, act),
        vec![describe],
    )
}

fn decided(
    transaction: Option<&Transaction>,
    act: &Act,
    retry: String,
    abandon: Option<String>,
    describe: String,
) -> Words {
    let decision = transaction.map_or(Decision::Commit, Transaction::decision);
    let word = match decision {
        Decision::Commit => "COMMIT",
        Decision::Rollback => "ROLLBACK",
    };
    let names = |ended: bool| -> Vec<&str> {
        let branches = transaction.into_iter().flat_map(Transaction::phase_two);
        let wanted = branches.filter(|branch| branch.result.is_some() == ended);
        wanted.map(|branch| branch.participant.as_str()).collect()
    };
    let (ended, open) = (names(true), names(false));
    let acted = match ended.split_first() {
        Some((first, [])) => format!(" and {first} has already acted on it"),
        Some((first, _)) => format!(" and {first} and others have already acted on it"),
        None => String::new(),
    };
    let doing = if matches!(act, Act::Commit) { "committing" } else { "rolling back" };
    let why = match (ended.first(), open.first()) {
        (Some(ended), Some(open)) => {
            format!("{doing} now would leave {ended} and {open} different")
        }
        _ => "a decision is never reversed: somebody may have been told it already".to_owned(),
    };
    let what = format!("the decision is {word}{acted}");
    if open.is_empty() {
        return ("TX_DECIDED", what, why, vec![describe]);
    }
    let next = std::iter::once(retry).chain(abandon).collect();
    ("TX_DECIDED", what, why, next)
}

fn branch_words(transaction: Option<&Transaction>, act: &Act) -> String {
    let branch = act.bqual().and_then(|bqual| transaction?.branch(&bqual));
    match branch {
        Some(branch) if branch.asserted => format!("{} is asserted so already", branch.participant),
        Some(branch) => format!("{} has said itself how it ended", branch.participant),
        None => "it has said itself how it ended".to_owned(),
    }
}
