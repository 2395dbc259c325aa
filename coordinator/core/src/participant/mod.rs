//! The participant's branch state machine (section 4), in the shape of the coordinator's: one event
//! in, actions out, one deadline.
//!
//! The machine asks the *resource* about every branch it does not know ("none" in the contract
//! means: neither in memory nor in the resource, asked now), so prepare, commit, commit in one
//! phase and rollback may come to a resource for branches it has finished, or has never seen. Calls
//! for one branch are never made at the same time.

mod alone;
mod message;

pub use alone::HeuristicPolicy;
pub use message::{Action, Call, Event, Order, Returned};

use crate::id::{BranchId, LogId, Owner};
use crate::message::{Answer, Done, Verdict, Vote};
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision};
use crate::record::Evidence;
use crate::{FrameNumber, Millis, backoff};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The participant's times.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Times {
    /// A branch without a vote is undone this long after its transaction's time-out.
    pub grace_ms: u64,
    /// First delay before an in-doubt branch is asked about.
    pub inquire_ms_min: u64,
    /// Longest delay between two inquiries.
    pub inquire_ms_max: u64,
    /// First delay before a resource is called again.
    pub retry_ms_min: u64,
    /// Longest delay before a resource is called again.
    pub retry_ms_max: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            grace_ms: 5_000,
            inquire_ms_min: 1_000,
            inquire_ms_max: 30_000,
            retry_ms_min: 50,
            retry_ms_max: 10_000,
        }
    }
}

/// Where a branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Working, or worked; no vote asked for.
    Active,
    /// The resource is preparing.
    Preparing,
    /// In doubt.
    Prepared,
    /// The resource is committing, in one or two phases.
    Committing,
    /// The resource is undoing.
    RollingBack,
    /// The resource is ending a prepared branch without its coordinator, by policy.
    EndingAlone,
    /// Ended alone; kept until the coordinator says forget.
    Heuristic(BranchResult),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Branch {
    state: State,
    /// The call under way.
    running: Option<Call>,
    /// The call to make again after a pause.
    again: Option<Call>,
    /// Pieces of work that have joined and not left.
    working: u32,
    failure: Option<String>,
    /// Evidence of its vote, to repeat it.
    evidence: Option<Evidence>,
    /// What to say when it is undone.
    vote_after: Option<String>,
    acknowledge_after: Option<Done>,
    /// Not known here when it was asked for: perhaps prepared by another process of this
    /// participant.
    asking: bool,
    /// The decision came while the resource was being asked: its answer first, then the commit.
    call_after: Option<Call>,
    /// The coordinator's last word about it, kept if there is a policy.
    heard: Option<Millis>,
    /// Why it ended alone, or what its resource said when it could not do what it was asked to.
    words: String,
    tries: u32,
    timer: Option<Millis>,
}

impl Branch {
    fn new(state: State) -> Self {
        Self {
            state,
            running: None,
            again: None,
            working: 0,
            failure: None,
            evidence: None,
            vote_after: None,
            acknowledge_after: None,
            asking: false,
            call_after: None,
            heard: None,
            words: String::new(),
            tries: 0,
            timer: None,
        }
    }

    /// Why it cannot commit.
    fn obstacle(&self) -> Option<String> {
        let unfinished = (self.working > 0).then(|| "its work has not ended".to_owned());
        self.failure.clone().or(unfinished)
    }
}

/// All branches of one participant. See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    times: Times,
    policy: Option<HeuristicPolicy>,
    /// Jitter's seed.
    seed: u64,
    branches: BTreeMap<BranchId, Branch>,
    timers: BTreeSet<(Millis, BranchId)>,
    /// The highest sender's epoch of each log: lower ones are an old coordinator still running.
    fences: BTreeMap<LogId, u32>,
    /// The highest frame told with a decision, and by which life.
    seen: BTreeMap<LogId, (Owner, FrameNumber)>,
    actions: VecDeque<Action>,
}

impl Participant {
    /// A participant without branches, which decides nothing alone.
    #[must_use]
    pub fn new(times: Times, seed: u64) -> Self {
        Self {
            times,
            policy: None,
            seed,
            branches: BTreeMap::new(),
            timers: BTreeSet::new(),
            fences: BTreeMap::new(),
            seen: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes one event. Poll all actions before the next.
    pub fn handle(&mut self, now: Millis, event: Event) {
        match event {
            Event::Joined { branch, remaining_ms } => self.on_joined(now, branch, remaining_ms),
            Event::Left { branch, failure } => self.on_left(&branch, failure),
            Event::Recovered { branch, evidence } => self.on_recovered(now, branch, evidence),
            Event::FoundAlone { branch, result, words } => {
                self.on_found_alone(now, branch, result, words);
            }
            Event::Told { sender, branch, order } => {
                self.hear(now, &branch);
                self.on_told(sender, branch, order);
            }
            Event::Returned { branch, result } => self.on_returned(now, branch, result),
            Event::Connected => self.on_connected(now),
            Event::Ticked => self.on_ticked(now),
        }
    }

    /// The next action to carry out.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Ticked`].
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Where a branch is; `None`: not in memory.
    #[must_use]
    pub fn state(&self, branch: &BranchId) -> Option<State> {
        self.branches.get(branch).map(|branch| branch.state)
    }

    /// Prepared branches, in order.
    pub fn in_doubt(&self) -> impl Iterator<Item = &BranchId> {
        self.branches.iter().filter(|(_, branch)| branch.state == State::Prepared).map(|(id, _)| id)
    }

    /// How many branches are in memory.
    #[must_use]
    pub fn branches_len(&self) -> usize {
        self.branches.len()
    }

    /// The highest frame told with a decision, of each log, for hello.
    pub fn seen(&self) -> impl Iterator<Item = (Owner, FrameNumber)> {
        self.seen.values().copied()
    }

    fn on_joined(&mut self, now: Millis, id: BranchId, remaining_ms: u64) {
        let branch = self.branches.entry(id).or_insert_with(|| Branch::new(State::Active));
        branch.working = branch.working.saturating_add(1);
        if branch.state == State::Active && branch.timer.is_none() {
            let at = now.plus(remaining_ms).plus(self.times.grace_ms);
            self.set_timer(id, at);
        }
    }

    fn on_left(&mut self, id: &BranchId, failure: Option<String>) {
        let Some(branch) = self.branches.get_mut(id) else { return };
        branch.working = branch.working.saturating_sub(1);
        if branch.failure.is_none() {
            branch.failure = failure;
        }
    }

    fn on_recovered(&mut self, now: Millis, id: BranchId, evidence: Option<Evidence>) {
        let branch = self.branches.entry(id).or_insert_with(|| Branch::new(State::Prepared));
        branch.evidence = evidence;
        self.hear(now, &id);
        self.inquire_later(now, id);
    }

    fn on_told(&mut self, sender: Owner, id: BranchId, order: Order) {
        // Changes nothing, and must not fence: a life that only asks for patience may not have its
        // epoch durable yet, and the next one may draw a lower one.
        let patience = matches!(order, Order::Answer(Verdict::Wait | Verdict::LeaveAlone));
        if patience && on(Bug::PatienceIsRollback) && self.state(&id) == Some(State::Prepared) {
            return self.on_rollback(id);
        }
        if patience && !on(Bug::PatienceFences) {
            return;
        }
        let fence = self.fences.entry(sender.log).or_insert(sender.epoch);
        if *fence > sender.epoch {
            return;
        }
        *fence = sender.epoch;
        match order {
            Order::Prepare => self.on_prepare(id),
            Order::Decide { decision: Decision::Commit, frame, evidence } => {
                self.note_seen(sender, frame);
                self.on_commit(id, evidence);
            }
            Order::Decide { decision: Decision::Rollback, .. } => self.on_rollback(id),
            Order::CommitOnePhase => self.on_commit_one_phase(id),
            Order::Forget => self.on_forget(id),
            Order::Answer(verdict) => self.on_verdict(sender, id, verdict),
        }
    }

    fn note_seen(&mut self, sender: Owner, frame: FrameNumber) {
        let seen = self.seen.entry(sender.log).or_insert((sender, frame));
        *seen = (*seen).max((sender, frame));
    }

    fn on_prepare(&mut self, id: BranchId) {
        let Some(branch) = self.branches.get_mut(&id) else {
            let asking = Branch { asking: true, ..Branch::new(State::Preparing) };
            self.branches.insert(id, asking);
            return self.call(id, Call::Prepare);
        };
        match branch.state {
            State::Active => match branch.obstacle() {
                Some(obstacle) => {
                    branch.vote_after = Some(obstacle);
                    self.undo(id);
                }
                None => {
                    branch.state = State::Preparing;
                    self.clear_timer(&id);
                    if on(Bug::VotesWhenAsked) {
                        self.send(id, Answer::Voted(Vote::Commit { evidence: None }));
                    }
                    self.call(id, Call::Prepare);
                }
            },
            State::Prepared if on(Bug::RepeatedVoteReadOnly) => {
                self.send(id, Answer::Voted(Vote::ReadOnly));
            }
            State::Prepared => {
                let evidence = branch.evidence.clone();
                self.send(id, Answer::Voted(Vote::Commit { evidence }));
            }
            State::RollingBack => {
                branch.vote_after.get_or_insert_with(|| "it is being undone".to_owned());
            }
            State::Heuristic(result) => self.report(id, result),
            State::Preparing | State::Committing | State::EndingAlone => {}
        }
    }

    fn on_commit(&mut self, id: BranchId, evidence: Option<Evidence>) {
        let Some(branch) = self.branches.get_mut(&id) else {
            self.branches.insert(id, Branch::new(State::Committing));
            return self.call(id, Call::Commit { evidence });
        };
        match branch.state {
            State::Prepared => {
                branch.state = State::Committing;
                branch.tries = 0;
                let evidence = evidence.or_else(|| branch.evidence.clone());
                self.clear_timer(&id);
                if on(Bug::AcknowledgesWhenTold) {
                    self.acknowledge(id, Done::Done, String::new());
                }
                self.call(id, Call::Commit { evidence });
            }
            State::Preparing if branch.asking => {
                branch.call_after = Some(Call::Commit { evidence });
            }
            State::Active | State::Preparing => {
                branch.acknowledge_after = Some(Done::NotPrepared);
                self.undo(id);
            }
            State::EndingAlone => self.order_after(id, Call::Commit { evidence }),
            State::Heuristic(result) => self.report(id, result),
            State::Committing => self.say_why_not(id),
            State::RollingBack => {}
        }
    }

    fn on_commit_one_phase(&mut self, id: BranchId) {
        let Some(branch) = self.branches.get_mut(&id) else {
            self.branches.insert(id, Branch::new(State::Committing));
            return self.call(id, Call::CommitOnePhase);
        };
        match branch.state {
            State::Active => match branch.obstacle() {
                Some(_) => {
                    branch.acknowledge_after = Some(Done::RolledBack);
                    self.undo(id);
                }
                None => {
                    branch.state = State::Committing;
                    self.clear_timer(&id);
                    self.call(id, Call::CommitOnePhase);
                }
            },
            State::RollingBack => branch.acknowledge_after = Some(Done::RolledBack),
            State::Heuristic(result) => self.report(id, result),
            // Its early vote got lost: the coordinator knows of no prepare, and leaves the decision
            // to it.
            State::Prepared => {
                branch.state = State::Committing;
                branch.tries = 0;
                self.clear_timer(&id);
                self.call(id, Call::CommitOnePhase);
            }
            State::Preparing => branch.call_after = Some(Call::CommitOnePhase),
            State::EndingAlone => self.order_after(id, Call::CommitOnePhase),
            State::Committing => self.say_why_not(id),
        }
    }

    fn on_rollback(&mut self, id: BranchId) {
        let branch = self.branches.entry(id).or_insert_with(|| {
            // Unknown here, perhaps not to the resource.
            Branch::new(State::Prepared)
        });
        match branch.state {
            State::Active | State::Preparing | State::Prepared => {
                branch.acknowledge_after = Some(Done::Done);
                self.undo(id);
            }
            State::RollingBack => {
                branch.acknowledge_after = Some(Done::Done);
                self.say_why_not(id);
            }
            State::EndingAlone => {
                branch.acknowledge_after = Some(Done::Done);
                self.order_after(id, Call::Rollback);
            }
            State::Heuristic(result) => self.report(id, result),
            State::Committing => {}
        }
    }

    fn on_forget(&mut self, id: BranchId) {
        let busy = |branch: &Branch| branch.running.is_some() || branch.again.is_some();
        match self.branches.get(&id).map(|branch| (branch.state, busy(branch))) {
            Some((State::Heuristic(_), false)) => self.call(id, Call::Forget),
            // Unknown here, perhaps not to the resource: another process reported it.
            None => {
                self.branches.insert(id, Branch::new(State::Heuristic(BranchResult::Hazard)));
                self.call(id, Call::Forget);
            }
            // After a restart it does not know yet that the branch ended alone, and the resource
            // still does: it finds out, reports again and is told again.
            Some(_) => {}
        }
    }

    fn on_verdict(&mut self, sender: Owner, id: BranchId, verdict: Verdict) {
        let state = self.branches.get(&id).map(|branch| branch.state);
        match (state, verdict) {
            // Only who is in doubt has asked. A late answer must not meet a late prepare.
            (None | Some(State::Active | State::Preparing | State::Committing), _)
            | (_, Verdict::Wait | Verdict::LeaveAlone) => {}
            (Some(_), Verdict::Commit { frame, evidence }) => {
                self.note_seen(sender, frame);
                self.on_commit(id, evidence);
            }
            (Some(_), Verdict::Rollback) => self.on_rollback(id),
        }
    }

    /// To RollingBack. A call under way returns first.
    fn undo(&mut self, id: BranchId) {
        self.clear_timer(&id);
        let Some(branch) = self.branches.get_mut(&id) else { return };
        branch.state = State::RollingBack;
        branch.tries = 0;
        branch.again = None;
        if branch.running.is_none() {
            self.call(id, Call::Rollback);
        }
    }

    fn on_returned(&mut self, now: Millis, id: BranchId, result: Returned) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let Some(call) = branch.running.take() else { return };
        if let Some(call) = branch.call_after.take_if(|_| branch.state == State::Preparing) {
            return self.on_returned_meanwhile(id, call, result);
        }
        match (branch.state, &call, result) {
            // It was told to roll back while it prepared.
            (State::RollingBack, Call::Prepare, _) => self.call(id, Call::Rollback),
            (State::Preparing, Call::Prepare, Returned::Voted(vote)) => {
                self.on_voted(now, id, vote);
            }
            (State::Preparing, Call::Prepare, Returned::Retry(_)) if on(Bug::BusyIsPrepared) => {
                self.on_voted(now, id, Vote::Commit { evidence: None });
            }
            (State::Committing, Call::Commit { .. }, Returned::Retry(_)) if on(Bug::BusyIsDone) => {
                self.on_ended(now, id, Done::Done, String::new());
            }
            (State::Committing, Call::Commit { .. }, Returned::Did(done, words)) => {
                self.on_committed(now, id, call, done, words);
            }
            (State::Committing, Call::CommitOnePhase, Returned::Did(done, words)) => {
                self.on_ended(now, id, done, words);
            }
            (State::RollingBack, Call::Rollback, Returned::Did(done, words)) => {
                self.on_undone(now, id, done, words);
            }
            (State::EndingAlone, _, result) => self.on_ended_alone(now, id, result),
            (State::Heuristic(_), Call::Forget, Returned::Did(..)) => {
                self.drop_branch(&id);
                self.acknowledge(id, Done::Forgotten, String::new());
            }
            // The resource could not be asked, or answered something else than it was asked.
            (_, _, result) => {
                if let Returned::Retry(why) = result {
                    branch.words = why;
                }
                self.call_later(now, id, call);
            }
        }
    }

    /// The order to commit came while the resource prepared. A branch that was prepared early, and
    /// has said no or had nothing to do, is over: there is nothing to commit in one phase any more.
    fn on_returned_meanwhile(&mut self, id: BranchId, call: Call, result: Returned) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let over = match (&call, result) {
            // Not known here when it was asked for: no proof of anything.
            _ if branch.asking => None,
            (Call::CommitOnePhase, Returned::Voted(Vote::Rollback { reason })) => {
                Some((Done::RolledBack, reason))
            }
            (Call::CommitOnePhase, Returned::Voted(Vote::ReadOnly)) => {
                Some((Done::Done, String::new()))
            }
            _ => None,
        };
        match over {
            Some((done, words)) => {
                self.drop_branch(&id);
                self.acknowledge(id, done, words);
            }
            None => {
                branch.state = State::Committing;
                self.call(id, call);
            }
        }
    }

    fn on_voted(&mut self, now: Millis, id: BranchId, vote: Vote) {
        match &vote {
            Vote::Commit { evidence } => {
                if let Some(branch) = self.branches.get_mut(&id) {
                    branch.state = State::Prepared;
                    branch.tries = 0;
                    branch.evidence = evidence.clone();
                }
                self.hear(now, &id);
                self.inquire_later(now, id);
            }
            Vote::ReadOnly | Vote::Rollback { .. } => {
                self.drop_branch(&id);
            }
        }
        self.send(id, Answer::Voted(vote));
    }

    /// A branch that voted commit and cannot: whatever the resource calls it, it ended alone.
    fn on_committed(&mut self, now: Millis, id: BranchId, call: Call, done: Done, words: String) {
        match done {
            Done::Heuristic(_) if on(Bug::HeuristicHidden) => {
                self.on_ended(now, id, Done::Done, words);
            }
            Done::Done | Done::Heuristic(_) => self.on_ended(now, id, done, words),
            Done::RolledBack | Done::NotPrepared => {
                self.on_ended(now, id, Done::Heuristic(BranchResult::RolledBack), words);
            }
            Done::Retry | Done::Forgotten => self.call_later(now, id, call),
        }
    }

    fn on_ended(&mut self, now: Millis, id: BranchId, done: Done, words: String) {
        if let Done::Heuristic(result) = done {
            return self.keep_heuristic(now, id, result, words);
        }
        self.drop_branch(&id);
        self.acknowledge(id, done, words);
    }

    fn on_undone(&mut self, now: Millis, id: BranchId, done: Done, words: String) {
        if let Done::Heuristic(result) = done {
            return self.keep_heuristic(now, id, result, words);
        }
        let Some(branch) = self.drop_branch(&id) else { return };
        if let Some(reason) = branch.vote_after {
            self.send(id, Answer::Voted(Vote::Rollback { reason }));
        }
        if let Some(done) = branch.acknowledge_after {
            self.acknowledge(id, done, branch.failure.unwrap_or(words));
        }
    }

    /// A hazard is no knowledge: nothing to keep, the resource is asked again at every repeat.
    /// Anything else is reported until the coordinator says that it is on record.
    fn keep_heuristic(&mut self, now: Millis, id: BranchId, result: BranchResult, words: String) {
        if result == BranchResult::Hazard {
            self.drop_branch(&id);
        } else {
            if let Some(branch) = self.branches.get_mut(&id) {
                branch.state = State::Heuristic(result);
                branch.words.clone_from(&words);
                branch.tries = 0;
            }
            self.inquire_later(now, id);
        }
        self.acknowledge(id, Done::Heuristic(result), words);
    }

    fn on_connected(&mut self, now: Millis) {
        let waiting: Vec<(BranchId, State)> = self
            .branches
            .iter_mut()
            .filter(|(_, branch)| matches!(branch.state, State::Prepared | State::Heuristic(_)))
            .map(|(id, branch)| {
                branch.tries = 0;
                (*id, branch.state)
            })
            .collect();
        for (id, state) in waiting {
            self.ask_or_report(now, id, state);
        }
    }

    /// An in-doubt branch asks; one that ended alone reports. Both again later.
    fn ask_or_report(&mut self, now: Millis, id: BranchId, state: State) {
        match state {
            State::Heuristic(result) => self.report(id, result),
            _ => self.actions.push_back(Action::Inquire { branch: id }),
        }
        if on(Bug::InquiresOnce) && state == State::Prepared {
            return;
        }
        self.inquire_later(now, id);
    }

    fn on_ticked(&mut self, now: Millis) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let ends_alone = self.ends_alone_at(&id).is_some_and(|at| at <= now);
            let Some(branch) = self.branches.get_mut(&id) else { continue };
            branch.timer = None;
            match (branch.state, branch.again.take()) {
                (_, Some(call)) => self.call(id, call),
                // The coordinator is silent and no vote was given: undone by its own time-out.
                (State::Active, None) => self.undo(id),
                (State::Prepared, None) if ends_alone => self.end_alone(id),
                (state @ (State::Prepared | State::Heuristic(_)), None) => {
                    branch.tries = branch.tries.saturating_add(1);
                    if on(Bug::PreparedTimesOut) && state == State::Prepared && branch.tries > 2 {
                        self.undo(id);
                        continue;
                    }
                    self.ask_or_report(now, id, state);
                }
                (
                    State::Preparing | State::Committing | State::RollingBack | State::EndingAlone,
                    None,
                ) => {}
            }
        }
    }

    fn call(&mut self, id: BranchId, call: Call) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        debug_assert!(branch.running.is_none(), "one call a branch at a time");
        branch.running = Some(call.clone());
        self.actions.push_back(Action::Call { branch: id, call });
    }

    fn call_later(&mut self, now: Millis, id: BranchId, call: Call) {
        let (min_ms, max_ms) = (self.times.retry_ms_min, self.times.retry_ms_max);
        let at = self.backoff(now, &id, min_ms, max_ms);
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.again = Some(call);
            branch.tries = branch.tries.saturating_add(1);
        }
        self.set_timer(id, at);
    }

    fn inquire_later(&mut self, now: Millis, id: BranchId) {
        let (min_ms, max_ms) = (self.times.inquire_ms_min, self.times.inquire_ms_max);
        let at = self.backoff(now, &id, min_ms, max_ms);
        let at = self.ends_alone_at(&id).map_or(at, |alone| alone.max(now).min(at));
        self.set_timer(id, at);
    }

    fn backoff(&self, now: Millis, id: &BranchId, min_ms: u64, max_ms: u64) -> Millis {
        let tries = self.branches.get(id).map_or(0, |branch| branch.tries);
        let mut key = [0; 48];
        key[..24].copy_from_slice(id.gtrid.as_bytes());
        key[24..].copy_from_slice(id.bqual.as_bytes());
        now.plus(backoff::delay_ms(self.seed, &key, tries, min_ms, max_ms))
    }

    fn set_timer(&mut self, id: BranchId, at: Millis) {
        self.clear_timer(&id);
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.timer = Some(at);
            self.timers.insert((at, id));
        }
    }

    fn clear_timer(&mut self, id: &BranchId) {
        if let Some(at) = self.branches.get_mut(id).and_then(|branch| branch.timer.take()) {
            self.timers.remove(&(at, *id));
        }
    }

    fn drop_branch(&mut self, id: &BranchId) -> Option<Branch> {
        self.clear_timer(id);
        self.branches.remove(id)
    }

    /// An order came again while the resource is to be called again: whoever waits is told why.
    fn say_why_not(&mut self, id: BranchId) {
        let Some(branch) = self.branches.get(&id).filter(|branch| branch.again.is_some()) else {
            return;
        };
        if !branch.words.is_empty() {
            let words = branch.words.clone();
            self.acknowledge(id, Done::Retry, words);
        }
    }

    fn report(&mut self, id: BranchId, result: BranchResult) {
        let words = self.branches.get(&id).map(|branch| branch.words.clone());
        self.acknowledge(id, Done::Heuristic(result), words.unwrap_or_default());
    }

    fn acknowledge(&mut self, id: BranchId, done: Done, detail: String) {
        self.send(id, Answer::Acknowledged { done, detail });
    }

    fn send(&mut self, branch: BranchId, answer: Answer) {
        self.actions.push_back(Action::Send { branch, answer });
    }
}
