//! The simulated network: sessions between participants and the coordinator, calls of clients.

use super::bank::Moves;
use super::swarm::Delivery;
use super::world::{Happening, Node, World};
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{EnlistRefusal, Verdict};
use unanimous_core::{
    Answer, BranchId, FrameNumber, Gtrid, InstanceId, Message, Owner, Response,
    message::Enlistment, message::Wait,
};

/// A message on its way.
#[derive(Clone, Debug, Hash)]
pub(super) enum Parcel {
    /// From a participant to the coordinator, in one of its sessions.
    Up { who: usize, session: u32, up: Up },
    /// From the coordinator to a participant.
    Down { who: usize, session: u32, sender: Owner, down: Down },
    /// From a client to the coordinator.
    Call { who: usize, number: u32, call: Call },
    /// From the coordinator to a client.
    Reply { who: usize, number: u32, response: Response },
    /// From a client to a participant.
    Work { who: usize, client: usize, number: u32, gtrid: Gtrid, moves: Moves },
    /// From a participant to a client.
    Worked { client: usize, number: u32, worked: Result<u32, &'static str> },
}

/// What a participant says in a session.
#[derive(Clone, Debug, Hash)]
pub(super) enum Up {
    Hello { instance: InstanceId, seen: Vec<(Owner, FrameNumber)> },
    Enlist(Enlistment),
    Answer { branch: BranchId, answer: Answer },
    Inquire { branch: BranchId },
}

/// What the coordinator says in a session.
#[derive(Clone, Debug, Hash)]
pub(super) enum Down {
    Welcome,
    Enlisted {
        branch: BranchId,
        joined: Result<u64, EnlistRefusal>,
    },
    Message {
        branch: BranchId,
        message: Message,
    },
    Verdict {
        branch: BranchId,
        verdict: Verdict,
    },
    /// Rides on other messages; its log, so that it hashes.
    Ended(MarkParcel),
}

/// An ended mark on its way.
#[derive(Clone, Debug)]
pub(super) struct MarkParcel(pub(super) EndedMark);

impl std::hash::Hash for MarkParcel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0.log, self.0.epoch, self.0.sequence).hash(state);
        self.0.exceptions.hash(state);
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Hash)]
pub(super) enum Call {
    Begin { timeout_ms: u64 },
    Commit { gtrid: Gtrid, expected_branches: Option<u32>, wait: Wait },
    Rollback { gtrid: Gtrid },
    Resolve { gtrid: Gtrid, expected_branches: Option<u32>, wait: bool },
}

impl Parcel {
    pub(super) fn receiver(&self) -> Node {
        match self {
            Self::Up { .. } | Self::Call { .. } => Node::Coordinator,
            Self::Down { who, .. } | Self::Work { who, .. } => Node::Participant(*who),
            Self::Reply { who, .. } | Self::Worked { client: who, .. } => Node::Client(*who),
        }
    }

    /// The one-way link it takes.
    fn link(&self, network: &Network) -> usize {
        let (participants, clients) = (network.participants, network.clients);
        match self {
            Self::Up { who, .. } => *who,
            Self::Down { who, .. } => participants + who,
            Self::Call { who, .. } => 2 * participants + who,
            Self::Reply { who, .. } => 2 * participants + clients + who,
            Self::Work { client, .. } | Self::Worked { client, .. } => {
                2 * participants + 2 * clients + client
            }
        }
    }

    fn session(&self) -> Option<(usize, u32)> {
        match self {
            Self::Up { who, session, .. } | Self::Down { who, session, .. } => {
                Some((*who, *session))
            }
            _ => None,
        }
    }
}

/// The links' states.
#[derive(Clone, Debug)]
pub(super) struct Network {
    participants: usize,
    clients: usize,
    /// By link: everything is lost until then.
    cut_until_ms: Vec<u64>,
    /// By link: when the last message in order arrives.
    last_at_ms: Vec<u64>,
    /// The number of the last session.
    sessions: u32,
}

impl Network {
    pub(super) fn new(participants: usize, clients: usize) -> Self {
        let links = 2 * participants + 3 * clients;
        Self {
            participants,
            clients,
            cut_until_ms: vec![0; links],
            last_at_ms: vec![0; links],
            sessions: 0,
        }
    }

    pub(super) fn new_session(&mut self) -> u32 {
        self.sessions += 1;
        self.sessions
    }

    pub(super) fn heal(&mut self) {
        self.cut_until_ms.fill(0);
    }
}

impl World {
    /// Puts a message on its way, where it may be lost, doubled, or late.
    pub(super) fn send(&mut self, parcel: Parcel) {
        let link = parcel.link(&self.network);
        let session = parcel.session();
        if self.fault(self.swarm.cut_link) {
            let until = self.now_ms + self.random.between(10, 3_000);
            self.trace.line(|| format!("    link {link} is cut until {until} ms"));
            self.network.cut_until_ms[link] = until;
        }
        let cut = self.network.cut_until_ms[link] > self.now_ms;
        let lost = cut || self.fault(self.swarm.lose);
        if let Some((who, session)) = session {
            let stream = self.swarm.delivery == Delivery::Stream;
            if (lost && stream) || self.fault(self.swarm.break_session) {
                self.break_session(who, session);
                return;
            }
        }
        if lost {
            self.trace.line(|| format!("    lost: {parcel:?}"));
            return;
        }
        let mut delay_ms = self.random.between(0, self.swarm.latency_ms);
        let at = match (self.swarm.delivery, session) {
            (Delivery::Stream, Some(_)) => {
                let last = &mut self.network.last_at_ms[link];
                *last = (*last).max(self.now_ms + delay_ms);
                *last
            }
            (Delivery::Datagram, Some(_)) => {
                if self.fault(self.swarm.delay) {
                    delay_ms += self.random.below(10 * self.swarm.timeout_ms.1);
                }
                if self.fault(self.swarm.double) {
                    let again = self.now_ms + self.random.between(0, 4 * self.swarm.latency_ms);
                    self.queue.push(again, Happening::Arrive(parcel.clone()));
                }
                self.now_ms + delay_ms
            }
            (_, None) => self.now_ms + delay_ms,
        };
        self.queue.push(at, Happening::Arrive(parcel));
    }

    /// A message arrives at a process that is there, or at nobody.
    pub(super) fn arrive(&mut self, parcel: Parcel) {
        self.trace.note(&parcel);
        self.trace.line(|| format!("arrives: {parcel:?}"));
        match parcel {
            Parcel::Up { who, session, up } => self.coordinator_hears(who, session, up),
            Parcel::Down { who, session, sender, down } => {
                self.participant_hears(who, session, sender, down);
            }
            Parcel::Call { who, number, call } => self.coordinator_called(who, number, call),
            Parcel::Reply { who, number, response } => self.client_hears(who, number, response),
            Parcel::Work { who, client, number, gtrid, moves } => {
                self.participant_works(who, client, number, gtrid, moves);
            }
            Parcel::Worked { client, number, worked } => self.client_worked(client, number, worked),
        }
    }
}
