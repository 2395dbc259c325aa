//! `dev` as a new user meets it, in short.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use support::{Said, assert_fails, eventually, run, signal, unanimous};

/// Issue 2, "Must show": `dev --run-for`, and a balance changed by hand is noticed.
#[test]
fn a_short_run_agrees_with_itself_and_a_changed_balance_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    let kept = kept.to_str().unwrap();
    let mut dev = unanimous(&["dev", "--run-for", "3s", "-o", "json", "--keep", kept]);
    let said: Said = dev.env("XDG_RUNTIME_DIR", home.path()).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
    assert!(report["committed"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["committed"], report["commits_logged"]);
    for zero in ["unknown", "in_doubt", "heuristic", "acknowledged_missing", "kills"] {
        assert_eq!(report[zero], 0, "{zero}: {report}");
    }
    assert_eq!(report["sum_expected"], 200_000_000);
    assert_eq!(report["sum_actual"], 200_000_000);

    assert_eq!(run(&["dev", "verify", kept]).code, Some(0));
    let adjust = ["dev", "adjust", "--bank", "bank-b", "--account", "3", "--cents", "-1", kept];
    assert_eq!(run(&adjust).code, Some(0));
    let noticed = run(&["dev", "verify", kept, "-o", "json"]);
    assert_fails(&noticed, 1, "CHECK_FAILED");
    assert_eq!(noticed.json()["sum_actual"], 199_999_999);

    assert_fails(&run(&["dev", "--keep", kept]), 5, "NOT_EMPTY");
    let missing = home.path().join("nothing");
    assert_fails(&run(&["dev", "verify", missing.to_str().unwrap()]), 4, "NO_DEV_RUN");
}

/// Issue 2, "Must show", in short: kills and freezes under load change nothing that was told.
#[test]
fn a_short_run_with_kills_agrees_with_itself() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = unanimous(&["dev", "--run-for", "10s", "--chaos", "--seed", "3", "-o", "json"]);
    let said: Said = dev.env("XDG_RUNTIME_DIR", home.path()).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!(number("kills") > 0 && number("freezes") > 0, "{report}");
    assert!(number("committed_after_last_kill") > 0, "{report}");
    assert_eq!(number("sum_actual"), number("sum_expected"));
    for zero in ["unknown", "in_doubt", "heuristic", "acknowledged_missing"] {
        assert_eq!(number(zero), 0, "{zero}: {report}");
    }
}

/// A commit that a client was told of, and that the log does not have, is found.
#[test]
fn a_lost_acknowledgement_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    let mut dev = unanimous(&["dev", "--run-for", "1s", "-o", "json", "--keep"]);
    let said: Said = dev.arg(&kept).env("XDG_RUNTIME_DIR", home.path()).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    let answers = kept.join("answers");
    let told = std::fs::read_to_string(&answers).unwrap();
    let committed = told.lines().find(|line| line.starts_with("C ")).unwrap();
    let gtrid = &committed[2..];
    // Of another incarnation: nobody's.
    let nobodys = format!("01ffffffffffff{}", &gtrid[14..]);
    let changed = told.replacen(gtrid, &nobodys, 1) + &format!("R {}\n", &committed[2..]);
    std::fs::write(&answers, changed).unwrap();
    let noticed = run(&["dev", "verify", kept.to_str().unwrap(), "-o", "json"]);
    assert_fails(&noticed, 1, "CHECK_FAILED");
    assert_eq!(noticed.json()["acknowledged_missing"], 1);
    assert_eq!(noticed.json()["rolled_back_but_committed"], 1);
}

#[test]
fn processes_of_a_running_dev_are_killed_and_started_by_hand_and_end_with_it() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    let mut dev = unanimous(&["dev", "--keep", kept.to_str().unwrap()])
        .env("XDG_RUNTIME_DIR", home.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with(" committed")), "no transfer was committed");

    let chaos = |act, name| -> Said {
        let mut chaos = unanimous(&["dev", "chaos", act, name]);
        chaos.env("XDG_RUNTIME_DIR", home.path()).output().unwrap().into()
    };
    assert_eq!(chaos("kill", "bank-b").code, Some(0));
    assert!(lines.any(|line| line.contains("bank-b: ")), "no transfer met the dead bank");
    assert_eq!(chaos("start", "bank-b").code, Some(0));
    assert!(lines.any(|line| line.ends_with(" committed")), "it has not healed");
    assert_eq!(chaos("stop", "coordinator").code, Some(0));
    assert_eq!(chaos("start", "coordinator").code, Some(0));
    assert_fails(&chaos("kill", "bank-z"), 4, "NO_SUCH_PROCESS");

    // Even killed it leaves nobody behind: the stores are free.
    signal(dev.id(), rustix::process::Signal::KILL);
    dev.wait().unwrap();
    for (name, what) in [("coordinator", "log"), ("bank-a", "store"), ("bank-b", "store")] {
        eventually(&format!("the end of the {what} of {name}"), || {
            let store = std::fs::File::open(kept.join(name)).unwrap();
            store.try_lock().ok()
        });
    }
    assert_fails(&chaos("kill", "bank-b"), 3, "NO_DEV");
    let verified = run(&["log", "verify", kept.join("coordinator").to_str().unwrap()]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn ctrl_c_ends_a_run_cleanly() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    let mut dev = unanimous(&["dev", "--keep", kept.to_str().unwrap()])
        .env("XDG_RUNTIME_DIR", home.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with(" committed")), "no transfer was committed");
    signal(dev.id(), rustix::process::Signal::INT);
    assert_eq!(lines.last().map(|line| line.starts_with("kept in ")), Some(true));
    assert_eq!(dev.wait().unwrap().code(), Some(0));
    let verified = run(&["dev", "verify", kept.to_str().unwrap(), "-o", "json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.json()["commits_logged"].as_u64().unwrap() > 0);
}

/// Ends with this value, also when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        signal(self.0.id(), rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

/// Protocol section 4, "coordinator silent", with a policy: the bank votes, dies, finds nobody to
/// ask, and undoes what the other bank has committed. The operator sees that and why.
#[test]
fn a_bank_that_may_decide_alone_does_and_the_operator_is_told() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    let mut dev = unanimous(&["dev", "--keep", kept.to_str().unwrap()]);
    dev.env("XDG_RUNTIME_DIR", home.path()).env("UNANIMOUS_BANK_ALONE", "rollback:1s");
    let mut dev = Running(dev.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(dev.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let operators = lines.find(|line| line.starts_with("  operators")).unwrap();
    let admin = operators.split_whitespace().nth(1).unwrap();
    assert!(lines.any(|line| line.ends_with(" committed")), "no transfer was committed");
    let ask = |args: &[&str]| -> Said {
        let mut command = unanimous(args);
        command.env("XDG_RUNTIME_DIR", home.path()).output().unwrap().into()
    };
    let told = |args: &[&str]| {
        let said = ask(&[args, &["--admin-address", admin]].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.stdout
    };
    let killed = ask(&["dev", "chaos", "kill", "bank-b"]);
    assert!(killed.stderr.contains("before it knew the decision"), "{killed:?}");
    let waiting = ["tx", "list", "--filter", "waiting_on=\"bank-b\"", "-o", "id"];
    let gtrid = told(&waiting).trim().to_owned();
    assert_eq!(gtrid.len(), 48, "in doubt at bank-b: {gtrid}");
    assert_eq!(ask(&["dev", "chaos", "kill", "coordinator"]).code, Some(0));
    assert_eq!(ask(&["dev", "chaos", "start", "bank-b"]).code, Some(0));
    eventually("the end alone", || {
        let log = std::fs::read_to_string(kept.join("bank-b.log")).unwrap();
        let ended = log.lines().any(|line| line.contains("ended alone") && line.contains(&gtrid));
        ended.then_some(())
    });
    assert_eq!(ask(&["dev", "chaos", "start", "coordinator"]).code, Some(0));
    let described = ["tx", "describe", &gtrid, "--admin-address", admin];
    let said = eventually("the report", || {
        let said = ask(&described);
        said.stdout.contains("state                    HEURISTIC\n").then_some(said.stdout)
    });
    let outcome = "outcome                  HEURISTIC MIXED\n";
    let why = "HEURISTIC ROLLBACK: decided alone by policy: no word of its coordinator for 1 s\n";
    assert!(said.contains(outcome) && said.contains(why), "{said}");
    assert_eq!(told(&["tx", "list", "--divergent", "-o", "id"]).trim(), gtrid);
    let forget = ["force", "forget", &gtrid, "--confirm", &gtrid, "--reason", "INC-7: paid again"];
    told(&forget);
    assert_eq!(told(&["tx", "list", "--divergent", "-o", "id"]), "");
}
