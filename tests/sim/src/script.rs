//! What a schedule is told besides its seed: how small it is, which faults it keeps, who dies
//! where.

use super::swarm::Swarm;
use super::world::{Node, World};
use std::collections::BTreeSet;

/// Changes to what the seed draws. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Participants.
    pub participants: Option<usize>,
    /// Clients.
    pub clients: Option<usize>,
    /// Transactions that each client begins.
    pub transactions: Option<u32>,
    /// Accounts at each participant.
    pub accounts: Option<usize>,
    /// Deaths, at most.
    pub deaths_max: Option<u32>,
    /// Another course of the same swarm; 0: the seed's own.
    pub salt: u64,
    /// Of the faults, in the order they would happen, only these do.
    pub keep_faults: Option<BTreeSet<u32>>,
    /// Nothing fails but what `deaths` says.
    pub quiet: Option<Quiet>,
    /// Who dies at which point of its life. A point is an event, or an action that follows it.
    pub deaths: Vec<Death>,
}

/// A schedule in which nothing fails by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// Clients roll back instead of committing.
    pub rolls_back: bool,
    /// Nothing is changed.
    pub read_only: bool,
}

/// One death of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// 0 is the coordinator, then the participants.
    pub node: usize,
    /// Counted from 1 over the whole schedule.
    pub point: u64,
    /// The machine loses power.
    pub power: bool,
}

impl Script {
    pub(super) fn change(&self, swarm: &mut Swarm) {
        if let Some(quiet) = self.quiet {
            swarm.faultless = self.deaths.is_empty();
            swarm.second_instances = 0;
            swarm.client_rolls_back = if quiet.rolls_back { 1_000 } else { 0 };
            swarm.read_only = if quiet.read_only { 1_000 } else { 0 };
        }
        swarm.participants = self.participants.unwrap_or(swarm.participants);
        swarm.second_instances = swarm.second_instances.min(swarm.participants);
        swarm.clients = self.clients.unwrap_or(swarm.clients);
        swarm.transactions_per_client = self.transactions.unwrap_or(swarm.transactions_per_client);
        swarm.accounts = self.accounts.unwrap_or(swarm.accounts);
        swarm.deaths_max = self.deaths_max.unwrap_or(swarm.deaths_max);
    }
}

/// How far each node's life has gone in the points of a sweep.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// By node, the coordinator first.
    pub(super) passed: Vec<u64>,
    /// The same at the first death.
    pub(super) at_first_death: Option<Vec<u64>>,
    /// The death under way is a power loss, or is not.
    power: Option<bool>,
}

impl World {
    /// Whether a fault happens. Faults that a script masks do not.
    pub(super) fn fault(&mut self, permille: u64) -> bool {
        if !self.random.chance(permille) {
            return false;
        }
        let ordinal = self.faults;
        self.faults += 1;
        let happens = self.script.keep_faults.as_ref().is_none_or(|kept| kept.contains(&ordinal));
        self.faults_happened += u32::from(happens);
        self.trace.line(|| {
            let masked = if happens { "" } else { " is masked" };
            format!("    fault {ordinal}{masked}")
        });
        happens
    }

    /// Whether the script ends the node's life at this point.
    pub(super) fn dies_here(&mut self, node: Node) -> bool {
        if self.script.quiet.is_none() {
            return false;
        }
        let index = match node {
            Node::Coordinator => 0,
            Node::Participant(at) | Node::Store(at) => at + 1,
            Node::Client(_) => return false,
        };
        let points = &mut self.points;
        points.passed.resize(points.passed.len().max(index + 1), 0);
        points.passed[index] += 1;
        let point = points.passed[index];
        let mut deaths = self.script.deaths.iter();
        let Some(death) = deaths.find(|death| (death.node, death.point) == (index, point)) else {
            return false;
        };
        points.power = Some(death.power);
        points.at_first_death.get_or_insert_with(|| points.passed.clone());
        true
    }

    /// Whether the death under way takes the machine's power.
    pub(super) fn death_is_power_loss(&mut self) -> bool {
        match self.points.power.take() {
            Some(power) => power,
            None => self.random.chance(self.swarm.power_loss),
        }
    }
}
