//! What goes wrong with processes and machines, and the moment when nothing does any more.

use super::participant::ParticipantStep;
use super::world::{Node, World};

impl World {
    /// The rate, unless there were deaths enough.
    pub(super) fn rate_of_death(&self, permille: u64) -> u64 {
        if self.healed || self.deaths >= self.swarm.deaths_max { 0 } else { permille }
    }

    /// The node's process dies.
    pub(super) fn kill(&mut self, node: Node) {
        match node {
            Node::Coordinator => self.kill_coordinator(),
            Node::Participant(who) | Node::Store(who) => self.kill_participant(who),
            Node::Client(_) => {}
        }
    }

    /// The process dies, perhaps with its machine, and is started again some time later.
    pub(super) fn kill_coordinator(&mut self) {
        let (power, delay_ms) = self.death(Node::Coordinator);
        self.coordinator_dies(power);
        self.start_coordinator(delay_ms);
    }

    /// As [`World::kill_coordinator`]. The machine is the store's.
    pub(super) fn kill_participant(&mut self, who: usize) {
        let (power, delay_ms) = self.death(Node::Participant(who));
        let store = self.participants[who].store;
        if power || !self.stores[store].shared {
            return self.kill_store(store, power, delay_ms);
        }
        self.store_left_by(who);
        self.participant_dies(who);
        self.start_participant(who, delay_ms);
    }

    /// A store dies with all the processes that reach it.
    pub(super) fn kill_store(&mut self, store: usize, power: bool, delay_ms: u64) {
        self.store_dies(store, power);
        for who in 0..self.participants.len() {
            if self.participants[who].store == store {
                self.participant_dies(who);
                self.start_participant(who, delay_ms);
            }
        }
    }

    pub(super) fn death(&mut self, node: Node) -> (bool, u64) {
        self.deaths += 1;
        let power = self.death_is_power_loss();
        self.power_losses += u64::from(power);
        let delay_ms = match self.random.pick(&[0, 0, 1, 2]) {
            0 => self.random.between(1, 50),
            1 => self.random.between(50, 500),
            _ => self.random.between(500, 2_500),
        };
        self.trace.line(|| {
            let how = if power { "loses power" } else { "is killed" };
            format!("{node:?} {how}, back in {delay_ms} ms")
        });
        (power, delay_ms)
    }

    /// The process may be stopped for a while, with all that it knows growing old.
    pub(super) fn maybe_freeze(&mut self, node: Node) {
        if self.healed || !self.fault(self.swarm.freeze) {
            return;
        }
        let until = self.now_ms + self.random.between(5, 4_000);
        self.trace.line(|| format!("{node:?} stands still until {until} ms"));
        match node {
            Node::Coordinator => self.coordinator.frozen_until_ms = until,
            Node::Participant(who) => self.participants[who].frozen_until_ms = until,
            Node::Store(_) | Node::Client(_) => {}
        }
    }

    pub(super) fn frozen_until(&self, node: Node) -> Option<u64> {
        let until = match node {
            Node::Coordinator => self.coordinator.frozen_until_ms,
            Node::Participant(who) => self.participants[who].frozen_until_ms,
            Node::Store(_) | Node::Client(_) => 0,
        };
        (until > self.now_ms).then_some(until)
    }

    /// One side sees the end of a session at once, the other sooner or later.
    pub(super) fn break_session(&mut self, who: usize, session: u32) {
        self.trace.line(|| format!("    session {session} of {who} breaks"));
        self.coordinator.session_lost(who, session);
        let delay_ms = self.random.between(0, 300);
        self.participant_later(who, delay_ms, ParticipantStep::SessionLost { session });
    }

    /// From here on nothing fails, and everything must come to an end.
    pub(super) fn heal(&mut self) {
        self.trace.line(|| "healed".to_owned());
        self.healed = true;
        self.network.heal();
        self.coordinator.frozen_until_ms = 0;
        for participant in &mut self.participants {
            participant.frozen_until_ms = 0;
        }
        // Without space what is decided must end all the same.
        self.stays_low = self.swarm.space > 0 && self.random.chance(300);
        let low = self.stays_low;
        let swarm = &mut self.swarm;
        swarm.space = 0;
        for rate in [
            &mut swarm.lose,
            &mut swarm.double,
            &mut swarm.delay,
            &mut swarm.break_session,
            &mut swarm.kill_coordinator,
            &mut swarm.kill_participant,
            &mut swarm.freeze,
            &mut swarm.fail_sync,
            &mut swarm.resource_retry,
            &mut swarm.kill_client,
            &mut swarm.cut_link,
            &mut swarm.decides_alone,
            &mut swarm.compact,
            &mut swarm.misbehave,
            &mut swarm.rot,
            &mut swarm.new_log,
        ] {
            *rate = 0;
        }
        self.space(low);
    }
}
