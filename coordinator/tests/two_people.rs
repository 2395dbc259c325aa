//! Two people with certificates, and two participants of the SDK with stores of their own: what one
//! proposes another one carries out, and the stores end as it says.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::guarded::{Guarded, Home, with_cert};
use support::{Said, assert_fails, eventually};
use tempfile::TempDir;
use unanimous_core::id::resource_manager;
use unanimous_core::{Bqual, Gtrid, LogId, Owner, ParticipantName};
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Client, Credentials, Done, Evidence, Participant, Prepared,
    Resource, ResourceId, Retry, Transaction, Vote,
};

/// What a store holds at first.
const ACCOUNTS: u32 = 4;
const CENTS: i64 = 1_000;

struct Bank {
    accounts: Attached<Accounts>,
    participant: Participant,
    /// Goes last: without its directory the log fails.
    _dir: TempDir,
}

impl Bank {
    async fn open(guarded: &Guarded, home: &Home, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opening = Opening { init: Some((ACCOUNTS, CENTS)), ..Opening::default() };
        let store = Accounts::open(&dir.path().join("store"), opening).unwrap();
        let mut builder = Participant::builder(name)
            .coordinator(guarded.sessions.clone())
            .credentials(credentials(home, name));
        let accounts = builder.attach(format!("{name}/accounts"), store);
        let participant = builder.start().await.unwrap();
        participant.connected(Duration::from_secs(20)).await.unwrap();
        Self { accounts, participant, _dir: dir }
    }

    fn sum(&self) -> i64 {
        self.accounts.balances().iter().sum()
    }
}

fn credentials(home: &Home, name: &str) -> Credentials {
    let file = |kind: &str| home.path("ca").join(format!("{name}.{kind}"));
    Credentials::new().ca(home.path("ca").join("ca.pem")).certificate(file("pem"), file("key"))
}

/// A transfer of one cent with its work done, about to commit.
async fn open_transfer(client: &Client, from: &Bank, to: &Bank) -> Transaction {
    let tx = client.begin("transfer").timeout(Duration::from_secs(600)).await.unwrap();
    let (debit, credit) = (from.accounts.join(&tx.context()), to.accounts.join(&tx.context()));
    let (debit, credit) = (debit.await.unwrap(), credit.await.unwrap());
    debit.debit(1, 1).unwrap();
    credit.credit(1, 1).unwrap();
    debit.end();
    credit.end();
    tx
}

/// A command as one of these people, off the threads that participants need.
fn says(guarded: &Guarded, home: &Home, who: &str, args: &[&str]) -> Said {
    tokio::task::block_in_place(|| guarded.ask(args, &with_cert(home, who)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_person_proposes_another_one_carries_out() {
    let home = Home::make();
    home.cert(&["participant", "bank-a"]);
    home.cert(&["participant", "bank-b"]);
    home.cert(&["client", "shop", "--role", "client"]);
    home.cert(&["client", "rita", "--role", "reader"]);
    for operator in ["alice", "bob"] {
        home.cert(&["client", operator, "--role", "operator"]);
    }
    let mut serve = home.serve();
    serve.env("UNANIMOUS_OPERATORS_SECOND_PERSON", "true");
    let guarded = Guarded::start(&home, serve);
    let a = Bank::open(&guarded, &home, "bank-a").await;
    let b = Bank::open(&guarded, &home, "bank-b").await;
    let shop = Client::builder(guarded.sessions.clone(), "shop");
    let shop = shop.credentials(credentials(&home, "shop")).connect().unwrap();
    let tx = open_transfer(&shop, &a, &b).await;
    let gtrid = tx.gtrid().to_string();

    let force = ["force", "rollback", &gtrid, "--reason", "INC-4411"];
    let confirm = ["--confirm", gtrid.as_str()];
    let alone = says(&guarded, &home, "alice", &[&force[..], &confirm].concat());
    assert_fails(&alone, 5, "SECOND_PERSON_NEEDED");
    let reader = says(&guarded, &home, "rita", &[&force[..], &["--propose"]].concat());
    assert_fails(&reader, 7, "ROLE_MISSING");
    let proposed =
        says(&guarded, &home, "alice", &[&force[..], &["--propose", "-o", "id"]].concat());
    assert_eq!(proposed.code, Some(0), "{proposed:?}");
    let number = proposed.stdout.trim();

    let approve = ["force", "approve", number, "--reason", "I agree"];
    let herself = says(&guarded, &home, "alice", &[&approve[..], &confirm].concat());
    assert_fails(&herself, 7, "SAME_PERSON");
    let unconfirmed = says(&guarded, &home, "bob", &approve);
    assert_fails(&unconfirmed, 6, "NOT_CONFIRMED");
    // The line to run is bob's own, with his certificate.
    assert!(unconfirmed.stderr.contains("bob.pem"), "{unconfirmed:?}");
    assert!(unconfirmed.stderr.contains("Proposal "), "{unconfirmed:?}");
    let approved = says(&guarded, &home, "bob", &[&approve[..], &confirm].concat());
    assert_eq!(approved.code, Some(0), "{approved:?}");

    assert!(tx.commit().await.unwrap_err().to_string().contains("rolled back"));
    eventually("its end", || {
        let listed = says(&guarded, &home, "rita", &["tx", "list", "-o", "id"]);
        (listed.code == Some(0) && listed.stdout.is_empty()).then_some(())
    });
    let whole = i64::from(ACCOUNTS) * CENTS;
    assert_eq!((a.sum(), b.sum()), (whole, whole), "nothing moved");
    // The locks are gone, and the next one commits.
    open_transfer(&shop, &a, &b).await.commit().await.unwrap();
    // It is decided; the banks hear of it one after the other.
    eventually("both sides of it", || ((a.sum(), b.sum()) == (whole - 1, whole + 1)).then_some(()));

    let audit = says(&guarded, &home, "rita", &["audit", "list", "--id", &gtrid, "-o", "jsonl"]);
    let entries: Vec<Value> =
        audit.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            let result = entry["result"].as_str().unwrap().trim_start_matches("AUDIT_RESULT_");
            let who = entry["who"].as_str().unwrap().to_owned();
            (who.rsplit(['/', ':']).next().unwrap().to_owned(), result)
        })
        .collect();
    let expected = ["alice REFUSED", "alice PROPOSED", "alice REFUSED", "bob DONE"];
    let told: Vec<String> =
        told.into_iter().map(|(who, result)| format!("{who} {result}")).collect();
    assert_eq!(told, expected);
    assert_eq!(entries[3]["concerns"], number);
    assert_eq!(says(&guarded, &home, "rita", &["audit", "verify"]).code, Some(0));
    for bank in [a, b] {
        bank.participant.stop().await;
        bank.accounts.close().unwrap();
    }
}

/// A resource that holds one branch of a log that is nowhere.
struct Stray {
    branch: BranchId,
    committed: Arc<AtomicBool>,
}

impl Stray {
    fn new() -> Self {
        let owner = Owner { log: LogId { cluster: 9, slot: 9, incarnation: 9 }, epoch: 9 };
        let name = ParticipantName::new("bank-a").unwrap();
        let number = resource_manager(&name, &ResourceId::new("vault").unwrap());
        let (gtrid, bqual) = (Gtrid::new(owner, 1, 0), Bqual::new(number, 1, owner));
        Self { branch: BranchId { gtrid, bqual }, committed: Arc::default() }
    }
}

impl Resource for Stray {
    async fn prepare(&self, _: &BranchId) -> Result<Vote, Retry> {
        Ok(Vote::Rollback { reason: "no such branch".to_owned() })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if *branch != self.branch {
            return Ok(Done::Heuristic(BranchResult::Hazard));
        }
        self.committed.store(true, Ordering::SeqCst);
        Ok(Done::Done)
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let held = (!self.committed.load(Ordering::SeqCst)).then_some(self.branch);
        Ok(held.map(|branch| Prepared { branch, evidence: None }).into_iter().collect())
    }
}

/// What no log knows is no less dangerous to end than what one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_no_log_knows_takes_two_people_as_well() {
    let home = Home::make();
    home.cert(&["participant", "bank-a"]);
    for operator in ["alice", "bob"] {
        home.cert(&["client", operator, "--role", "operator"]);
    }
    let mut serve = home.serve();
    serve.env("UNANIMOUS_OPERATORS_SECOND_PERSON", "true");
    let guarded = Guarded::start(&home, serve);
    let stray = Stray::new();
    let (branch, committed) = (stray.branch, Arc::clone(&stray.committed));
    let mut builder = Participant::builder("bank-a")
        .coordinator(guarded.sessions.clone())
        .credentials(credentials(&home, "bank-a"));
    builder.attach("vault", stray);
    let participant = builder.start().await.unwrap();
    let (gtrid, bqual) = (branch.gtrid.to_string(), branch.bqual.to_string());
    eventually("the orphan", || {
        let listed = says(&guarded, &home, "alice", &["orphan", "list", "-o", "id"]);
        listed.stdout.contains(&bqual).then_some(())
    });

    let order = |end| ["orphan", "resolve", &gtrid, &bqual, "--as", end, "--reason", "INC-4411"];
    let (resolve, other) = (order("committed"), order("rolled-back"));
    let confirm = ["--confirm", gtrid.as_str()];
    let propose = ["--propose"];
    let nobody_else = says(&guarded, &home, "alice", &[&resolve[..], &confirm].concat());
    assert_fails(&nobody_else, 5, "SECOND_PERSON_NEEDED");
    assert!(nobody_else.stderr.contains("--propose"), "{nobody_else:?}");
    let proposed = says(&guarded, &home, "alice", &[&resolve[..], &propose].concat());
    assert_eq!(proposed.code, Some(0), "{proposed:?}");
    let herself = says(&guarded, &home, "alice", &[&resolve[..], &confirm].concat());
    assert_fails(&herself, 7, "SAME_PERSON");
    let contrary = says(&guarded, &home, "bob", &[&other[..], &confirm].concat());
    assert_fails(&contrary, 5, "SECOND_PERSON_NEEDED");
    assert!(!committed.load(Ordering::SeqCst), "nothing was told yet");
    let done = says(&guarded, &home, "bob", &[&resolve[..], &confirm].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    eventually("the order", || committed.load(Ordering::SeqCst).then_some(()));

    let audit = says(&guarded, &home, "bob", &["audit", "list", "-o", "json"]).json();
    let entries = audit["entries"].as_array().unwrap();
    let told: Vec<_> = entries.iter().map(|e| e["result"].as_str().unwrap()).collect();
    let expected = ["REFUSED", "PROPOSED", "REFUSED", "REFUSED", "DONE"];
    assert_eq!(told, expected.map(|word| format!("AUDIT_RESULT_{word}")));
    assert_eq!(entries[4]["concerns"], entries[1]["number"]);
    participant.stop().await;
}
