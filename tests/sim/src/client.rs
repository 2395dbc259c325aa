//! A client: begins transactions, has work done at participants, ends them, and asks about those it
//! lost sight of.

use super::bank::Moves;
use super::network::{Call, Parcel};
use super::swarm::Swarm;
use super::world::{Happening, World};
use unanimous_core::message::{Refusal, Wait};
use unanimous_core::{Gtrid, Response};

/// How long a client waits for an answer before it does something.
const PATIENCE_MS: u64 = 250;
/// How long it waits at most between two questions about one transaction.
const PATIENCE_MS_MAX: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before its first and between transactions.
    Idle,
    Beginning,
    /// Waits for the work of this index.
    Working(usize),
    Ending {
        commit: bool,
    },
    Done,
}

/// A client's process. It keeps nothing on disk.
#[derive(Debug)]
pub(super) struct ClientNode {
    stage: Stage,
    transactions_left: u32,
    number: u32,
    /// The one timer that counts.
    wake: u64,
    tries: u32,
    gtrid: Option<Gtrid>,
    branches_counted: u32,
    plan: Vec<(usize, Moves)>,
}

impl ClientNode {
    pub(super) fn new(swarm: &Swarm) -> Self {
        Self {
            stage: Stage::Idle,
            transactions_left: swarm.transactions_per_client,
            number: 0,
            wake: 0,
            tries: 0,
            gtrid: None,
            branches_counted: 0,
            plan: Vec::new(),
        }
    }

    pub(super) fn done(&self) -> bool {
        self.stage == Stage::Done
    }
}

impl World {
    pub(super) fn start_client(&mut self, who: usize) {
        let delay_ms = self.random.between(0, 200);
        self.client_waits(who, delay_ms);
    }

    fn client_waits(&mut self, who: usize, delay_ms: u64) {
        let client = &mut self.clients[who];
        client.wake += 1;
        let wake = client.wake;
        self.after(delay_ms, Happening::Client { who, wake });
    }

    /// Nothing came in time.
    pub(super) fn client_wakes(&mut self, who: usize, wake: u64) {
        let client = &mut self.clients[who];
        if wake != client.wake {
            return;
        }
        self.trace.note(&wake);
        client.tries += 1;
        match client.stage {
            Stage::Idle | Stage::Beginning => self.client_begins(who),
            Stage::Working(_) => self.client_ends(who, false),
            Stage::Ending { commit } => {
                // The same again, a question, or second thoughts that may come too late.
                match self.random.below(8) {
                    0..4 => self.client_asks_end(who, commit),
                    4 => self.client_asks_end(who, false),
                    _ => self.client_resolves(who),
                }
            }
            Stage::Done => {}
        }
    }

    fn client_begins(&mut self, who: usize) {
        let (first, last) = self.swarm.timeout_ms;
        let timeout_ms = self.random.between(first, last);
        let client = &mut self.clients[who];
        client.stage = Stage::Beginning;
        client.gtrid = None;
        client.branches_counted = 0;
        self.client_calls(who, Call::Begin { timeout_ms });
    }

    fn client_calls(&mut self, who: usize, call: Call) {
        let client = &mut self.clients[who];
        client.number += 1;
        let (number, tries) = (client.number, client.tries);
        self.send(Parcel::Call { who, number, call });
        let patience_ms = (PATIENCE_MS << tries.min(4)).min(PATIENCE_MS_MAX);
        self.client_waits(who, patience_ms);
    }

    /// On to the next transaction, whatever became of this one.
    fn client_next(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.transactions_left -= 1;
        client.tries = 0;
        client.number += 1;
        if client.transactions_left == 0 || self.healed {
            client.stage = Stage::Done;
        } else {
            client.stage = Stage::Idle;
            let delay_ms = self.random.between(0, 60);
            self.client_waits(who, delay_ms);
        }
    }

    /// The coordinator answers.
    pub(super) fn client_hears(&mut self, who: usize, number: u32, response: Response) {
        let client = &mut self.clients[who];
        if number != client.number {
            return;
        }
        match (client.stage, response) {
            (Stage::Beginning, Response::Begun { gtrid, .. }) => {
                client.gtrid = Some(gtrid);
                client.tries = 0;
                let plan = self.plan();
                self.clients[who].plan = plan;
                self.client_works(who, 0);
            }
            (Stage::Ending { .. }, Response::Ended(_) | Response::Unknown) => self.client_next(who),
            // Refused for good.
            (_, Response::Refused(Refusal::LogFull { .. })) if self.stays_low => {
                self.client_next(who);
            }
            // Refused or pending: asked again.
            (_, Response::Refused(_) | Response::Pending) => self.client_waits(who, 60),
            (stage, response) => {
                self.violate("P-16", format!("client {who} in {stage:?} got {response:?}"));
            }
        }
    }

    /// Who is to do what: money moves from one account to another; some only look.
    fn plan(&mut self) -> Vec<(usize, Moves)> {
        let (participants, accounts) = (self.participants.len(), self.swarm.accounts);
        let cents = i64::try_from(self.random.between(1, 60)).unwrap_or(1);
        let mut plan = Vec::new();
        let first = self.some_index(participants);
        let count = 1 + self.some_index(participants).max(self.some_index(participants));
        let read_only = self.random.chance(self.swarm.read_only);
        for branch in 0..count {
            let from = self.some_index(accounts);
            let moves = match (branch, count) {
                _ if read_only => Moves::new(),
                (0, 1) => vec![(from, -cents), ((from + 1) % accounts, cents)],
                (0, _) => vec![(from, -cents)],
                (1, _) => vec![(from, cents)],
                _ if self.random.chance(500) => Moves::new(),
                _ => vec![(from, -1), ((from + 1) % accounts, 1)],
            };
            plan.push(((first + branch) % participants, moves));
        }
        if self.random.chance(200) {
            // Mostly a second piece of work in a branch that is there already.
            let first = if self.random.chance(300) { self.some_index(participants) } else { first };
            let account = self.some_index(accounts);
            plan.push((first, vec![(account, -1), ((account + 1) % accounts, 1)]));
        }
        plan
    }

    fn some_index(&mut self, end: usize) -> usize {
        usize::try_from(self.random.below(end as u64)).unwrap_or(0)
    }

    fn client_works(&mut self, who: usize, at: usize) {
        let client = &mut self.clients[who];
        let Some(gtrid) = client.gtrid else { return };
        let Some((participant, moves)) = client.plan.get(at).cloned() else {
            let rolls_back = self.random.chance(self.swarm.client_rolls_back);
            return self.client_ends(who, !rolls_back);
        };
        client.stage = Stage::Working(at);
        client.number += 1;
        let number = client.number;
        // The last piece may be missed without harm only if it changes no sum.
        let last = at > 0 && at + 1 == client.plan.len();
        let harmless = moves.iter().map(|(_, by)| by).sum::<i64>() == 0;
        self.send(Parcel::Work { who: participant, client: who, number, gtrid, moves });
        if last && harmless && self.fault(self.swarm.client_hurries) {
            return self.client_ends(who, true);
        }
        // Longer than a participant tries to enlist.
        self.client_waits(who, 4 * PATIENCE_MS);
    }

    /// A participant has answered about a piece of work.
    pub(super) fn client_worked(
        &mut self,
        who: usize,
        number: u32,
        worked: Result<u32, &'static str>,
    ) {
        let client = &mut self.clients[who];
        let Stage::Working(at) = client.stage else { return };
        if number != client.number {
            return;
        }
        match worked {
            Ok(branches) => {
                client.branches_counted += branches;
                self.client_works(who, at + 1);
            }
            Err(_) => self.client_ends(who, false),
        }
    }

    fn client_ends(&mut self, who: usize, commit: bool) {
        if self.fault(self.swarm.kill_client) {
            return self.client_next(who);
        }
        self.clients[who].stage = Stage::Ending { commit };
        self.clients[who].tries = 0;
        self.client_asks_end(who, commit);
        // It may die when it has just asked.
        if self.fault(self.swarm.kill_client) {
            self.client_next(who);
        }
    }

    fn client_asks_end(&mut self, who: usize, commit: bool) {
        let Some(gtrid) = self.clients[who].gtrid else { return };
        let call = if commit {
            let wait = self.random.pick(&[Wait::Decided, Wait::Decided, Wait::Completed]);
            Call::Commit { gtrid, expected_branches: self.expected_branches(who), wait }
        } else {
            Call::Rollback { gtrid }
        };
        self.client_calls(who, call);
    }

    fn client_resolves(&mut self, who: usize) {
        let Some(gtrid) = self.clients[who].gtrid else { return };
        let wait = self.random.chance(500);
        let expected_branches = self.expected_branches(who);
        self.client_calls(who, Call::Resolve { gtrid, expected_branches, wait });
    }

    fn expected_branches(&self, who: usize) -> Option<u32> {
        self.swarm.counts_branches.then(|| self.clients[who].branches_counted)
    }
}
