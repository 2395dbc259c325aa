//! What the operator's commands show of a transaction in trouble, from its begin to its end.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use support::hand::Hand;
use support::{Said, Served, assert_fails, eventually, run, unanimous};
use unanimous_proto::v1::Done;

fn served() -> Served {
    let served = Served::start();
    served.until_serving();
    served
}

/// A command that goes on, and its lines.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(served: &Served, args: &[&str]) -> Self {
        let to = ["--admin-address", &served.admin, "--address", &served.sessions];
        let mut child = unanimous(&[args, &to].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line for which this holds.
    fn until(&mut self, holds: impl Fn(&str) -> bool) -> String {
        self.lines.by_ref().map(Result::unwrap).find(|line| holds(line)).unwrap()
    }

    fn ended(self) -> Said {
        let mut said: Said = self.child.wait_with_output().unwrap().into();
        said.stdout = self.lines.map(|line| line.unwrap() + "\n").collect();
        said
    }
}

/// Two branches prepared, the commit decided, and no word about it.
fn committing(served: &Served) -> (Hand, String) {
    let mut hand = Hand::connect(served, "bank-b");
    let gtrid = hand.begin("transfer", 2);
    hand.commit(&gtrid);
    hand.vote_commit(2);
    eventually("the decision", || {
        let said = served.ask(&["tx", "list", "--filter", "state=COMMITTING", "-o", "id"]);
        (said.stdout == format!("{gtrid}\n")).then_some(())
    });
    (hand, gtrid)
}

#[test]
fn watch_tells_each_change_until_the_end() {
    let served = served();
    let mut hand = Hand::connect(&served, "bank-b");
    let mut all = Running::start(&served, &["tx", "watch", "--interval", "50ms"]);
    let gtrid = hand.begin("transfer", 2);
    let short = &gtrid[40..];
    let appeared = all.until(|line| line.contains("appeared"));
    assert!(appeared.contains(short) && appeared.contains("transfer"), "{appeared}");

    let one = ["tx", "watch", short, "--interval", "50ms", "-o", "jsonl"];
    let mut one = Running::start(&served, &one);
    let first: Value = serde_json::from_str(&one.until(|_| true)).unwrap();
    assert_eq!(
        (&first["event"], &first["transaction"]["gtrid"]),
        (&"appeared".into(), &gtrid.as_str().into())
    );
    hand.commit(&gtrid);
    all.until(|line| line.contains("changed") && line.contains("PREPARING"));
    one.until(|line| line.contains("TRANSACTION_STATE_PREPARING"));
    hand.vote_commit(2);
    let waits = all.until(|line| line.contains("COMMITTING"));
    assert!(waits.contains("0/2 branches done, waiting on bank-b"), "{waits}");
    hand.acknowledge(2, Done::Done, "");
    let ended = all.until(|line| line.contains("ended"));
    assert!(ended.contains(short) && ended.ends_with("COMMITTED"), "{ended}");
    let last: Value = serde_json::from_str(&one.until(|line| line.contains("\"ended\""))).unwrap();
    assert_eq!(last["gtrid"], gtrid.as_str());
    assert_eq!(last["result"]["outcome"], "OUTCOME_COMMITTED");
    let said = one.ended();
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "", ""));
    all.child.kill().unwrap();
    all.child.wait().unwrap();

    // Somebody who comes too late is told too, by the full id.
    let late = served.ask(&["tx", "watch", &gtrid]);
    assert_eq!(late.code, Some(0), "{late:?}");
    assert!(late.stdout.contains("ended") && late.stdout.contains("COMMITTED"), "{late:?}");
    assert_fails(&served.ask(&["tx", "watch", short]), 4, "NOT_FOUND");
}

#[test]
fn watch_ends_with_8_when_the_time_is_over_and_leaves_out_what_does_not_match() {
    let served = served();
    let (_hand, gtrid) = committing(&served);
    let late = served.ask(&["tx", "watch", &gtrid, "--timeout", "200ms", "--interval", "50ms"]);
    assert_fails(&late, 8, "NOT_ENDED_IN_TIME");
    assert!(late.stdout.contains("COMMITTING"), "{late:?}");
    for (filter, lines) in [("label.order=4711", 1), ("label.order=4712", 0)] {
        let said = served.ask(&["tx", "watch", "--filter", filter, "--timeout", "200ms"]);
        assert_eq!((said.code, said.stdout.lines().count()), (Some(0), lines), "{said:?}");
    }
}

/// What a command draws on a terminal, until it ends.
struct Drawn {
    child: Child,
    terminal: File,
    bytes: Vec<u8>,
}

impl Drawn {
    fn start(served: &Served, args: &[&str]) -> (Self, File) {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        rustix::io::ioctl_fionbio(&pty, true).unwrap();
        let path = ptsname(&pty, Vec::new()).unwrap().into_string().unwrap();
        let end = File::options().read(true).write(true).open(path).unwrap();
        let to = ["--admin-address", &served.admin, "--address", &served.sessions];
        let mut command = unanimous(&[args, &to].concat());
        command.env("TERM", "xterm").stdin(end.try_clone().unwrap());
        let child = command.stdout(end.try_clone().unwrap()).stderr(Stdio::piped()).spawn();
        (Self { child: child.unwrap(), terminal: pty.into(), bytes: Vec::new() }, end)
    }

    /// Reads until these words are drawn, after what was read before.
    fn until(&mut self, words: &str) {
        self.bytes.clear();
        let mut piece = [0; 4_096];
        eventually(words, || {
            // Nothing is there to be read at most times.
            let length = self.terminal.read(&mut piece).unwrap_or_default();
            self.bytes.extend(&piece[..length]);
            String::from_utf8_lossy(&self.bytes).contains(words).then_some(())
        });
    }
}

#[test]
fn on_a_terminal_watch_draws_a_list_and_gives_the_terminal_back() {
    let served = served();
    let mut hand = Hand::connect(&served, "bank-b");
    let stops: [fn(&mut Drawn); 2] = [
        |drawn| drawn.terminal.write_all(b"xq").unwrap(),
        |drawn| support::signal(drawn.child.id(), rustix::process::Signal::INT),
    ];
    for stop in stops {
        let (mut drawn, end) =
            Drawn::start(&served, &["tx", "watch", "--interval", "50ms", "--filter", "tries=0"]);
        drawn.until("no transaction is unfinished now");
        let hidden = tcgetattr(&end).unwrap().local_modes;
        assert!(!hidden.contains(LocalModes::ICANON) && hidden.contains(LocalModes::ISIG));
        let gtrid = hand.begin("transfer", 0);
        drawn.until(&gtrid[40..]);
        hand.commit(&gtrid);
        // It is shown a while after its end, and leaves then.
        drawn.until("COMMITTED");
        drawn.until("no transaction is unfinished now");
        stop(&mut drawn);
        drawn.until("\u{1b}[?25h");
        assert_eq!(drawn.child.wait().unwrap().code(), Some(0));
        assert!(tcgetattr(&end).unwrap().local_modes.contains(LocalModes::ICANON));
    }
}

#[test]
fn watch_tells_a_heuristic_end_by_its_exit_code() {
    let served = served();
    let (mut hand, gtrid) = committing(&served);
    let watch = Running::start(&served, &["tx", "watch", &gtrid, "--interval", "50ms"]);
    hand.acknowledge(1, Done::Done, "");
    hand.acknowledge(1, Done::HeuristicRollback, "by hand \u{1b}[2J\u{202e}");
    let said = watch.ended();
    assert_fails(&said, 11, "HEURISTIC");
    assert!(said.stderr.contains("HEURISTIC MIXED"), "{said:?}");
    let described = served.ask(&["tx", "describe", &gtrid]);
    assert!(described.stdout.contains("by hand \\u{1b}[2J\\u{202e}"), "{described:?}");
    let status = served.ask(&["status"]);
    assert!(
        status.stdout.contains("next: unanimous tx list --filter 'state=HEURISTIC'"),
        "{status:?}"
    );
    let found = served.ask(&["tx", "list", "--filter", "state=HEURISTIC", "-o", "id"]);
    assert_eq!(found.stdout, format!("{gtrid}\n"));
}

#[test]
fn retry_sends_again_and_says_to_how_many() {
    let served = served();
    let (mut hand, gtrid) = committing(&served);
    let said = served.ask(&["tx", "retry", &gtrid[40..]]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("to 2 branches; waiting on bank-b"), "{said:?}");
    // The first decisions and those of the retry.
    hand.acknowledge(3, Done::Retry, "");
    let said = served.ask(&["tx", "retry", &gtrid, "-o", "json"]).json();
    assert_eq!(
        (&said["branches"], &said["transaction"]["gtrid"]),
        (&2.into(), &gtrid.as_str().into())
    );
    let active = hand.begin("lunch", 0);
    assert_fails(&served.ask(&["tx", "retry", &active]), 5, "NOTHING_TO_RETRY");
}

#[test]
fn a_participant_is_described_with_what_waits_for_it() {
    let served = served();
    let (hand, gtrid) = committing(&served);
    let said = served.ask(&["participant", "describe", "bank-b"]).stdout;
    for words in [
        "connected",
        "2 branches",
        "bank-b/data",
        "by hand \\u{1b}[31m",
        "It takes part, and transactions wait for its answer.",
        "next: unanimous tx list --filter 'waiting_on=\"bank-b\"'",
        "The oldest 1 of 1 that wait for it:",
        &gtrid[40..],
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    drop(hand);
    let away = eventually("its session's end", || {
        let said = served.ask(&["participant", "describe", "bank-b"]).stdout;
        said.contains("It is away, and transactions wait for it.").then_some(said)
    });
    assert!(away.contains("next: Start bank-b: what waits for it ends by itself then."), "{away}");
    let json = served.ask(&["participant", "describe", "bank-b", "-o", "json"]).json();
    assert_eq!(json["participant"]["connected"], false);
    assert_eq!(json["waiting"]["transactions"][0]["gtrid"], gtrid.as_str());
}

#[test]
fn status_begins_with_a_sentence() {
    let served = served();
    let said = served.ask(&["status"]).stdout;
    assert!(said.starts_with("Serving; 0 transactions in doubt.\n\n"), "{said}");
    assert!(!said.contains("next:"), "{said}");
}

#[test]
fn a_list_names_its_next_page_and_a_mistake_its_place() {
    let served = served();
    let mut hand = Hand::connect(&served, "bank-b");
    let ids: Vec<String> = (0..3).map(|_| hand.begin("lunch", 0)).collect();
    hand.begin("dinner", 0);
    let filter = "name='lunch' and age<1h";
    let first = served.ask(&["tx", "list", "--filter", filter, "--limit", "2"]);
    let (shown, next) = first.stderr.trim_end().split_once("; next: ").unwrap();
    assert_eq!(shown, "2 of 3 shown");
    // As a person would: by a shell.
    let script = next.replacen("unanimous", "\"$0\" -o id", 1);
    let program = unanimous(&[]).get_program().to_owned();
    let second = std::process::Command::new("sh").args(["-c", &script]).arg(program).output();
    let second: Said = second.unwrap().into();
    assert_eq!((second.code, second.stdout), (Some(0), format!("{}\n", ids[2])), "{script}");
    let wide = served.ask(&["tx", "list", "-o", "wide"]).stdout;
    assert!(wide.contains("LABELS") && wide.contains("order=4711"), "{wide}");

    let wrong = served.ask(&["tx", "list", "--filter", "age>1m and stat=ACTIVE"]);
    assert_fails(&wrong, 2, "INVALID_ARGUMENT");
    assert!(
        wrong.stderr.contains("\n        age>1m and stat=ACTIVE\n                   ^\n"),
        "{wrong:?}"
    );
    assert!(wrong.stderr.contains("next: unanimous tx list --filter 'age>1m and state=ACTIVE'\n"));
}

#[test]
fn an_ambiguous_id_names_candidates() {
    let served = served();
    let mut hand = Hand::connect(&served, "bank-b");
    let ids: Vec<String> = (0..300).map(|_| hand.begin("lunch", 0)).collect();
    // Sequence and kind are last: those that are 256 apart end with the same four digits.
    let end = &ids[0][44..];
    let twice = ids.iter().filter(|id| id.ends_with(end)).count();
    assert_eq!(twice, 2);
    for command in ["describe", "retry", "watch", "outcome"] {
        let said = served.ask(&["tx", command, end]);
        assert_fails(&said, 5, "AMBIGUOUS_ID");
        assert!(said.stderr.contains(&ids[0]) && said.stderr.contains("2 match"), "{said:?}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let said = run(&["completion", shell]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(said.stdout.contains("unanimous") && said.stdout.contains("watch"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(&["man", dir.path().to_str().unwrap(), "-o", "id"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let commands = support::commands();
    assert_eq!(said.stdout.lines().count(), commands.len());
    for command in commands {
        let name = [&["unanimous".to_owned()], &command[..]].concat().join("-");
        let page = std::fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Example: unanimous"), "{name}");
    }
}

#[test]
fn explain_has_a_list_and_pages() {
    let list = run(&["explain", "-o", "jsonl"]).stdout;
    assert!(list.lines().count() > 80);
    for line in list.lines() {
        let one: Value = serde_json::from_str(line).unwrap();
        let code = one["code"].as_str().unwrap();
        assert!(one["meaning"].as_str().unwrap().ends_with('.'), "{line}");
        assert!(one["page"].as_str().unwrap().starts_with(&format!("# {code}\n")), "{line}");
    }
    let one = run(&["explain", "heuristic mixed", "-o", "json"]).json();
    assert_eq!((&one["code"], &one["exit"]), (&"HEURISTIC_MIXED".into(), &Value::Null));
    let slip = run(&["explain", "log-ful"]);
    assert_fails(&slip, 4, "NO_SUCH_PAGE");
    assert!(slip.stderr.contains("next: unanimous explain LOG_FULL\n"), "{slip:?}");
}
