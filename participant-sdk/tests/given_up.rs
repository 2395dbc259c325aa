//! A coordinator of a test that is given up while it starts.
#![cfg(all(feature = "in-process", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;
use tokio::time::timeout;
use unanimous_sdk::InProcess;

fn runs() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let mut names = threads.map(|thread| {
        // A thread that ends meanwhile has no name any more.
        std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default()
    });
    names.any(|name| name.trim() == "coordinator")
}

/// Its log is removed with it: one that ran on would end the process.
#[test]
fn a_start_that_is_given_up_leaves_no_coordinator_behind() {
    for patience_ms in [0, 1, 2, 5, 10, 20, 40] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let started = timeout(Duration::from_millis(patience_ms), InProcess::start()).await;
            drop(started);
        });
        // Waits for what was being opened.
        drop(runtime);
        assert!(!runs(), "given up after {patience_ms} ms");
    }
}
