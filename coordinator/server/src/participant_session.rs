//! Participants' sessions: the hello and every later message are checked here and handed to the
//! driver.

use crate::convert::{self, Hold};
use crate::examination::{Examined, Examinee};
use crate::identity::PARTICIPATE;
use crate::refusal::Refusal;
use crate::session::{
    Gate, Hello, Inbound, Opening, Outgoing, ParticipantOpened, SessionId, first_message, link,
    read,
};
use tonic::{Request, Response, Status, Streaming};
use unanimous_core::id::resource_manager;
use unanimous_core::message::Enlistment;
use unanimous_core::record::{DETAIL_BYTES_MAX, cut};
use unanimous_core::{Answer, BranchId, Event, InstanceId, ParticipantName, ResourceId};
use unanimous_proto::v1;
use unanimous_proto::v1::participate_request::Body;
use unanimous_proto::v1::participate_response::Body as Said;

/// The one version of the protocol.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Branches in one Inquire, and in a hello.
const BRANCHES_PER_MESSAGE_MAX: usize = 1_000;
/// Resources in a hello.
const RESOURCES_MAX: usize = 256;
/// Seen frames in a hello.
const SEEN_FRAMES_MAX: usize = 1_000;
const SDK_BYTES_MAX: usize = 128;
const KIND_BYTES_MAX: usize = 32;

/// `ParticipantService`.
#[derive(Clone, Debug)]
pub(crate) struct Participants {
    gate: Gate,
}

impl Participants {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl v1::participant_service_server::ParticipantService for Participants {
    type ParticipateStream = Outgoing<v1::ParticipateResponse>;

    async fn participate(
        &self,
        request: Request<Streaming<v1::ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        let (opening, outgoing) = self.gate.open(request);
        tokio::spawn(participate(self.gate.clone(), opening));
        Ok(Response::new(outgoing))
    }
}

async fn participate(
    gate: Gate,
    opening: Opening<v1::ParticipateRequest, v1::ParticipateResponse>,
) {
    let Opening { session, caller, mut inbound, queue, kill, place } = opening;
    let epoch = gate.owner().epoch;
    let goodbye = |reason: v1::GoodbyeReason, detail: &str| {
        tracing::debug!(?session, ?reason, detail, "participant refused");
        // A new queue has room; a peer that is gone needs no goodbye.
        let _ = queue.try_send(Ok(goodbye(epoch, reason, detail)));
    };
    if place.is_none() {
        return goodbye(v1::GoodbyeReason::Overloaded, "there are as many sessions as may be");
    }
    let hello = match first_message(&gate, &mut inbound).await {
        Hello::Said(v1::ParticipateRequest { body: Some(Body::Hello(hello)) }) => hello,
        Hello::Said(_) => {
            return goodbye(v1::GoodbyeReason::BadMessage, "the first message is not a hello");
        }
        Hello::Not(detail) => return goodbye(v1::GoodbyeReason::BadMessage, detail),
        Hello::Gone => return,
    };
    let peer = match Peer::meet(&hello) {
        Ok(peer) => peer,
        Err(detail) => return goodbye(v1::GoodbyeReason::BadMessage, &detail),
    };
    if !caller.roles.may_be_named(&peer.name) {
        let refusal = Refusal::not_your_name(&caller.name, peer.name.as_str());
        gate.refusals().refuse(&caller, PARTICIPATE, &refusal);
        // A new queue has room; a peer that is gone needs no words.
        let _ = queue.try_send(Err(refusal.status()));
        return;
    }
    let (outbound, ended) = link(queue, kill);
    let opened = ParticipantOpened {
        session,
        name: peer.name.clone(),
        instance: peer.instance,
        sdk: cut(&hello.sdk, SDK_BYTES_MAX).to_owned(),
        resources: peer.resources.iter().map(|(_, resource)| resource.clone()).collect(),
        examines: peer.examines,
        in_doubt: branches(&gate, session, &peer, &hello.in_doubt),
        seen: hello.seen_frames.iter().filter_map(convert::seen_frame).collect(),
        outbound,
    };
    if gate.tell(Inbound::ParticipantOpened(Box::new(opened))).await {
        read(&gate, session, inbound, ended, |message| peer.hear(&gate, session, message)).await;
    }
}

pub(crate) fn goodbye(
    sender_epoch: u32,
    reason: v1::GoodbyeReason,
    detail: &str,
) -> v1::ParticipateResponse {
    let body = Said::Goodbye(v1::Goodbye { reason: reason.into(), detail: detail.to_owned() });
    v1::ParticipateResponse { sender_epoch, ended: None, body: Some(body) }
}

/// The well-formed ones of a message's branches that are of the session's resources, as far as the
/// limit goes; those beyond it can be asked about again.
fn branches(gate: &Gate, session: SessionId, peer: &Peer, wire: &[v1::BranchRef]) -> Vec<BranchId> {
    if wire.len() > BRANCHES_PER_MESSAGE_MAX {
        gate.ignore(session, peer.name.as_str(), "branches beyond the limit");
    }
    let mut known = Vec::new();
    for branch in wire.iter().take(BRANCHES_PER_MESSAGE_MAX) {
        match convert::branch_id(Some(branch)) {
            Ok(branch) if peer.resource(&branch).is_some() => known.push(branch),
            Ok(_) => gate.ignore(session, peer.name.as_str(), NOT_ITS_BRANCH),
            Err(Hold) => gate.ignore(session, peer.name.as_str(), "a malformed branch"),
        }
    }
    known
}

/// Who is at the other end, by its hello.
pub(crate) struct Peer {
    name: ParticipantName,
    instance: InstanceId,
    /// With the number that stands for each in a bqual.
    resources: Vec<(u32, ResourceId)>,
    inquires: bool,
    last_resource: bool,
    examines: bool,
}

impl Peer {
    pub(crate) fn meet(hello: &v1::Hello) -> Result<Self, String> {
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(format!(
                "protocol version {} is not known, {PROTOCOL_VERSION} is",
                hello.protocol_version
            ));
        }
        let name = ParticipantName::new(&hello.participant).map_err(|error| error.to_string())?;
        let instance = InstanceId::from_bytes(&hello.instance).ok_or("an instance has 16 bytes")?;
        if hello.sdk.len() > SDK_BYTES_MAX {
            return Err(format!("`sdk` has more than {SDK_BYTES_MAX} bytes"));
        }
        if !(1..=RESOURCES_MAX).contains(&hello.resources.len()) {
            return Err(format!("1 to {RESOURCES_MAX} resources are needed"));
        }
        if hello.seen_frames.len() > SEEN_FRAMES_MAX {
            return Err(format!("more than {SEEN_FRAMES_MAX} seen frames"));
        }
        let mut resources: Vec<(u32, ResourceId)> = Vec::new();
        for wire in &hello.resources {
            let resource = ResourceId::new(&wire.resource_id).map_err(|error| error.to_string())?;
            if wire.kind.len() > KIND_BYTES_MAX {
                return Err(format!("a resource's kind has more than {KIND_BYTES_MAX} bytes"));
            }
            let number = resource_manager(&name, &resource);
            if resources.iter().any(|(known, _)| *known == number) {
                return Err(format!("{resource:?} is declared twice, or its number is taken"));
            }
            resources.push((number, resource));
        }
        let able = |capability: v1::Capability| hello.capabilities.contains(&capability.into());
        Ok(Self {
            name,
            instance,
            resources,
            inquires: able(v1::Capability::Inquires),
            last_resource: able(v1::Capability::LastResource),
            examines: able(v1::Capability::Examines),
        })
    }

    fn hear(
        &self,
        gate: &Gate,
        session: SessionId,
        message: v1::ParticipateRequest,
    ) -> Option<Inbound> {
        let heard = match message.body {
            Some(Body::Hello(_)) => {
                return Some(Inbound::Broke(session, "a second hello"));
            }
            Some(Body::Enlist(enlist)) => self.enlist(session, &enlist),
            Some(Body::Vote(vote)) => self.vote(session, &vote),
            Some(Body::Acknowledged(acknowledged)) => self.acknowledged(session, &acknowledged),
            Some(Body::Inquire(inquire)) => {
                let branches = branches(gate, session, self, &inquire.branches);
                Ok(Inbound::Inquire(session, branches))
            }
            Some(Body::Examined(examined)) => self.examined(&examined),
            None => Err("an unknown message"),
        };
        heard.map_err(|what| gate.ignore(session, self.name.as_str(), what)).ok()
    }

    pub(crate) fn enlist(
        &self,
        session: SessionId,
        wire: &v1::Enlist,
    ) -> Result<Inbound, &'static str> {
        let branch = convert::branch_id(wire.branch.as_ref()).map_err(|Hold| MALFORMED_ID)?;
        let bad = |detail| Ok(Inbound::BadResource(session, branch, detail));
        let Some((number, resource)) =
            self.resources.iter().find(|(_, resource)| resource.as_str() == wire.resource_id)
        else {
            return bad("the resource is not declared in the session's hello");
        };
        if *number != branch.bqual.resource_manager() {
            return bad("the bqual's resource manager is not this resource's number");
        }
        if self.last_resource {
            return bad("a resource that cannot prepare is not supported");
        }
        // An early vote that is not understood is no vote: the branch will be asked.
        let vote = wire.vote.as_ref().and_then(|vote| convert::vote(vote).ok());
        let enlistment = Enlistment {
            branch,
            participant: self.name.clone(),
            instance: self.instance,
            resource: resource.clone(),
            inquires: self.inquires,
            vote,
        };
        Ok(Inbound::Enlist(session, Box::new(enlistment)))
    }

    pub(crate) fn vote(
        &self,
        session: SessionId,
        wire: &v1::Vote,
    ) -> Result<Inbound, &'static str> {
        let branch = convert::branch_id(wire.branch.as_ref()).map_err(|Hold| MALFORMED_ID)?;
        let vote = convert::vote(wire).map_err(|Hold| "an unknown ballot")?;
        self.answered(session, branch, Answer::Voted(vote))
    }

    pub(crate) fn acknowledged(
        &self,
        session: SessionId,
        wire: &v1::Acknowledged,
    ) -> Result<Inbound, &'static str> {
        let branch = convert::branch_id(wire.branch.as_ref()).map_err(|Hold| MALFORMED_ID)?;
        let done = convert::done(wire.done()).map_err(|Hold| "an unknown done")?;
        let detail = cut(&wire.detail, DETAIL_BYTES_MAX).to_owned();
        self.answered(session, branch, Answer::Acknowledged { done, detail })
    }

    pub(crate) fn examined(&self, wire: &v1::Examined) -> Result<Inbound, &'static str> {
        let known = |resource: &&ResourceId| resource.as_str() == wire.resource_id;
        let mut resources = self.resources.iter().map(|(_, resource)| resource);
        let resource = resources.find(known).ok_or("an examination of an undeclared resource")?;
        let (participant, resource) = (self.name.clone(), resource.clone());
        let by = Examinee { participant, instance: self.instance, resource };
        Ok(Inbound::Examined(Box::new(Examined::read(by, wire)?)))
    }

    /// The one that the branch is of, if the session has declared it.
    fn resource(&self, branch: &BranchId) -> Option<&ResourceId> {
        let number = branch.bqual.resource_manager();
        let mut resources = self.resources.iter();
        resources.find(|(known, _)| *known == number).map(|(_, resource)| resource)
    }

    fn answered(
        &self,
        session: SessionId,
        branch: BranchId,
        answer: Answer,
    ) -> Result<Inbound, &'static str> {
        let resource = self.resource(&branch).ok_or(NOT_ITS_BRANCH)?;
        let (from, resource) = (self.name.clone(), resource.clone());
        Ok(Inbound::Answered(session, Event::Answered { from, resource, branch, answer }))
    }
}

const MALFORMED_ID: &str = "a malformed branch";
const NOT_ITS_BRANCH: &str = "a branch of a resource that the session does not declare";

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            protocol_version: 1,
            participant: "bank-a".to_owned(),
            instance: vec![7; 16],
            sdk: "test".to_owned(),
            capabilities: vec![1, 99],
            resources: vec![v1::Resource { resource_id: "a/1".into(), kind: "embedded".into() }],
            in_doubt: Vec::new(),
            seen_frames: Vec::new(),
        }
    }

    #[test]
    fn a_good_hello_is_taken_with_unknown_capabilities_ignored() {
        let peer = Peer::meet(&hello()).ok().unwrap();
        assert!(peer.inquires && !peer.last_resource);
    }

    #[test]
    fn each_bad_hello_is_refused_with_words() {
        let resource = |id: &str| v1::Resource { resource_id: id.to_owned(), kind: String::new() };
        type Change = fn(&mut v1::Hello);
        let bad: [(&str, Change); 8] = [
            ("version", |hello| hello.protocol_version = 2),
            ("name", |hello| hello.participant = "a'; DROP\0\n\u{1b}[2J".to_owned()),
            ("instance", |hello| hello.instance = vec![0; 15]),
            ("sdk", |hello| hello.sdk = "s".repeat(129)),
            ("resources", |hello| hello.resources.clear()),
            ("resource id", |hello| hello.resources[0].resource_id = "a\nb".to_owned()),
            ("kind", |hello| hello.resources[0].kind = "k".repeat(33)),
            ("seen", |hello| hello.seen_frames = vec![v1::SeenFrame::default(); 1_001]),
        ];
        for (what, change) in bad {
            let mut hello = hello();
            change(&mut hello);
            let words = Peer::meet(&hello).err();
            assert!(words.is_some_and(|words| !words.contains(char::is_control)), "{what}");
        }
        let mut twice = hello();
        twice.resources = vec![resource("x"), resource("x")];
        assert!(Peer::meet(&twice).is_err());
    }
}
