//! Every cell of the operator's table (protocol.md, section 7) that a root coordinator has today,
//! by the command line, a coordinator and two participants on the wire.
//!
//! A cell that is allowed is first asked for without a reason, without a confirmation and as a dry
//! run, and nothing may change; then it is done, and has to end as its plan says. One that is
//! refused changes nothing, and the audit knows who has tried.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::standing::{At, Standing};
use support::{Said, assert_fails, eventually};
use unanimous_proto::v1;
use v1::{Decision, Done, Verdict};

/// What the state says to an act.
enum Says {
    No(&'static str),
    Yes(Then),
}

/// What the participants see of an act, and what becomes of it.
type Then = fn(&mut Standing);

macro_rules! cells {
    ($($name:ident: $at:ident, $act:literal, $says:expr;)*) => {
        $(#[test]
        fn $name() {
            cell(At::$at, $act, $says);
        })*

        /// Eight states, five acts.
        #[test]
        fn there_is_a_test_for_every_cell() {
            assert_eq!([$(stringify!($name)),*].len(), 40);
        }
    };
}

cells! {
    active_rollback: Active, "rollback", Says::Yes(both_roll_back);
    active_commit: Active, "commit", Says::No("VOTES_MISSING");
    active_assert: Active, "assert", Says::No("TX_UNDECIDED");
    active_abandon: Active, "abandon", Says::No("TX_UNDECIDED");
    active_resolve: Active, "forget", Says::No("NOT_HEURISTIC");

    marked_rollback_rollback: MarkedRollback, "rollback", Says::Yes(the_other_rolls_back);
    marked_rollback_commit: MarkedRollback, "commit", Says::No("VOTES_MISSING");
    marked_rollback_assert: MarkedRollback, "assert", Says::No("TX_UNDECIDED");
    marked_rollback_abandon: MarkedRollback, "abandon", Says::No("TX_UNDECIDED");
    marked_rollback_resolve: MarkedRollback, "forget", Says::No("NOT_HEURISTIC");

    preparing_rollback: Preparing, "rollback", Says::Yes(both_roll_back);
    preparing_commit: Preparing, "commit", Says::No("VOTES_MISSING");
    preparing_assert: Preparing, "assert", Says::No("TX_UNDECIDED");
    preparing_abandon: Preparing, "abandon", Says::No("TX_UNDECIDED");
    preparing_resolve: Preparing, "forget", Says::No("NOT_HEURISTIC");

    one_phase_rollback: OnePhase, "rollback", Says::No("ONE_PHASE_UNDECIDED");
    one_phase_commit: OnePhase, "commit", Says::No("ONE_PHASE_UNDECIDED");
    one_phase_assert: OnePhase, "assert", Says::Yes(it_is_asserted);
    one_phase_abandon: OnePhase, "abandon", Says::Yes(it_is_given_up);
    one_phase_resolve: OnePhase, "forget", Says::No("NOT_HEURISTIC");

    deciding_rollback: Deciding, "rollback", Says::No("WAIT_FOR_LOG");
    deciding_commit: Deciding, "commit", Says::No("WAIT_FOR_LOG");
    deciding_assert: Deciding, "assert", Says::No("WAIT_FOR_LOG");
    deciding_abandon: Deciding, "abandon", Says::No("WAIT_FOR_LOG");
    deciding_resolve: Deciding, "forget", Says::No("WAIT_FOR_LOG");

    committing_rollback: Committing, "rollback", Says::No("TX_DECIDED");
    committing_commit: Committing, "commit", Says::Yes(commit_is_sent_again);
    committing_assert: Committing, "assert", Says::Yes(it_is_asserted_and_answered_by_the_decision);
    committing_abandon: Committing, "abandon",
        Says::Yes(it_is_given_up_and_answered_by_the_decision);
    committing_resolve: Committing, "forget", Says::No("NOT_HEURISTIC");

    rolling_back_rollback: RollingBack, "rollback", Says::Yes(rollback_is_sent_again);
    rolling_back_commit: RollingBack, "commit", Says::No("TX_DECIDED");
    rolling_back_assert: RollingBack, "assert", Says::Yes(it_is_asserted_against_the_decision);
    rolling_back_abandon: RollingBack, "abandon", Says::Yes(it_is_given_up);
    rolling_back_resolve: RollingBack, "forget", Says::No("NOT_HEURISTIC");

    heuristic_rollback: Heuristic, "rollback", Says::No("TX_DECIDED");
    heuristic_commit: Heuristic, "commit", Says::No("TX_DECIDED");
    heuristic_assert: Heuristic, "assert", Says::Yes(it_is_asserted);
    heuristic_abandon: Heuristic, "abandon", Says::Yes(it_is_given_up);
    heuristic_resolve: Heuristic, "forget", Says::Yes(it_is_off_the_list);
}

fn cell(at: At, act: &str, says: Says) {
    let standing = Standing::at(at);
    let words: &[&str] = match act {
        "assert" => &["--branch", "bank-b", "--as", "committed", "--evidence", "row 7 is there"],
        "abandon" => &["--branch", "bank-b"],
        _ => &[],
    };
    match says {
        Says::No(code) => refused(&standing, act, words, code),
        Says::Yes(then) => allowed(standing, act, words, then),
    }
}

fn refused(standing: &Standing, act: &str, words: &[&str], code: &str) {
    let before = standing.stands();
    // To look is not to try.
    for more in [&[][..], &["--dry-run"]] {
        assert_fails(&standing.force(act, &[words, more].concat()), 5, code);
    }
    assert_eq!(standing.stands(), before);
    assert_eq!(standing.audit(), Vec::<Value>::new());

    let confirm = ["--confirm", &standing.gtrid];
    assert_fails(&standing.force(act, &[words, &confirm].concat()), 5, code);
    assert_eq!(standing.stands(), before);
    // While the disk does not answer nothing is in the audit.
    standing.disk.iter().for_each(support::disk::Disk::release);
    let entry = eventually("the entry", || standing.audit().pop());
    assert_eq!(standing.audit().len(), 1);
    assert_eq!(entry["result"], "AUDIT_RESULT_REFUSED");
    assert_eq!(entry["kind"], kind(act));
    assert_eq!(entry["reason"], "INC-4411");
    assert!(entry["plan"].as_str().unwrap().contains(code), "{entry}");
    assert!(entry["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry}");
}

fn kind(act: &str) -> String {
    let word = if act == "forget" { "resolve" } else { act };
    format!("ACT_KIND_{}", word.to_uppercase())
}

fn allowed(mut standing: Standing, act: &str, words: &[&str], then: Then) {
    let (before, gtrid) = (standing.stands(), standing.gtrid.clone());
    let no_reason = standing.served.ask(&[&["force", act, &gtrid], words].concat());
    assert_fails(&no_reason, 2, "USAGE");
    let no_word = standing.force(act, words);
    assert_fails(&no_word, 6, "NOT_CONFIRMED");
    assert!(no_word.stderr.contains(&format!(" --confirm {gtrid}\n")), "{no_word:?}");
    let wrong = standing.force(act, &[words, &["--confirm", &gtrid[40..]]].concat());
    assert_fails(&wrong, 6, "NOT_CONFIRMED");
    let dry = standing.force(act, &[words, &["--dry-run", "-o", "json"]].concat());
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stderr.contains("consistent: "), "{dry:?}");
    assert_eq!(standing.stands(), before);
    assert_eq!(standing.audit(), Vec::<Value>::new());

    let plan = dry.json();
    assert_eq!((&plan["state"], &plan["version"]), (&before.0, &before.1));
    let done = standing.force(act, &[words, &["--confirm", &gtrid, "-o", "json"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    as_planned(&plan, &done);
    let audit = standing.audit();
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!(audit[0]["result"], "AUDIT_RESULT_DONE");
    assert_eq!((&audit[0]["kind"], &audit[0]["reason"]), (&kind(act).into(), &"INC-4411".into()));
    assert_eq!(audit[0]["number"], done.json()["auditNumber"]);
    then(&mut standing);
    let verified = standing.served.ask(&["audit", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// The state and the outcome are those that the plan has promised.
#[track_caller]
fn as_planned(plan: &Value, done: &Said) {
    let now = &done.json()["transaction"];
    assert_eq!((&now["state"], &now["outcome"]), (&plan["stateAfter"], &plan["outcomeAfter"]));
    for planned in plan["branches"].as_array().unwrap() {
        let same = |branch: &&Value| branch["bqual"] == planned["bqual"];
        let found = now["branches"].as_array().unwrap().iter().find(same).unwrap();
        // Whoever is told something has not answered yet.
        let told = planned["detail"].as_str().unwrap().starts_with("is told");
        let state = if told { &planned["now"] } else { &planned["then"] };
        assert_eq!(found["state"], *state, "{planned}");
    }
}

/// Until it has ended, with this outcome.
#[track_caller]
fn ends(standing: &Standing, outcome: &str) {
    let asked = ["tx", "outcome", &standing.gtrid, "--wait", "30s", "--expected-branches", "2"];
    let said = standing.served.ask(&asked);
    assert!(said.stdout.contains(outcome), "{said:?}");
    eventually("its end", || {
        let listed = standing.served.ask(&["tx", "list", "-o", "id"]);
        (!listed.stdout.contains(&standing.gtrid)).then_some(())
    });
}

fn both_roll_back(standing: &mut Standing) {
    assert_eq!(standing.bank_a.decision(), Decision::Rollback);
    assert_eq!(standing.bank_b.decision(), Decision::Rollback);
    standing.bank_a.say(&standing.gtrid, 1, Done::Done);
    standing.bank_b.say(&standing.gtrid, 1, Done::Done);
    ends(standing, "ROLLED BACK");
}

/// `bank-a` has voted so itself.
fn the_other_rolls_back(standing: &mut Standing) {
    assert_eq!(standing.bank_b.decision(), Decision::Rollback);
    standing.bank_b.say(&standing.gtrid, 1, Done::Done);
    ends(standing, "ROLLED BACK");
}

fn commit_is_sent_again(standing: &mut Standing) {
    assert_eq!(standing.bank_b.decision(), Decision::Commit);
    standing.bank_b.say(&standing.gtrid, 1, Done::Done);
    ends(standing, "COMMITTED");
}

fn rollback_is_sent_again(standing: &mut Standing) {
    assert_eq!(standing.bank_b.decision(), Decision::Rollback);
    standing.bank_b.say(&standing.gtrid, 1, Done::Done);
    ends(standing, "ROLLED BACK");
}

/// The branch has the operator's word, and is marked so.
fn it_is_asserted(standing: &mut Standing) {
    let now = standing.described();
    let branches = now["branches"].as_array().unwrap();
    let asserted: Vec<_> = branches.iter().filter(|branch| branch["asserted"] == true).collect();
    assert_eq!(asserted.len(), 1, "{now}");
    assert_eq!(asserted[0]["participant"], "bank-b");
    assert_eq!(now["state"], "TRANSACTION_STATE_HEURISTIC");
    let row = standing.served.ask(&["tx", "list", "--divergent"]).stdout;
    assert!(row.contains("1 says the operator"), "{row}");
}

fn it_is_asserted_and_answered_by_the_decision(standing: &mut Standing) {
    it_is_asserted(standing);
    assert_eq!(standing.bank_b.inquire(&standing.gtrid, 1), Verdict::Commit);
    // What it says itself contradicts the operator's word: both are on record.
    standing.bank_b.say(&standing.gtrid, 1, Done::HeuristicRollback);
    eventually("the contradiction", || {
        (standing.described()["outcome"] == "OUTCOME_HEURISTIC_MIXED").then_some(())
    });
}

fn it_is_asserted_against_the_decision(standing: &mut Standing) {
    it_is_asserted(standing);
    assert_eq!(standing.described()["outcome"], "OUTCOME_HEURISTIC_MIXED");
    assert_eq!(standing.bank_b.inquire(&standing.gtrid, 1), Verdict::Rollback);
}

fn it_is_given_up(standing: &mut Standing) {
    it_is_asserted(standing);
    assert_eq!(standing.described()["outcome"], "OUTCOME_HEURISTIC_HAZARD");
}

fn it_is_given_up_and_answered_by_the_decision(standing: &mut Standing) {
    it_is_given_up(standing);
    assert_eq!(standing.bank_b.inquire(&standing.gtrid, 1), Verdict::Commit);
}

/// And on the ledger still, for whoever asks.
fn it_is_off_the_list(standing: &mut Standing) {
    let listed = |switches: &[&str]| {
        let said = standing.served.ask(&[&["tx", "list", "-o", "id"], switches].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.stdout.contains(&standing.gtrid)
    };
    assert!(!listed(&[]) && !listed(&["--divergent"]));
    assert!(listed(&["--resolved"]) && listed(&["--divergent", "--resolved"]));
    assert_eq!(standing.described()["resolved"], true);
}
