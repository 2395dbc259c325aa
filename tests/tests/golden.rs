//! What releases have left behind is understood: docs/compatibility.md, in tests.
#![allow(clippy::unwrap_used, missing_docs)]

use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::path::Path;
use unanimous_tests::golden::replay::{Speaker, replay};
use unanimous_tests::golden::{Conversation, VERSION, folder, logs, releases, wire};

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
