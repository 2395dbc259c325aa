//! What releases have left behind is understood: docs/compatibility.md, in tests.
#![allow(clippy::unwrap_used, missing_docs)]

use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Client, CommitError, Done, Evidence, Participant, Prepared,
    Resource, Retry, Rollback, RollbackReason, Vote,
};
use unanimous_tests::golden::replay::{Speaker, replay};
use unanimous_tests::golden::{Conversation, VERSION, folder, logs, old, releases, wire};

fn conversation(release: &str) -> Conversation {
    let path = folder("sessions").join(release).join("all.bin");
    Conversation::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

/// A new version is not released before `cargo run -p unanimous-tests --bin golden` was run for it.
#[test]
fn this_version_has_golden_files() {
    let sessions = folder("sessions").join(VERSION);
    let mut files = vec![folder("wire").join(format!("{VERSION}.bin"))];
    files.extend(["all.bin", "all.txt"].map(|name| sessions.join(name)));
    for kind in logs::Kind::ALL {
        files.extend(["tar.gz", "jsonl", "txt"].map(|end| logs::file(VERSION, kind, end)));
    }
    let missing: Vec<_> = files.iter().filter(|file| !file.exists()).collect();
    assert!(missing.is_empty(), "write them with `golden`: {missing:?}");
}

#[test]
fn the_wire_only_gains() {
    for release in releases().unwrap() {
        let broken = wire::broken(&wire::of(&release).unwrap(), &wire::today().unwrap());
        assert!(broken.is_empty(), "of {release}:\n{}", broken.join("\n"));
    }
}

/// This version's golden wire is today's: what is released is what was kept.
#[test]
fn this_versions_wire_is_kept_as_it_is() {
    assert_eq!(wire::broken(&wire::today().unwrap(), &wire::of(VERSION).unwrap()), [""; 0]);
}

#[test]
fn every_way_to_break_the_wire_is_found() {
    type Break = fn(&mut FileDescriptorSet);
    fn common(set: &mut FileDescriptorSet) -> &mut prost_types::FileDescriptorProto {
        set.file.iter_mut().find(|file| file.name().ends_with("client.proto")).unwrap()
    }
    fn begin(set: &mut FileDescriptorSet) -> &mut Vec<prost_types::FieldDescriptorProto> {
        let mut messages = common(set).message_type.iter_mut();
        &mut messages.find(|message| message.name() == "Begin").unwrap().field
    }
    let ways: [(&str, Break); 8] = [
        ("Begin.name is gone", |set| drop(begin(set).remove(0))),
        ("Begin.name was number 1", |set| begin(set)[0].number = Some(99)),
        ("Begin.name is gone", |set| begin(set)[0].name = Some("title".to_owned())),
        ("Begin.timeout_ms was", |set| begin(set)[1].r#type = Some(13)),
        ("Begin.labels was", |set| begin(set).last_mut().unwrap().label = Some(1)),
        ("ClientService/Transact was stream", |set| {
            common(set).service[0].method[0].client_streaming = Some(false);
        }),
        ("TransactionService/Begin is gone", |set| drop(common(set).service[1].method.remove(0))),
        ("Wait.WAIT_COMPLETED was the value 2", |set| {
            let file = set.file.iter_mut().find(|file| file.name().ends_with("common.proto"));
            let mut enums = file.unwrap().enum_type.iter_mut();
            enums.find(|one| one.name() == "Wait").unwrap().value[2].number = Some(3);
        }),
    ];
    let kept = wire::today().unwrap();
    assert_eq!(wire::broken(&kept, &kept), [""; 0]);
    for (words, change) in ways {
        let mut changed = kept.clone();
        change(&mut changed);
        let broken = wire::broken(&kept, &changed);
        assert!(broken.iter().any(|line| line.contains(words)), "{words}: {broken:?}");
        // The other way round it is a gain, or a change that is found as well.
        assert!(broken.len() <= 2, "{words}: {broken:?}");
    }
}

/// An old SDK, and one that says more than this version knows, with today's coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_hears_from_todays_coordinator_what_it_heard_then() {
    for release in releases().unwrap() {
        for speaker in [Speaker::Release, Speaker::Later] {
            let home = tempfile::tempdir().unwrap();
            let heard = replay(&release, &conversation(&release), speaker, home.path()).await;
            heard.unwrap_or_else(|error| panic!("{release}, {speaker:?}: {error:#}"));
        }
    }
}

/// Every byte of an answer is compared: a changed one is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_answers_differently_is_found() {
    let mut changed = conversation(VERSION);
    let pool = wire::pool(VERSION).unwrap();
    let is_decision = |text: &str| text.contains("\"outcome\":\"OUTCOME_ROLLED_BACK\"");
    let entries = changed.entries.iter().position(|entry| {
        !entry.stop && is_decision(&changed.form_of(&pool, entry).unwrap().to_string())
    });
    let entry = &mut changed.entries[entries.unwrap()];
    let outcome = unanimous_proto::v1::Outcome::RolledBack as u8;
    // The field `outcome` of the result.
    let at = entry.bytes.windows(2).rposition(|pair| pair == [0x08, outcome]).unwrap();
    entry.bytes[at + 1] = unanimous_proto::v1::Outcome::Committed as u8;
    let home = tempfile::tempdir().unwrap();
    let found = replay(VERSION, &changed, Speaker::Release, home.path()).await;
    let words = format!("{:#}", found.unwrap_err());
    assert!(words.contains("then") && words.contains("OUTCOME_COMMITTED"), "{words}");
}

/// Votes yes for what has joined, under the kind that was recorded; keeps nothing over a restart.
#[derive(Default)]
struct Recorded(Mutex<BTreeSet<BranchId>>);

impl Recorded {
    fn knows(&self, branch: &BranchId) -> bool {
        self.0.lock().unwrap().contains(branch)
    }
}

impl Resource for Recorded {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn joined(&self, branch: &BranchId) {
        self.0.lock().unwrap().insert(*branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let reason = "not known".to_owned();
        let known = self.knows(branch);
        Ok(if known { Vote::Commit { evidence: None } } else { Vote::Rollback { reason } })
    }

    async fn commit(&self, branch: &BranchId, kept: Option<&Evidence>) -> Result<Done, Retry> {
        let proved = self.knows(branch) && kept.is_some_and(|kept| kept.data == [1, 2, 3]);
        Ok(if proved { Done::Done } else { Done::Heuristic(BranchResult::Hazard) })
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.0.lock().unwrap().remove(branch);
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

async fn recorded_bank(url: &str, name: &str) -> (Participant, Attached<Recorded>) {
    let mut builder = Participant::builder(name).coordinator(url);
    let attached = builder.attach(format!("{name}/accounts"), Recorded::default());
    (builder.start().await.unwrap(), attached)
}

/// A new SDK with an old coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn todays_sdk_understands_a_releases_coordinator() {
    for release in releases().unwrap() {
        let (address, mut played) = old::start(conversation(&release), 2).await.unwrap();
        let url = format!("http://{address}");
        let mut talk = tokio::spawn(async move { talk(&url).await });
        let told = |played: anyhow::Result<()>| {
            played.unwrap_or_else(|error| panic!("{release}: {error:#}"));
        };
        // Whoever ends first: what is wrong is said by the one, and the other hangs.
        tokio::select! {
            played = &mut played => {
                told(played.unwrap());
                talk.await.unwrap();
            }
            talked = &mut talk => {
                // Its sessions last until everything is said.
                let _sessions = talked.unwrap();
                told(tokio::time::timeout(Duration::from_secs(30), played).await.unwrap().unwrap());
            }
        }
    }
}

/// What was recorded first: a transaction that is committed, and one that bank-b refuses.
async fn talk(url: &str) -> (Client, [Participant; 2]) {
    let client = Client::connect(url, "shop").await.unwrap();
    let (a, bank_a) = recorded_bank(url, "bank-a").await;
    let (b, bank_b) = recorded_bank(url, "bank-b").await;
    for commits in [true, false] {
        let tx = client.begin("transfer").timeout(Duration::from_secs(60)).await.unwrap();
        bank_a.enlist(&tx.context()).await.unwrap().end();
        let branch = bank_b.enlist(&tx.context()).await.unwrap();
        if commits {
            branch.end()
        } else {
            branch.fail("account 7 has 3 cents")
        }
        match tx.commit().await {
            Ok(_) => assert!(commits),
            Err(CommitError::RolledBack { rollback, .. }) => {
                let expected = (RollbackReason::Voted, "bank-b", "account 7 has 3 cents");
                let Rollback { reason, participant, detail } = &rollback;
                assert_eq!((*reason, participant.as_str(), detail.as_str()), expected);
                assert!(!commits);
            }
            Err(error) => panic!("{error}"),
        }
    }
    (client, [a, b])
}

fn contains(whole: &serde_json::Value, part: &serde_json::Value) -> bool {
    match (whole, part) {
        (serde_json::Value::Object(whole), serde_json::Value::Object(part)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|found| contains(found, value))),
        (serde_json::Value::Array(whole), serde_json::Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| contains(w, p))
        }
        _ => whole == part,
    }
}

fn records(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same records, and from them the same transactions, states and outcomes.
#[tokio::test(flavor = "multi_thread")]
async fn a_releases_logs_are_read_as_they_were() {
    for release in releases().unwrap() {
        for kind in logs::Kind::ALL {
            let read = |end| std::fs::read_to_string(logs::file(&release, kind, end)).unwrap();
            let unpacked = logs::unpack(&release, kind).unwrap();
            let (then, now) = (read("jsonl"), dump(unpacked.path()));
            let (then, now) = (records(&then), records(&now));
            assert_eq!(then.len(), now.len(), "{release} {kind:?}");
            for (then, now) in then.iter().zip(&now) {
                assert!(contains(now, then), "{release} {kind:?}:\n{then}\n{now}");
            }
            let found = logs::found(unpacked.path(), kind).await.unwrap();
            assert_eq!(found, read("txt"), "{release} {kind:?}");
        }
    }
}

fn dump(home: &Path) -> String {
    logs::dump(home).unwrap()
}
