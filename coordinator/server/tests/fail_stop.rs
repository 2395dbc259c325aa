//! A log that cannot be written ends the process with exit code 12, and nothing is told after that.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod common;

use common::*;
use std::process::Command;
use unanimous_proto::v1;

const DIR: &str = "UNANIMOUS_TEST_FAIL_STOP_DIR";

#[test]
fn a_failing_log_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_whose_log_goes_away", "--nocapture"])
        .env(DIR, dir.path().join("log"))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(12), "{stdout}");
    assert!(stdout.contains("the log is gone"), "it came so far: {stdout}");
}

/// Run by the test above in a process of its own; by itself it does nothing.
#[tokio::test]
async fn a_server_whose_log_goes_away() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = std::path::PathBuf::from(dir);
    let server = start(&dir, once()).await;
    let mut client = server.client().await;
    let (mut a, mut b) = (server.participant("bank-a").await, server.participant("bank-b").await);
    std::fs::remove_dir_all(&dir).unwrap();
    println!("the log is gone");
    for _ in 0..1_000_000 {
        let gtrid = client.begin().await;
        a.enlist(gtrid).await;
        b.enlist(gtrid).await;
        client.ask(1, commit(gtrid, Some(2), v1::Wait::Completed)).await;
        for participant in [&mut a, &mut b] {
            participant.say_yes().await;
        }
        for participant in [&mut a, &mut b] {
            let decide = participant.decide().await;
            participant.acknowledge(decide.branch.unwrap(), v1::Done::Done).await;
        }
        client.ended().await;
    }
}
