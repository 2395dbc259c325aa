//! The cases of the catalogue, sections 3.2 and 3.3, and the runs that each of them is.

use crate::world::{Loss, Role};
use crate::{Act, Case, Point, SWEEP};

/// A case of the catalogue: at these points, by their beginnings, of the coordinator or of a bank.
struct Row {
    id: &'static str,
    of_coordinator: bool,
    points: &'static [&'static str],
}

const fn coordinator(id: &'static str, points: &'static [&'static str]) -> Row {
    Row { id, of_coordinator: true, points }
}

const fn bank(id: &'static str, points: &'static [&'static str]) -> Row {
    Row { id, of_coordinator: false, points }
}

const ROWS: &[Row] = &[
    coordinator("C-00", &["serve.begin.before_reply"]),
    coordinator("C-01", &["serve.enlist.before_reply"]),
    coordinator("C-02", &["serve.commit.requested", "serve.prepare.before_send"]),
    coordinator("C-03", &["serve.prepare.after_send"]),
    coordinator("C-04", &["serve.vote.received", "serve.decided.before_append"]),
    coordinator("C-05", &["log.before_append", "log.after_insert"]),
    coordinator("C-07", &["log.after_flush"]),
    coordinator("C-08", &["serve.decided.durable", "log.after_sync", "serve.commit.before_send"]),
    coordinator("C-09", &["serve.commit.after_send"]),
    coordinator("C-10", &["serve.reply.before_send", "serve.reply.after_send"]),
    coordinator("C-11", &["serve.ack.received"]),
    coordinator("C-12", &["serve.end.before_append"]),
    coordinator("C-13", &["log.after_told"]),
    coordinator("C-15", &["serve.rollback.after_send"]),
    coordinator("C-17", &["init.", "open.", "log.before_append", "log.after_sync"]),
    bank("CP-0", &["participant.join.enlisted", "participant.prepare.received"]),
    bank("CP-1", &["log.after_insert", "log.after_flush"]),
    bank("CP-2", &["participant.prepare.durable", "participant.vote.before_send"]),
    bank("CP-3", &["participant.vote.after_send"]),
    bank("CP-4", &["participant.commit.received"]),
    bank("CP-6", &["participant.commit.durable", "participant.ack.before_send"]),
    bank("CP-7", &["participant.ack.after_send", "participant.compact."]),
];

/// The cases of the catalogue that a run is one of.
pub(crate) fn of(case: &Case) -> Vec<&'static str> {
    let (role, point) = match case.act {
        Act::FirstTime(role, point, _) | Act::Recovering(role, point, _) => (role, point),
        Act::Stopping(..) => return vec!["C-19"],
        Act::AgainAndAgain(..) => return vec!["CP-9"],
        Act::Together(..) => return Vec::new(),
    };
    let of_coordinator = role == Role::Coordinator;
    let rows = ROWS.iter().filter(|row| {
        row.of_coordinator == of_coordinator && row.points.iter().any(|p| point.starts_with(p))
    });
    rows.map(|row| row.id).collect()
}

/// Killed and without power, the case ended as it must, and its points were passed.
fn row(id: &str) {
    for loss in [Loss::Kill, Loss::Power] {
        let runs = SWEEP.iter().filter(|(case, _)| case.loss == loss && of(case).contains(&id));
        let mut passed = 0;
        for (case, result) in runs {
            let point = result.as_ref().unwrap_or_else(|error| panic!("{case}: {error:#}"));
            passed += u32::from(*point == Point::Passed);
        }
        assert!(passed > 0, "{id}: no point was passed, {loss:?}");
    }
}

macro_rules! rows {
    ($($(#[$test:meta])* fn $name:ident() = $id:literal;)*) => {
        $($(#[$test])* fn $name() { row($id); })*

        #[test]
        fn every_row_is_a_test() {
            let tested = [$($id),*];
            let rows = ROWS.iter().map(|row| row.id).chain(["C-19", "CP-9"]);
            assert!(rows.clone().all(|id| tested.contains(&id)) && rows.count() == tested.len());
        }
    };
}

rows! {
    #[test] fn c_00_begun_and_not_answered_is_rolled_back_and_its_number_not_used_again() = "C-00";
    #[test] fn c_01_begun_and_hardly_enlisted_is_rolled_back() = "C-01";
    #[test] fn c_02_enlisted_and_not_asked_to_prepare_is_rolled_back() = "C-02";
    #[test] fn c_03_some_asked_to_prepare_is_rolled_back() = "C-03";
    #[test] fn c_04_all_voted_yes_and_nothing_appended_is_rolled_back() = "C-04";
    #[test] fn c_05_decided_in_the_process_alone_is_rolled_back() = "C-05";
    #[test] fn c_07_decided_and_not_synced_is_whole_or_not_there() = "C-07";
    #[test] fn c_08_decided_durably_and_told_nobody_commits() = "C-08";
    #[test] fn c_09_some_told_to_commit_commits() = "C-09";
    #[test] fn c_10_decided_and_the_client_not_answered_commits_and_says_so() = "C-10";
    #[test] fn c_11_some_acknowledgements_commits() = "C-11";
    #[test] fn c_12_all_acknowledged_and_no_end_is_told_again() = "C-12";
    #[test] fn c_13_the_end_not_durable_is_told_again_or_ended() = "C-13";
    #[test] fn c_15_some_told_to_roll_back_is_rolled_back() = "C-15";
    #[test] fn c_17_no_epoch_twice_when_the_start_is_interrupted() = "C-17";
    #[test] fn c_19_asked_to_stop_in_any_state_and_killed_a_second_later() = "C-19";
    #[test] fn cp_0_worked_and_not_prepared_votes_no() = "CP-0";
    #[test] fn cp_1_prepared_and_not_synced_votes_after_a_sync_or_no() = "CP-1";
    #[test] fn cp_2_prepared_durably_and_not_voted_asks_for_the_outcome() = "CP-2";
    #[test] fn cp_3_voted_yes_waits_for_the_outcome() = "CP-3";
    #[test] fn cp_4_told_to_commit_and_not_done_is_told_again() = "CP-4";
    #[test] fn cp_6_committed_durably_and_not_acknowledged_acknowledges_again() = "CP-6";
    #[test] fn cp_7_acknowledged_and_not_forgotten_forgets_later() = "CP-7";
    #[test] fn cp_9_five_deaths_while_recovering_end_in_the_same() = "CP-9";
}
