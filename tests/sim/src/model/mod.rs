//! A complete model check: every order of events of one transaction over the cores that ship.
//!
//! ```text
//!  World        coordinator core, its log (durable, in flight), participant cores, their banks,
//!    |          letters on their way, the client, what may still go wrong, the ledger of facts
//!  possible()   every action: deliver any letter, flush, return, die, start, connect, tick, call
//!    |
//!  happen()     the action on a copy; every fact goes through the simulator's invariants
//!    |
//!  quiet()      nothing on its way: the fair continuation must bring everything to rest
//! ```
//!
//! It is complete within its [`Budget`]: so many deaths, letters delivered twice, deadlines that
//! come, at any moment, in any order. A letter may be late for ever; it is lost when its receiver
//! dies. What is *not* in it: more than one transaction, operators, early votes, compaction,
//! outcomes that are dropped for their number. Those are the simulator's.
//!
//! How it stays small, and why that hides nothing:
//! - One of two worlds that differ only in which participant is which is looked at: both are the
//!   same code, and neither has a turn before the other.
//! - What a death leaves is decided when it happens: any prefix of the log's records in flight, and
//!   a bank's record or not. Nobody can look at a disk between a death and the next life, which
//!   syncs what it reads; so a kill and a power loss differ in nothing else.
//! - A record is a frame of its own, and a resource call returns when its record is durable: what
//!   lies between can be seen by nobody but a death, and that has both outcomes.
//! - Counters, versions and the times of lists are not in the state ([`Coordinator::canonical`]);
//!   clocks stand still between deadlines, for the cores only compare and add.
//!
//! [`Coordinator::canonical`]: unanimous_core::Coordinator::canonical

mod command;
mod part;
mod rest;
mod step;
mod world;

pub use command::main;
pub use step::Action;
pub use world::{Budget, Call, World};

use crate::invariants::{Branch, Violation};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use unanimous_core::{BranchResult, Outcome};
use world::Work;

/// The property that fails with the first invariant that is broken.
const ALWAYS: &str = "every invariant holds";

/// What must be reached somewhere: a check that never comes there proves nothing.
struct Sometimes {
    name: &'static str,
    /// From so many participants on.
    participants: usize,
    /// From so many deaths on.
    crashes: u8,
    seen: fn(&Transaction, &World) -> bool,
}

const SOMETIMES: &[Sometimes] = &[
    Sometimes {
        name: "a client is told committed",
        participants: 1,
        crashes: 0,
        seen: |_, world| told(world, Outcome::Committed),
    },
    Sometimes {
        name: "a client is told rolled back",
        participants: 1,
        crashes: 0,
        seen: |_, world| told(world, Outcome::RolledBack),
    },
    Sometimes {
        name: "a commit was asked for, and rolled back",
        participants: 1,
        crashes: 0,
        seen: |_, world| {
            let asked = world.ledger.transactions.iter().any(|known| known.commit_asked);
            asked && told(world, Outcome::RolledBack)
        },
    },
    Sometimes {
        name: "one branch has committed, another is in doubt",
        participants: 2,
        crashes: 0,
        seen: |_, world| {
            let mut branches = world.ledger.transactions.iter().flat_map(|known| &known.branches);
            let committed = |branch: &Branch| branch.ended == Some(BranchResult::Committed);
            branches.clone().any(committed)
                && branches.any(|branch| branch.prepared && branch.ended.is_none())
        },
    },
    Sometimes {
        name: "the decision has ended in the log",
        participants: 2,
        crashes: 0,
        seen: |_, world| world.ledger.transactions.iter().any(|known| known.end_durable),
    },
    Sometimes {
        name: "the coordinator died with a decision to carry out",
        participants: 2,
        crashes: 1,
        seen: |_, world| {
            let core = world.coordinator.as_deref();
            core.is_some_and(|core| !core.started() && core.transactions_len() > 0)
        },
    },
    Sometimes {
        name: "a participant died with a prepared branch",
        participants: 2,
        crashes: 1,
        seen: |_, world| {
            let died = world.nodes.iter().filter(|node| node.life > 0 && !node.session);
            died.filter_map(|node| node.core.as_deref()).any(|core| core.in_doubt().count() > 0)
        },
    },
];

fn told(world: &World, outcome: Outcome) -> bool {
    world.ledger.transactions.iter().any(|known| known.answered.contains(&outcome))
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// From 1 to 3.
    pub participants: usize,
    /// What may go wrong.
    pub budget: Budget,
    /// Threads; the states do not depend on them.
    pub threads: usize,
}

/// What a check came to.
#[derive(Clone, Debug)]
pub struct Checked {
    /// States reached, each as often as an action leads to it.
    pub states: usize,
    /// States that differ.
    pub unique_states: usize,
    /// Actions on the longest of the paths by which states were first reached.
    pub depth: usize,
    /// Nothing was left out within the budget.
    pub complete: bool,
    /// Wall-clock time.
    pub seconds: f64,
    /// What had to be reached somewhere, and whether it was.
    pub reached: Vec<(&'static str, bool)>,
    /// The invariant that broke, with what led there.
    pub violation: Option<(Violation, Vec<String>)>,
}

impl Checked {
    /// Every invariant held everywhere, and the check was not empty.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.complete && self.violation.is_none() && self.reached.iter().all(|(_, found)| *found)
    }
}

struct Transaction(Options);

impl Model for Transaction {
    type State = World;
    type Action = Action;

    /// Every kind of work at each participant; of those that are the same up to the participants'
    /// names, one.
    fn init_states(&self) -> Vec<World> {
        let kinds = [Work::Writes, Work::Reads, Work::Overdraws];
        let mut works: Vec<Vec<Work>> = vec![Vec::new()];
        for _ in 0..self.0.participants {
            let longer = works.iter().flat_map(|work| {
                let fits = move |kind: &Work| work.last().is_none_or(|last| last <= kind);
                kinds.into_iter().filter(fits).map(|kind| [&work[..], &[kind]].concat())
            });
            works = longer.collect();
        }
        // The last is looked at first: that in which most can go wrong.
        works.iter().rev().map(|work| World::new(work, self.0.budget)).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_none() {
            *actions = world.possible();
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let happened = catch_unwind(AssertUnwindSafe(|| {
            next.happen(action);
            next.observe();
            next.seal();
            if next.violation.is_none() && next.quiet() {
                next.judge_continuation();
            }
        }));
        if happened.is_err() {
            next = world.clone();
            next.violate("panic", "a core has panicked".to_owned());
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::always(ALWAYS, |_: &Self, world: &World| world.violation.is_none());
        let sometimes = sometimes(&self.0).map(|it| Property::sometimes(it.name, it.seen));
        [always].into_iter().chain(sometimes).collect()
    }
}

fn sometimes(options: &Options) -> impl Iterator<Item = &'static Sometimes> {
    let Options { participants, budget, .. } = *options;
    SOMETIMES
        .iter()
        .filter(move |it| it.participants <= participants && it.crashes <= budget.crashes)
}

/// Looks at every state.
#[must_use]
pub fn check(options: &Options) -> Checked {
    let begun = Instant::now();
    let checker = Transaction(*options)
        .checker()
        .threads(options.threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let discoveries = checker.discoveries();
    let violation = discoveries.get(ALWAYS).and_then(|path| {
        let states = path.clone().into_vec();
        let story = states.iter().filter_map(|(world, action)| Some(world.tell(action.as_ref()?)));
        let violation = states.last()?.0.violation.clone()?;
        Some((violation, story.collect()))
    });
    Checked {
        states: checker.state_count(),
        unique_states: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: violation.is_none() && checker.is_done(),
        seconds: begun.elapsed().as_secs_f64(),
        reached: sometimes(options)
            .map(|it| (it.name, discoveries.contains_key(it.name)))
            .collect(),
        violation,
    }
}
