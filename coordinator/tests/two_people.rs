//! Two people with certificates, and two participants of the SDK with stores of their own: what one
//! proposes another one carries out, and the stores end as it says.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::time::Duration;
use support::guarded::{Guarded, Home, with_cert};
use support::{Said, assert_fails, eventually};
use tempfile::TempDir;
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::{Attached, Client, Credentials, Participant, Transaction};

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
    assert_eq!(a.sum() + b.sum(), 2 * whole);

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
