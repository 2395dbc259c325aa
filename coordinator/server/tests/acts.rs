//! Operators act over the wire: what is told, who is on record, who may approve.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/authority.rs"]
mod tls;

use common::*;
use std::net::SocketAddr;
use tls::{Authority, trust};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;
use unanimous_core::{Bqual, Gtrid};
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_server::{Access, AccessFiles, Config, audit_hash};

type Admin = AdminServiceClient<Channel>;

fn act(kind: v1::ActKind, gtrid: Gtrid) -> v1::Act {
    v1::Act { kind: kind.into(), gtrid: gtrid.to_string(), ..v1::Act::default() }
}

async fn plan(admin: &mut Admin, act: v1::Act) -> v1::Plan {
    let request = v1::PlanActRequest { act: Some(act) };
    admin.plan_act(request).await.unwrap().into_inner().plan.unwrap()
}

async fn force(
    admin: &mut Admin,
    plan: &v1::Plan,
    reason: &str,
) -> Result<v1::ForceTransactionResponse, Status> {
    let request = v1::ForceTransactionRequest {
        act: plan.act.clone(),
        version: plan.version,
        reason: reason.to_owned(),
        evidence: "seen".to_owned(),
    };
    admin.force_transaction(request).await.map(tonic::Response::into_inner)
}

async fn audit(admin: &mut Admin) -> Vec<v1::AuditEntry> {
    let request = v1::ListAuditRequest { page_size: 1_000, ..v1::ListAuditRequest::default() };
    let entries = admin.list_audit(request).await.unwrap().into_inner().entries;
    let mut previous = vec![0; 32];
    for (number, entry) in (1..).zip(&entries) {
        assert_eq!((entry.number, &entry.previous), (number, &previous), "a chain without a gap");
        assert_eq!(entry.hash, audit_hash(entry));
        previous = entry.hash.clone();
    }
    entries
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

/// Decided to commit; bank-a has committed and bank-b has not answered.
async fn half_committed(server: &Running) -> (Gtrid, Participant, Participant, v1::BranchRef) {
    let mut bank_a = server.participant("bank-a").await;
    let mut bank_b = server.participant("bank-b").await;
    let mut client = server.client().await;
    let gtrid = client.begin().await;
    bank_a.enlist(gtrid).await;
    let branch_b = bank_b.enlist(gtrid).await;
    client.ask(1, commit(gtrid, Some(2), v1::Wait::Decided)).await;
    let branch_a = bank_a.say_yes().await;
    bank_b.say_yes().await;
    assert_eq!(client.ended().await.outcome(), v1::Outcome::Committed);
    bank_a.decide().await;
    bank_b.decide().await;
    bank_a.acknowledge(branch_a.clone(), v1::Done::Done).await;
    server.until(gtrid, &branch_a, v1::BranchState::Done).await;
    (gtrid, bank_a, bank_b, branch_b)
}

#[tokio::test]
async fn u_05_an_act_is_planned_recorded_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let (gtrid, _bank_a, mut bank_b, branch_b) = half_committed(&server).await;
    let mut admin = server.admin().await;

    // Refused by the state, with three lines, and nothing has changed but the audit.
    let refused = plan(&mut admin, act(v1::ActKind::Rollback, gtrid)).await;
    let refusal = refused.refusal.clone().unwrap();
    assert_eq!(refusal.reason, "TX_DECIDED");
    assert!(refusal.what.contains("bank-a has already acted on it"), "{refusal:?}");
    assert!(refusal.why.contains("bank-a and bank-b different"), "{refusal:?}");
    assert_eq!(refusal.next.len(), 2, "{refusal:?}");
    assert_eq!(audit(&mut admin).await, [], "a plan is not on record");
    let status = force(&mut admin, &refused, "INC-1").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "TX_DECIDED"));
    assert_eq!(plan(&mut admin, act(v1::ActKind::Rollback, gtrid)).await, refused);

    let named = v1::Act { branch: "bank-b".to_owned(), ..act(v1::ActKind::Abandon, gtrid) };
    let planned = plan(&mut admin, named).await;
    assert_eq!((planned.refusal.clone(), planned.consistent), (None, false));
    let then: Vec<_> = planned.branches.iter().map(v1::PlannedBranch::then).collect();
    assert_eq!(then, [v1::BranchState::Done, v1::BranchState::HeuristicHazard]);
    assert_eq!(planned.outcome_after(), v1::Outcome::HeuristicHazard);

    let status = force(&mut admin, &planned, "").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "a reason is needed");
    let acted = force(&mut admin, &planned, "bank-b lost its disk").await.unwrap();
    let transaction = acted.transaction.unwrap();
    assert_eq!(transaction.state(), v1::TransactionState::Heuristic);
    assert!(transaction.branches[1].asserted && !transaction.branches[0].asserted);
    // The other operator had the same plan.
    let status = force(&mut admin, &planned, "me too").await.unwrap_err();
    assert_eq!(reason(&status), "TX_MOVED");

    // It is not driven any more, and gets the decision when it asks.
    let inquire = v1::Inquire { branches: vec![branch_b.clone()] };
    bank_b.tell(Tell::Inquire(inquire)).await;
    match bank_b.hear().await {
        Told::Answer(answer) => assert_eq!(answer.verdict(), v1::Verdict::Commit),
        other => panic!("{other:?}"),
    }
    let entries = audit(&mut admin).await;
    let lines: Vec<_> = entries.iter().map(|e| (e.kind(), e.result(), e.reason.as_str())).collect();
    use v1::{ActKind as K, AuditResult as R};
    let expected = [
        (K::Rollback, R::Refused, "INC-1"),
        (K::Abandon, R::Done, "bank-b lost its disk"),
        (K::Abandon, R::Refused, "me too"),
    ];
    assert_eq!(lines, expected);
    let bqual = Bqual::from_bytes(&branch_b.bqual).unwrap().to_string();
    assert_eq!((entries[1].bqual.as_str(), entries[1].who.as_str()), (&*bqual, "unverified"));
    assert_eq!((&*entries[1].before, &*entries[1].after), ("COMMITTING", "HEURISTIC"));
    assert!(entries[1].plan.contains("bank-b PREPARED -> HEURISTIC_HAZARD"), "{entries:?}");
    assert!(entries[0].plan.starts_with("TX_DECIDED"), "{entries:?}");
    server.stop().await;

    // After a restart it is all still there, and a plan of before fits nothing.
    let server = start(dir.path(), once()).await;
    let mut admin = server.admin().await;
    assert_eq!(audit(&mut admin).await, entries);
    let resolved = plan(&mut admin, act(v1::ActKind::Resolve, gtrid)).await;
    let stale = v1::Plan { version: transaction.version, ..resolved.clone() };
    let status = force(&mut admin, &stale, "late").await.unwrap_err();
    assert_eq!(reason(&status), "TX_MOVED");
    force(&mut admin, &resolved, "balances corrected by hand, INC-2").await.unwrap();
    let list = |filter: &str| v1::ListTransactionsRequest {
        filter: filter.to_owned(),
        ..v1::ListTransactionsRequest::default()
    };
    for (filter, total) in [("", 0), ("state=HEURISTIC", 0), ("resolved=true", 1)] {
        let listed = admin.list_transactions(list(filter)).await.unwrap().into_inner();
        assert_eq!(listed.total, total, "{filter:?}");
    }
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.transactions_heuristic, status.audit_entries), (0, 5));
    server.stop().await;
}

#[tokio::test]
async fn b_09_force_on_a_transaction_that_has_ended_shows_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let (gtrid, _bank_a, mut bank_b, branch_b) = half_committed(&server).await;
    let mut admin = server.admin().await;
    let planned = plan(&mut admin, act(v1::ActKind::Commit, gtrid)).await;
    bank_b.acknowledge(branch_b, v1::Done::Done).await;
    let ended = eventually(|| {
        let mut admin = admin.clone();
        let request = v1::PlanActRequest { act: Some(act(v1::ActKind::Rollback, gtrid)) };
        async move { admin.plan_act(request).await.err() }
    })
    .await;
    let late = force(&mut admin, &planned, "INC-6").await.unwrap_err();
    for status in [ended, late] {
        assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "TX_ENDED"));
        let outcome = &status.get_details_error_info().unwrap().metadata["outcome"];
        assert_eq!(outcome, "COMMITTED");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_orphan_is_told_what_an_operator_decides_when_it_asks_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), once()).await;
    let mut bank = server.participant("bank-a").await;
    let mut foreign = bank.owner.unwrap();
    foreign.log.incarnation ^= 1;
    let gtrid = Gtrid::new(foreign, 7, 0);
    let branch = branch("bank-a", gtrid, 1, foreign);
    let bqual = Bqual::from_bytes(&branch.bqual).unwrap().to_string();
    let mut admin = server.admin().await;
    let order = |gtrid: Gtrid| v1::ResolveOrphanRequest {
        gtrid: gtrid.to_string(),
        bqual: bqual.clone(),
        end: v1::BranchEnd::RolledBack.into(),
        reason: "the old coordinator is gone, INC-3".to_owned(),
        propose: false,
    };
    let status = admin.resolve_orphan(order(gtrid)).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_AN_ORPHAN", "nobody has asked about it");
    let asked = async |bank: &mut Participant| {
        let inquire = v1::Inquire { branches: vec![branch.clone()] };
        bank.tell(Tell::Inquire(inquire)).await;
        match bank.hear().await {
            Told::Answer(answer) => answer.verdict(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(&mut bank).await, v1::Verdict::LeaveAlone);
    admin.resolve_orphan(order(gtrid)).await.unwrap();
    assert_eq!(asked(&mut bank).await, v1::Verdict::Rollback);
    let listed = admin.list_orphans(v1::ListOrphansRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.orphans, []);
    let entries = audit(&mut admin).await;
    assert_eq!(entries.last().map(v1::AuditEntry::kind), Some(v1::ActKind::Orphan));
    server.stop().await;
    // The decision is in the log.
    let server = start(dir.path(), once()).await;
    let mut bank = server.participant("bank-a").await;
    assert_eq!(asked(&mut bank).await, v1::Verdict::Rollback);
    server.stop().await;
}

/// A server on which acts need a second person, and its people.
struct Guarded {
    authority: Authority,
    server: Running,
    _dir: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let (authority, dir) = (Authority::new("ours"), tempfile::tempdir().unwrap());
        let (cert, key) = authority.server("localhost").write(dir.path(), "server");
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let files = AccessFiles { cert, key, client_ca: Some(ca), ..AccessFiles::default() };
        let config = Config { second_person: true, ..once() };
        let access = Access::load(files).unwrap();
        let server = start_guarded(&dir.path().join("log"), config, access);
        let world = Self { authority, server, _dir: dir };
        for at in [world.server.sessions, world.server.admin] {
            let channel = world.channel(at, &["unanimous:role/reader"]).await;
            let mut watch = watch_health(channel).await;
            while next(&mut watch).await.unwrap().unwrap().status() != ServingStatus::Serving {}
        }
        world
    }

    async fn channel(&self, to: SocketAddr, uris: &[&str]) -> Channel {
        let signed = self.authority.client(uris);
        let tls = trust(&self.authority, Some(&signed));
        let address = format!("https://localhost:{}", to.port());
        let endpoint = Channel::from_shared(address).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn admin(&self, name: &str, role: &str) -> Admin {
        let uris = [format!("unanimous:name/{name}"), format!("unanimous:role/{role}")];
        let uris = uris.each_ref().map(String::as_str);
        AdminServiceClient::new(self.channel(self.server.admin, &uris).await)
    }

    async fn begin(&self) -> Gtrid {
        let channel = self.channel(self.server.sessions, &["unanimous:role/client"]).await;
        let mut unary = v1::transaction_service_client::TransactionServiceClient::new(channel);
        let begun = unary.begin(v1::BeginRequest::default()).await.unwrap().into_inner();
        begun.gtrid.parse().unwrap()
    }
}

#[tokio::test]
async fn a_second_person_approves_and_nobody_else() {
    let world = Guarded::start().await;
    let (mut alice, mut bob) =
        (world.admin("alice", "operator").await, world.admin("bob", "operator").await);
    let mut rosa = world.admin("rosa", "reader").await;
    let gtrid = world.begin().await;
    let planned = plan(&mut rosa, act(v1::ActKind::Rollback, gtrid)).await;
    assert!(planned.second_person_needed);
    let status = force(&mut alice, &planned, "INC-4").await.unwrap_err();
    assert_eq!(reason(&status), "SECOND_PERSON_NEEDED");
    let status = force(&mut rosa, &planned, "INC-4").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let propose = v1::ProposeActRequest {
        act: planned.act.clone(),
        version: planned.version,
        reason: "INC-4".to_owned(),
        evidence: String::new(),
    };
    let proposed = alice.propose_act(propose).await.unwrap().into_inner().proposal.unwrap();
    assert_eq!((proposed.who.as_str(), proposed.plan.as_ref()), ("alice", Some(&planned)));
    let listed = rosa.list_proposals(v1::ListProposalsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.proposals.len(), 1);
    let approve = |proposal| v1::ApproveActRequest { proposal, reason: "I agree".to_owned() };
    let status = alice.approve_act(approve(proposed.proposal)).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::PermissionDenied, "SAME_PERSON"));
    let status = bob.approve_act(approve(77)).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "PROPOSAL_UNKNOWN"));
    assert_eq!(plan(&mut rosa, act(v1::ActKind::Rollback, gtrid)).await, planned, "unchanged");

    bob.approve_act(approve(proposed.proposal)).await.unwrap();
    let status = bob.approve_act(approve(proposed.proposal)).await.unwrap_err();
    assert_eq!(reason(&status), "PROPOSAL_UNKNOWN", "once");
    let get = v1::GetTransactionRequest { gtrid: gtrid.to_string() };
    assert_eq!(rosa.get_transaction(get).await.unwrap_err().code(), Code::NotFound);

    // The reader's call is on record as well: a task of its own tells of it.
    let entries = eventually(|| {
        let mut rosa = rosa.clone();
        async move {
            let entries = audit(&mut rosa).await;
            let call = |entry: &v1::AuditEntry| entry.kind() == v1::ActKind::Call;
            entries.iter().any(call).then_some(entries)
        }
    })
    .await;
    use v1::AuditResult as R;
    let acts = entries.iter().filter(|entry| entry.kind() == v1::ActKind::Rollback);
    let lines: Vec<_> = acts.map(|e| (e.who.as_str(), e.result(), e.concerns)).collect();
    let number = proposed.proposal;
    let expected = [
        ("alice", R::Refused, 0),
        ("alice", R::Proposed, 0),
        ("alice", R::Refused, number),
        ("bob", R::Done, number),
    ];
    assert_eq!(lines, expected);
    let call = entries.iter().find(|entry| entry.kind() == v1::ActKind::Call).unwrap();
    assert_eq!((call.who.as_str(), call.result()), ("rosa", R::Refused));
    assert!(call.plan.contains("ForceTransaction"), "{call:?}");
    world.server.stop().await;
}

/// Without certificates nobody can tell two persons apart.
#[tokio::test]
async fn nobody_unverified_approves() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), Config { second_person: true, ..once() }).await;
    let gtrid = server.client().await.begin().await;
    let mut admin = server.admin().await;
    let planned = plan(&mut admin, act(v1::ActKind::Rollback, gtrid)).await;
    let propose = v1::ProposeActRequest {
        act: planned.act,
        version: planned.version,
        reason: "INC-5".to_owned(),
        evidence: String::new(),
    };
    let proposed = admin.propose_act(propose).await.unwrap().into_inner().proposal.unwrap();
    let approve =
        v1::ApproveActRequest { proposal: proposed.proposal, reason: "I am another".to_owned() };
    let status = admin.approve_act(approve).await.unwrap_err();
    assert_eq!(reason(&status), "SAME_PERSON");
    server.stop().await;
}

/// The audit is kept for ever: once it is moved it is live, and moving it again would free nothing.
#[tokio::test]
async fn regression_a_large_audit_is_not_compacted_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), Config { log_bytes_compact: 20_000, ..once() }).await;
    let (gtrid, _bank_a, _bank_b, _) = half_committed(&server).await;
    let mut admin = server.admin().await;
    let refused = plan(&mut admin, act(v1::ActKind::Rollback, gtrid)).await;
    for _ in 0..100 {
        force(&mut admin, &refused, &"because ".repeat(60)).await.unwrap_err();
    }
    assert!(audit(&mut admin).await.len() == 100);
    // Compactions go on with the writer's own clock; without anything to do no frame is written.
    let quiet = async {
        let (mut frame, mut same) = (0, 0);
        while same < 30 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
            same = if status.durable_frame == frame { same + 1 } else { 0 };
            frame = status.durable_frame;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), quiet).await.expect("it is quiet");
    assert_eq!(audit(&mut admin).await.len(), 100);
    server.stop().await;
}

/// The limit is for proposals; what waits can be approved, or it would stay full for a day.
#[tokio::test]
async fn regression_a_full_table_of_proposals_takes_approvals() {
    let world = Guarded::start().await;
    let (mut alice, mut bob) =
        (world.admin("alice", "operator").await, world.admin("bob", "operator").await);
    let gtrid = world.begin().await;
    let planned = plan(&mut alice, act(v1::ActKind::Rollback, gtrid)).await;
    let propose = v1::ProposeActRequest {
        act: planned.act.clone(),
        version: planned.version,
        reason: "INC-6".to_owned(),
        evidence: String::new(),
    };
    let mut proposal = 0;
    for _ in 0..1_000 {
        let proposed = alice.propose_act(propose.clone()).await.unwrap().into_inner();
        proposal = proposed.proposal.unwrap().proposal;
    }
    let full = alice.propose_act(propose).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    let approve = v1::ApproveActRequest { proposal, reason: "I agree".to_owned() };
    bob.approve_act(approve).await.unwrap();
    world.server.stop().await;
}
