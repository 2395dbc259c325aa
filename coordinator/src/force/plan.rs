//! A plan in words. Pure: what the coordinator says in, what a person reads out.

use crate::output::{Document, escape_lines};
use crate::tx::{branch_state_word, outcome_word, short_id, state_word};
use unanimous_proto::v1;
use v1::TransactionState;

/// For stderr: each branch as it is and as it would be, what cannot be undone, and whether the
/// branches would agree.
pub(super) fn text(plan: &v1::Plan) -> String {
    let gtrid = plan.act.as_ref().map(|act| act.gtrid.as_str()).unwrap_or_default();
    let standing = match plan.standing.as_str() {
        "" => String::new(),
        standing => format!("; {standing}"),
    };
    let state = state_word(plan.state().into());
    let mut text = format!("Plan for ...{} ({state}{standing})\n", short_id(gtrid));
    let rows = plan.branches.iter().map(|branch| row(branch, plan)).collect();
    let table = Document { rows, ..Document::default() }.table(false);
    text.extend(table.lines().map(|line| format!("  {line}\n")));
    if plan.refusal.is_none() {
        let agree = if plan.consistent { "yes" } else { "no" };
        text += &format!("then: {}; consistent: {agree}\n", then(plan));
    }
    text.extend(plan.warnings.iter().map(|warning| format!("warning: {warning}\n")));
    if plan.second_person_needed {
        text += "a second person has to approve it\n";
    }
    escape_lines(&text)
}

fn row(branch: &v1::PlannedBranch, plan: &v1::Plan) -> Vec<String> {
    let now = branch_state_word(branch.now());
    let moves = match branch.then() {
        then if then == branch.now() || then == v1::BranchState::Unspecified => now,
        then => format!("{now} -> {}", branch_state_word(then)),
    };
    let same = |other: &&v1::PlannedBranch| other.participant == branch.participant;
    let name = match plan.branches.iter().filter(same).count() {
        0 | 1 => branch.participant.clone(),
        // The name is not enough for `--branch` then.
        _ => format!("{} {}", branch.participant, branch.bqual),
    };
    vec![name, moves, branch.detail.clone()]
}

/// The state and the outcome afterwards.
fn then(plan: &v1::Plan) -> String {
    let outcome = outcome_word(plan.outcome_after);
    match plan.state_after() {
        TransactionState::Unspecified => format!("ended, outcome {outcome}"),
        state => format!("{}, outcome {outcome}", state_word(state.into())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use v1::{BranchState, Outcome};

    pub(in super::super) fn plan() -> v1::Plan {
        let branch = |participant: &str, now: BranchState, then: BranchState, detail: &str| {
            v1::PlannedBranch {
                bqual: format!("{participant}-id"),
                participant: participant.to_owned(),
                now: now.into(),
                then: then.into(),
                detail: detail.to_owned(),
            }
        };
        let gtrid = format!("{}21f70c55", "01".repeat(20));
        let kind = v1::ActKind::Abandon.into();
        v1::Plan {
            act: Some(v1::Act { kind, gtrid, branch: "bank-b-id".into(), end: 0 }),
            state: TransactionState::Committing.into(),
            version: 7,
            standing: "the decision COMMIT is durable".into(),
            branches: vec![
                branch("bank-a", BranchState::Done, BranchState::Done, "cannot be undone"),
                branch("bank-b", BranchState::Prepared, BranchState::HeuristicHazard, "given up"),
            ],
            state_after: TransactionState::Heuristic.into(),
            outcome_after: Outcome::HeuristicHazard.into(),
            consistent: false,
            warnings: vec!["bank-b may come back\u{1b}[2J".into()],
            ..v1::Plan::default()
        }
    }

    #[test]
    fn a_plan_tells_each_branch_now_and_then() {
        assert_eq!(
            text(&plan()),
            "Plan for ...21f70c55 (COMMITTING; the decision COMMIT is durable)\n  \
             bank-a  DONE                          cannot be undone\n  \
             bank-b  PREPARED -> HEURISTIC HAZARD  given up\n\
             then: HEURISTIC, outcome HEURISTIC HAZARD; consistent: no\n\
             warning: bank-b may come back\\u{1b}[2J\n"
        );
    }

    #[test]
    fn a_refused_plan_promises_nothing_and_two_branches_of_one_name_have_ids() {
        let mut plan = plan();
        plan.refusal = Some(v1::ActRefusal::default());
        plan.branches[1].participant = "bank-a".into();
        plan.warnings.clear();
        plan.second_person_needed = true;
        let told = text(&plan);
        assert!(!told.contains("then:"), "{told}");
        assert!(told.contains("  bank-a bank-a-id  DONE"), "{told}");
        assert!(told.contains("  bank-a bank-b-id  PREPARED -> "), "{told}");
        assert!(told.ends_with("a second person has to approve it\n"), "{told}");
    }

    #[test]
    fn what_ends_has_no_state_and_what_agrees_says_so() {
        let plan = v1::Plan {
            consistent: true,
            outcome_after: Outcome::RolledBack.into(),
            ..v1::Plan::default()
        };
        assert_eq!(
            text(&plan),
            "Plan for ... (-)\nthen: ended, outcome ROLLED BACK; consistent: yes\n"
        );
    }
}
