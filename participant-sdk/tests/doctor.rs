//! What `doctor` asks: participants say what they hold prepared and what is wrong with their
//! resources, and the coordinator compares it with its log, both ways.
#![cfg(feature = "in-process")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use unanimous_core::{Bqual, Gtrid, LogId, Owner, id::resource_manager};
use unanimous_proto::v1;
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Context, Done, Evidence, Finding, InProcess, Participant,
    Prepared, Resource, ResourceId, Retry, Severity, Vote,
};
use v1::admin_service_client::AdminServiceClient;

/// Holds prepared branches in memory; a commit waits until the test lets it happen.
#[derive(Clone, Default)]
struct Vault {
    joined: Arc<Mutex<BTreeSet<BranchId>>>,
    prepared: Arc<Mutex<BTreeSet<BranchId>>>,
    findings: Arc<Mutex<Vec<Finding>>>,
    broken: Arc<Mutex<bool>>,
}

impl Resource for Vault {
    fn joined(&self, branch: &BranchId) {
        self.joined.lock().unwrap().insert(*branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if !self.joined.lock().unwrap().contains(branch) {
            return Ok(Vote::Rollback { reason: "unknown".to_owned() });
        }
        self.prepared.lock().unwrap().insert(*branch);
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if !self.joined.lock().unwrap().contains(branch) {
            return Ok(Done::Heuristic(BranchResult::Hazard));
        }
        Err(Retry::because("the database stands still"))
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.prepared.lock().unwrap().remove(branch);
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        if *self.broken.lock().unwrap() {
            return Err(Retry::because("the connection is refused"));
        }
        let prepared = self.prepared.lock().unwrap();
        let prepared = prepared.iter().map(|branch| Prepared { branch: *branch, evidence: None });
        Ok(prepared.collect())
    }

    async fn findings(&self) -> Result<Vec<Finding>, Retry> {
        Ok(self.findings.lock().unwrap().clone())
    }
}

struct Stage {
    coordinator: InProcess,
    vaults: [Attached<Vault>; 2],
    participants: Vec<Participant>,
}

impl Stage {
    async fn open() -> Self {
        let coordinator = InProcess::start().await.unwrap();
        let mut participants = Vec::new();
        let vaults = ["bank-a", "bank-b"].map(|name| {
            let mut builder = coordinator.participant(name).scan_every(Duration::from_secs(3_600));
            let vault = builder.attach("vault", Vault::default());
            participants.push(builder);
            vault
        });
        let mut started = Vec::new();
        for builder in participants {
            let participant = builder.start().await.unwrap();
            participant.connected(Duration::from_secs(20)).await.unwrap();
            started.push(participant);
        }
        Self { coordinator, vaults, participants: started }
    }

    /// A transaction that is decided, and whose branches cannot commit.
    async fn committing(&self) -> Gtrid {
        let client = self.coordinator.client("shop").connect().unwrap();
        let tx = client.begin("transfer").await.unwrap();
        let work = async {
            let context = Context::current().unwrap();
            for vault in &self.vaults {
                vault.enlist(&context).await.unwrap().end();
            }
        };
        tx.scope(work).await;
        tx.commit().await.unwrap().gtrid
    }

    async fn diagnose(&self) -> v1::DiagnoseResponse {
        let address = self.coordinator.admin_address();
        let mut admin = AdminServiceClient::connect(address).await.unwrap();
        let asked = admin.diagnose(v1::DiagnoseRequest {});
        timeout(Duration::from_secs(60), asked).await.unwrap().unwrap().into_inner()
    }

    /// Code and participant of what is found.
    async fn found(&self) -> Vec<(String, String)> {
        let found = self.diagnose().await.diagnoses;
        let name = |one: v1::Diagnosis| (one.finding.unwrap().code, one.participant);
        found.into_iter().map(name).collect()
    }
}

fn found(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(code, at)| ((*code).to_owned(), (*at).to_owned())).collect()
}

fn number(participant: &str) -> u32 {
    let name = unanimous_core::ParticipantName::new(participant).unwrap();
    resource_manager(&name, &ResourceId::new("vault").unwrap())
}

#[tokio::test]
async fn what_the_log_and_the_participants_agree_on_is_no_finding() {
    let stage = Stage::open().await;
    stage.committing().await;
    let calm = stage.diagnose().await;
    assert_eq!(calm.diagnoses, []);
    assert_eq!(
        (calm.resources_examined, calm.branches_prepared, calm.branches_expected),
        (2, 2, 2)
    );
}

#[tokio::test]
async fn a_branch_that_the_log_counts_on_and_nobody_holds_is_missing() {
    let stage = Stage::open().await;
    let gtrid = stage.committing().await;
    stage.vaults[1].prepared.lock().unwrap().clear();
    let missing = stage.diagnose().await.diagnoses;
    let [one] = &missing[..] else { panic!("{missing:?}") };
    let finding = one.finding.as_ref().unwrap();
    assert_eq!(
        (finding.code.as_str(), finding.severity()),
        ("BRANCH_MISSING", v1::Severity::Critical)
    );
    assert_eq!((one.participant.as_str(), one.resource_id.as_str()), ("bank-b", "vault"));
    assert_eq!(one.gtrid, gtrid.to_string());
    assert!(finding.next.contains(&gtrid.to_string()), "{}", finding.next);
}

#[tokio::test]
async fn a_branch_that_no_record_explains_is_an_orphan_or_late() {
    let stage = Stage::open().await;
    let gtrid = stage.committing().await;
    let ours = gtrid.owner();
    let foreign = Owner { log: LogId { incarnation: !ours.log.incarnation, ..ours.log }, ..ours };
    let branch =
        |owner: Owner, gtrid| BranchId { gtrid, bqual: Bqual::new(number("bank-a"), 7, owner) };
    stage.vaults[0].prepared.lock().unwrap().insert(branch(foreign, Gtrid::new(foreign, 1, 0)));
    assert_eq!(stage.found().await, found(&[("ORPHAN", "bank-a")]));
    // Of a transaction of this log that has ended: presumed rolled back.
    let client = stage.coordinator.client("shop").connect().unwrap();
    let rolled_back = client.begin("transfer").await.unwrap();
    let ended = rolled_back.gtrid();
    rolled_back.rollback().await.unwrap();
    stage.vaults[0].prepared.lock().unwrap().insert(branch(ours, ended));
    let both = [("ORPHAN", "bank-a"), ("BRANCH_LATE", "bank-a")];
    assert_eq!(stage.found().await, found(&both));
    // Another branch of a transaction that is on record, which does not name it.
    stage.vaults[0].prepared.lock().unwrap().remove(&branch(ours, ended));
    stage.vaults[0].prepared.lock().unwrap().insert(branch(ours, gtrid));
    assert_eq!(stage.found().await, found(&both));
}

#[tokio::test]
async fn what_a_resource_finds_and_who_cannot_be_asked_is_told() {
    let stage = Stage::open().await;
    stage.vaults[0].findings.lock().unwrap().push(Finding {
        code: "FSYNC_OFF",
        severity: Severity::Unsafe,
        what: "fsync is off".to_owned(),
        why: "a crash loses what was promised".to_owned(),
        next: "fsync = on".to_owned(),
    });
    *stage.vaults[1].broken.lock().unwrap() = true;
    let told = [("FSYNC_OFF", "bank-a"), ("RESOURCE_FAILED", "bank-b")];
    let mut seen = stage.found().await;
    seen.sort();
    assert_eq!(seen, found(&told));
    stage.participants[1].stop().await;
    let told = [("FSYNC_OFF", "bank-a"), ("PARTICIPANT_AWAY", "bank-b")];
    assert_eq!(stage.found().await, found(&told));
}
