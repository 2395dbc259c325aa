//! What a seed draws before its schedule begins: how many take part, how they are configured, what
//! fails how often.
//!
//! Swarm testing (Groce et al. 2012): each seed switches whole kinds of faults off, because a fault
//! that is always there hides what happens without it.

use super::random::Random;
use unanimous_core::participant::{HeuristicPolicy, Times};
use unanimous_core::{Decision, Limits};

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As a session over TCP: in order, and a lost message ends the session.
    Stream,
    /// As badly as the protocol allows: each message on its own, lost, doubled, late, from sessions
    /// long gone.
    Datagram,
}

/// Everything a seed decides beforehand. Rates are per mille; times are milliseconds.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// 1 to 3.
    pub participants: usize,
    /// Participants of whom two processes run: the first so many.
    pub second_instances: usize,
    /// 1 to 3.
    pub clients: usize,
    /// Transactions that each client begins.
    pub transactions_per_client: u32,
    /// Accounts at each participant.
    pub accounts: usize,
    /// How messages travel.
    pub delivery: Delivery,
    /// The coordinator's operators act, per call of a client.
    pub operates: u64,
    /// Nothing fails.
    pub faultless: bool,
    /// Clients say how many branches they counted.
    pub counts_branches: bool,
    /// Participants' operators end prepared branches: per prepared branch.
    pub decides_alone: u64,
    /// What participants do if the coordinator is silent.
    pub policy: Option<HeuristicPolicy>,
    /// The coordinator's limits.
    pub limits: Limits,
    /// The participants' times.
    pub times: Times,
    /// Time-out that clients ask for, from and to.
    pub timeout_ms: (u64, u64),
    /// A message's time on its way, longest.
    pub latency_ms: u64,
    /// A sync's time, longest.
    pub sync_ms: u64,
    /// A message is lost.
    pub lose: u64,
    /// A message arrives twice (datagrams only).
    pub double: u64,
    /// A message takes up to ten time-outs (datagrams only).
    pub delay: u64,
    /// A session breaks, per message.
    pub break_session: u64,
    /// A link loses everything one way for a while, per message.
    pub cut_link: u64,
    /// The coordinator's process dies, per event.
    pub kill_coordinator: u64,
    /// A participant's process dies, per event.
    pub kill_participant: u64,
    /// A death is a power loss.
    pub power_loss: u64,
    /// A process stands still for a while, per event.
    pub freeze: u64,
    /// A sync fails.
    pub fail_sync: u64,
    /// A resource is busy and asks to be called again.
    pub resource_retry: u64,
    /// A client dies, per answer it gets.
    pub kill_client: u64,
    /// A client ends a transaction without waiting for the last piece of work.
    pub client_hurries: u64,
    /// A client asks for a rollback instead of the commit.
    pub client_rolls_back: u64,
    /// A participant votes when the work ends.
    pub early_vote: u64,
    /// A piece of work fails.
    pub fail_work: u64,
    /// A branch does not change anything.
    pub read_only: u64,
    /// A compaction of the log begins, per event of the coordinator.
    pub compact: u64,
    /// The log's space becomes low for a while, per event of the coordinator.
    pub space: u64,
    /// Evidence goes with votes.
    pub evidence: bool,
    /// Deaths in one schedule, at most.
    pub deaths_max: u32,
    /// A participant says what it should not, per event.
    pub misbehave: u64,
    /// Bits of a durable frame flip while the coordinator is down, per death.
    pub rot: u64,
    /// The coordinator is given a new, empty log, per restart.
    pub new_log: u64,
    /// Length of the safety phase, at most.
    pub safety_ms: u64,
}

impl Swarm {
    /// What this seed draws. `quiet`: without faults.
    #[must_use]
    pub fn draw(random: &mut Random, quiet: bool) -> Self {
        let faultless = random.chance(20) || quiet;
        let delivery = random.pick(&[Delivery::Stream, Delivery::Datagram, Delivery::Datagram]);
        let mut rate = |on: u64, rates: &[u64]| {
            if !faultless && random.chance(on) { random.pick(rates) } else { 0 }
        };
        let lose = rate(500, &[10, 50, 150, 300]);
        let double = rate(500, &[20, 100, 300]);
        let delay = rate(400, &[20, 100, 200]);
        let break_session = rate(300, &[5, 20, 60]);
        let cut_link = rate(200, &[2, 10]);
        let kill_coordinator = rate(850, &[8, 15, 30, 60]);
        let kill_participant = rate(700, &[5, 15, 30]);
        let power_loss = rate(900, &[300, 500, 1_000]);
        let freeze = rate(250, &[2, 10, 30]);
        let fail_sync = rate(150, &[20, 100]);
        let new_log = rate(120, &[300, 1_000]);
        // Together they reach what neither does alone.
        let (retries, misbehaves) = if new_log > 0 { (800, 800) } else { (200, 150) };
        let resource_retry = rate(retries, &[50, 300, 700, 900]);
        let kill_client = rate(300, &[20, 80]);
        let decides_alone = rate(200, &[100, 400]);
        let fail_work = rate(300, &[30, 100]);
        let (compact, space) = (rate(700, &[5, 20, 100, 300]), rate(150, &[5, 30]));
        let misbehave = rate(misbehaves, &[20, 100, 300]);
        let rot = rate(100, &[300, 1_000]);
        let operates = rate(200, &[100, 400, 800]);
        let participants = random.pick(&[1, 2, 2, 2, 3, 3]);
        Self {
            participants,
            second_instances: random.pick(&[0, 0, 0, 1, participants]),
            clients: random.pick(&[1, 2, 2, 3]),
            transactions_per_client: random.pick(&[1, 1, 2, 2, 3]),
            accounts: random.pick(&[2, 4, 8]),
            delivery,
            operates,
            faultless,
            counts_branches: random.chance(850),
            decides_alone,
            policy: draw_policy(random, faultless),
            limits: draw_limits(random, faultless),
            times: draw_times(random),
            timeout_ms: draw_timeout_ms(random, faultless),
            latency_ms: random.pick(&[2, 10, 60]),
            sync_ms: random.pick(&[1, 5, 40]),
            lose,
            double,
            delay,
            break_session,
            cut_link,
            kill_coordinator,
            kill_participant,
            power_loss,
            freeze,
            fail_sync,
            resource_retry,
            kill_client,
            client_hurries: if faultless { 0 } else { random.pick(&[0, 0, 300]) },
            client_rolls_back: random.pick(&[0, 50, 200]),
            early_vote: random.pick(&[0, 0, 0, 500, 1_000]),
            fail_work,
            read_only: random.pick(&[0, 100, 300]),
            compact,
            space,
            misbehave,
            rot,
            new_log,
            evidence: random.chance(300),
            deaths_max: random.pick(&[1, 2, 3, 5]),
            safety_ms: random.pick(&[3_000, 10_000]),
        }
        .with_room_for_heuristics()
    }

    /// Heuristic transactions stay in the table until a person resolves them.
    fn with_room_for_heuristics(mut self) -> Self {
        if self.decides_alone + self.misbehave + self.operates > 0 || self.policy.is_some() {
            self.limits.transactions_max = 1_000;
        }
        self
    }

    /// How long everything may take after the last fault, in simulated milliseconds.
    ///
    /// Each of the waits below may have begun just before the heal, and some follow one another: a
    /// transaction's time-out, then a participant's grace, then inquiries and repeats at their
    /// longest delay.
    #[must_use]
    pub fn heal_bound_ms(&self) -> u64 {
        let retries =
            self.limits.retry_ms_max + self.times.inquire_ms_max + self.times.retry_ms_max;
        self.timeout_ms.1 + self.times.grace_ms + 4 * retries + 10_000
    }
}

fn draw_policy(random: &mut Random, faultless: bool) -> Option<HeuristicPolicy> {
    (!faultless && random.chance(150)).then(|| HeuristicPolicy {
        after_ms: random.pick(&[50, 500, 2_500]),
        decision: random.pick(&[Decision::Commit, Decision::Rollback]),
    })
}

fn draw_limits(random: &mut Random, faultless: bool) -> Limits {
    let mut limits = Limits {
        retry_ms_min: random.pick(&[20, 100, 200]),
        retry_ms_max: random.pick(&[400, 1_500, 5_000]),
        rollback_tries_max: random.pick(&[0, 1, 5]),
        forget_tries_max: random.pick(&[1, 5]),
        ..Limits::default()
    };
    if !faultless {
        limits.transactions_max = random.pick(&[2, 1_000, 1_000, 1_000]);
        limits.branches_max = random.pick(&[2, 64, 64, 64]);
        limits.outcomes_max = random.pick(&[1, 3, 200_000, 200_000]);
        limits.exceptions_max = random.pick(&[0, 1, 64, 64]);
        limits.outcome_retention_ms = random.pick(&[30, 500, 3_000, 600_000, 600_000]);
        limits.redrive_window = random.pick(&[1, 1, 2, 256]);
        limits.ticks_max = random.pick(&[1, 2, 1_000]);
        limits.participants_max = random.pick(&[1, 10_000, 10_000, 10_000]);
    }
    limits
}

fn draw_timeout_ms(random: &mut Random, faultless: bool) -> (u64, u64) {
    if faultless {
        return (50_000, 60_000);
    }
    random.pick(&[(50, 400), (300, 1_500), (2_000, 5_000), (2_000, 5_000)])
}

fn draw_times(random: &mut Random) -> Times {
    Times {
        grace_ms: random.pick(&[0, 100, 2_000]),
        inquire_ms_min: random.pick(&[20, 200, 1_000]),
        inquire_ms_max: random.pick(&[1_000, 4_000]),
        retry_ms_min: random.pick(&[5, 50]),
        retry_ms_max: random.pick(&[100, 1_000]),
    }
}
