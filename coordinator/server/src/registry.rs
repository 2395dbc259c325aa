//! Which participants are connected, with which resources, and who gets a message.

use crate::config::Config;
use crate::convert;
use crate::examination::Examinee;
use crate::participant_session::goodbye;
use crate::session::{Offered, Outbound, ParticipantOpened, SessionId};
use std::collections::{BTreeMap, HashMap};
use unanimous_core::coordinator::EndedMark;
use unanimous_core::{
    BranchId, InstanceId, Message, Millis, Owner, ParticipantName, ResourceId, Route,
};
use unanimous_proto::v1;
use unanimous_proto::v1::participate_response::Body;

/// A session that has heard nothing for this long is told of a moved mark by a message of its own.
const MARK_ALONE_AFTER_MS: u64 = 5_000;

/// A session of a participant.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) instance: InstanceId,
    pub(crate) sdk: String,
    pub(crate) resources: Vec<ResourceId>,
    pub(crate) since: Millis,
    examines: bool,
    session: SessionId,
    outbound: Outbound<v1::ParticipateResponse>,
    /// The version of the mark it was told last.
    mark: u64,
    /// When it was told something.
    told_at: Millis,
}

/// The last instance of a participant that has gone, kept for lists.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) instance: InstanceId,
    pub(crate) sdk: String,
    pub(crate) resources: Vec<ResourceId>,
    pub(crate) since: Millis,
}

/// Everybody the coordinator has met since its start.
#[derive(Debug)]
pub(crate) struct Registry {
    owner: Owner,
    branches_max: u32,
    message_bytes_max: u32,
    participants_max: usize,
    connected: HashMap<ParticipantName, Vec<Connected>>,
    names: HashMap<SessionId, ParticipantName>,
    gone: BTreeMap<ParticipantName, Gone>,
    mark: Option<EndedMark>,
    /// Raised with each change of the mark; 0 is no mark.
    mark_version: u64,
}

impl Registry {
    pub(crate) fn new(owner: Owner, config: &Config) -> Self {
        Self {
            owner,
            branches_max: u32::try_from(config.limits.branches_max).unwrap_or(u32::MAX),
            message_bytes_max: config.message_bytes_wire(),
            participants_max: config.limits.participants_max,
            connected: HashMap::new(),
            names: HashMap::new(),
            gone: BTreeMap::new(),
            mark: None,
            mark_version: 0,
        }
    }

    /// Takes in a session and welcomes it. An older session of the same instance is told that it is
    /// replaced.
    pub(crate) fn open(&mut self, now: Millis, opened: ParticipantOpened) {
        let ParticipantOpened {
            session, name, instance, sdk, resources, examines, outbound, ..
        } = opened;
        tracing::info!(participant = %name, %instance, ?sdk, "participant connected");
        let welcome = Body::Welcome(v1::Welcome {
            coordinator: Some(convert::owner(self.owner)),
            branches_max: self.branches_max,
            message_bytes_max: self.message_bytes_max,
        });
        let sessions = self.connected.entry(name.clone()).or_default();
        if let Some(at) = sessions.iter().position(|known| known.instance == instance) {
            let replaced = sessions.swap_remove(at);
            self.names.remove(&replaced.session);
            let reason = v1::GoodbyeReason::Replaced;
            let words = "the same instance has opened a newer session";
            replaced.outbound.offer(goodbye(self.owner.epoch, reason, words));
        }
        let mut connected = Connected {
            instance,
            sdk,
            resources,
            since: now,
            examines,
            session,
            outbound,
            mark: 0,
            told_at: now,
        };
        let mark = (self.mark_version, self.mark.as_ref());
        tell(&mut connected, now, self.owner.epoch, mark, Some(welcome));
        sessions.push(connected);
        self.names.insert(session, name.clone());
        self.gone.remove(&name);
    }

    /// Forgets a session, after some last words if there are any. False: it was no participant's,
    /// or replaced.
    pub(crate) fn close(
        &mut self,
        now: Millis,
        session: SessionId,
        last: Option<(v1::GoodbyeReason, &str)>,
    ) -> bool {
        let Some(name) = self.names.remove(&session) else { return false };
        let Some(sessions) = self.connected.get_mut(&name) else { return false };
        let Some(at) = sessions.iter().position(|known| known.session == session) else {
            return false;
        };
        let left = sessions.swap_remove(at);
        if let Some((reason, words)) = last {
            left.outbound.offer(goodbye(self.owner.epoch, reason, words));
        }
        tracing::info!(participant = %name, instance = %left.instance, "participant gone");
        if sessions.is_empty() {
            self.connected.remove(&name);
            if self.gone.len() >= self.participants_max {
                self.gone.pop_first();
            }
            let Connected { instance, sdk, resources, .. } = left;
            self.gone.insert(name, Gone { instance, sdk, resources, since: now });
        }
        true
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self, now: Millis, reason: v1::GoodbyeReason, words: &str) {
        let sessions: Vec<SessionId> = self.names.keys().copied().collect();
        for session in sessions {
            self.close(now, session, Some((reason, words)));
        }
    }

    /// Queues a message for the route's instance, or, unless it is for that one only, any other
    /// session that reaches the resource. A forget goes to all that reach it: each may hold the
    /// heuristic result in memory and report it for ever.
    pub(crate) fn deliver(
        &mut self,
        now: Millis,
        to: &Route,
        branch: &BranchId,
        message: Message,
    ) -> Offered {
        let Some(sessions) = self.connected.get_mut(&to.participant) else { return Offered::Gone };
        let reaches = |session: &Connected| session.resources.contains(&to.resource);
        let mark = (self.mark_version, self.mark.as_ref());
        if message == Message::Forget {
            let mut offered = Offered::Gone;
            for session in sessions.iter_mut().filter(|session| reaches(session)) {
                let body = convert::message(branch, Message::Forget);
                offered = tell(session, now, self.owner.epoch, mark, Some(body));
            }
            return offered;
        }
        let holder = sessions
            .iter()
            .position(|session| Some(session.instance) == to.instance && reaches(session));
        let other = || sessions.iter().position(reaches).filter(|_| !to.holder_only);
        let Some(at) = holder.or_else(other) else { return Offered::Gone };
        let body = convert::message(branch, message);
        tell(&mut sessions[at], now, self.owner.epoch, mark, Some(body))
    }

    /// Queues an answer for one session.
    pub(crate) fn answer(&mut self, now: Millis, session: SessionId, body: Body) -> Offered {
        let Some(sessions) = self.names.get(&session).and_then(|name| self.connected.get_mut(name))
        else {
            return Offered::Gone;
        };
        let Some(known) = sessions.iter_mut().find(|known| known.session == session) else {
            return Offered::Gone;
        };
        let mark = (self.mark_version, self.mark.as_ref());
        tell(known, now, self.owner.epoch, mark, Some(body))
    }

    /// Asks every session what its resources hold: who was asked, and who cannot be.
    pub(crate) fn examine(
        &mut self,
        now: Millis,
        examination: u64,
    ) -> (Vec<Examinee>, Vec<ParticipantName>) {
        let (mut asked, mut mute) = (Vec::new(), Vec::new());
        let (epoch, mark) = (self.owner.epoch, (self.mark_version, self.mark.as_ref()));
        for (participant, sessions) in &mut self.connected {
            for session in sessions {
                if !session.examines {
                    mute.push(participant.clone());
                    continue;
                }
                // One that takes no message is as one that does not answer.
                tell(session, now, epoch, mark, Some(Body::Examine(v1::Examine { examination })));
                asked.extend(session.resources.iter().map(|resource| Examinee {
                    participant: participant.clone(),
                    instance: session.instance,
                    resource: resource.clone(),
                }));
            }
        }
        mute.dedup();
        (asked, mute)
    }

    /// How many resources all sessions have.
    pub(crate) fn resources_len(&self) -> usize {
        self.connected.values().flatten().map(|session| session.resources.len()).sum()
    }

    /// Takes the present mark; it rides along with the next message to each session.
    pub(crate) fn set_mark(&mut self, now: Millis, mark: Option<EndedMark>) {
        if mark.is_some() && mark != self.mark {
            self.mark = mark;
            self.mark_version += 1;
        }
        let mark = (self.mark_version, self.mark.as_ref());
        for session in self.connected.values_mut().flatten() {
            let silent = now.since(session.told_at) >= MARK_ALONE_AFTER_MS;
            if silent && session.mark != self.mark_version {
                tell(session, now, self.owner.epoch, mark, None);
            }
        }
    }

    /// The participant of a session.
    pub(crate) fn name(&self, session: SessionId) -> Option<&ParticipantName> {
        self.names.get(&session)
    }

    /// The sessions of all connected participants.
    pub(crate) fn connected(&self) -> impl Iterator<Item = (&ParticipantName, &Vec<Connected>)> {
        self.connected.iter()
    }

    /// Participants without a session.
    pub(crate) fn gone(&self) -> impl Iterator<Item = (&ParticipantName, &Gone)> {
        self.gone.iter()
    }

    /// Whether a session of the participant reaches the resource.
    pub(crate) fn reaches(&self, name: &ParticipantName, resource: &ResourceId) -> bool {
        self.connected
            .get(name)
            .is_some_and(|sessions| sessions.iter().any(|one| one.resources.contains(resource)))
    }

    /// How many participants are connected.
    pub(crate) fn connected_len(&self) -> usize {
        self.connected.len()
    }
}

/// Queues a message for a session, with the mark if it has moved since it was told last.
fn tell(
    session: &mut Connected,
    now: Millis,
    sender_epoch: u32,
    (version, mark): (u64, Option<&EndedMark>),
    body: Option<Body>,
) -> Offered {
    let ended = if session.mark == version { None } else { mark.map(mark_wire) };
    let told = session.outbound.offer(v1::ParticipateResponse { sender_epoch, ended, body });
    if told == Offered::Queued {
        session.mark = version;
        session.told_at = now;
    }
    told
}

fn mark_wire(mark: &EndedMark) -> v1::EndedMark {
    v1::EndedMark {
        cluster: mark.log.cluster,
        slot: u32::from(mark.log.slot),
        incarnation: mark.log.incarnation,
        epoch: mark.epoch,
        sequence: mark.sequence,
        exceptions: mark.exceptions.iter().map(|gtrid| gtrid.as_bytes().to_vec()).collect(),
    }
}
