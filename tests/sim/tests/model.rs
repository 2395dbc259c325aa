//! The model check is complete where it is small enough for every change. The larger ones are run
//! by the command `model`.

use unanimous_sim::model::{Budget, Options, check};

const NOTHING: Budget = Budget { crashes: 0, duplicates: 0, ticks: 0 };
const ONE: Options = Options { participants: 1, budget: NOTHING, threads: 1 };

#[test]
fn every_order_of_events_with_one_participant_holds_what_is_promised() {
    for budget in [
        Budget { crashes: 1, ..NOTHING },
        Budget { duplicates: 1, ..NOTHING },
        Budget { ticks: 1, ..NOTHING },
    ] {
        let checked = check(&Options { budget, ..ONE });
        assert!(checked.holds(), "{budget:?}: {checked:?}");
        assert!(checked.unique_states > 500, "{budget:?}: {checked:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_state() {
    let budget = Budget { crashes: 1, duplicates: 1, ticks: 0 };
    let [one, three] = [1, 3].map(|threads| check(&Options { budget, threads, ..ONE }));
    assert!(one.holds() && three.holds(), "{one:?} {three:?}");
    assert_eq!((one.states, one.unique_states), (three.states, three.unique_states));
}
