//! Exit codes, the three lines of every error, and what scripts rely on.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use support::{Served, assert_fails, bytes_of, commands, eventually, run, unanimous};

/// An id of the right form that nobody has.
const NOBODYS: &str = "010000000000000000000100000001000000000000000000";

#[test]
fn b_07_without_a_coordinator_every_question_ends_with_3() {
    // Bound and never accepting anything as a coordinator would: dropped at once, so nobody
    // listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}");
    for question in [
        &["status"][..],
        &["tx", "list"],
        &["tx", "describe", "31ce5540"],
        &["tx", "outcome", NOBODYS],
        &["tx", "outcome", "31ce5540"],
    ] {
        let to = ["--admin-address", &address, "--address", &address];
        let said = run(&[question, &to].concat());
        assert_fails(&said, 3, "UNREACHABLE");
        assert_eq!(said.stdout, "", "{question:?}");
    }
}

#[test]
fn b_07_what_cannot_be_understood_ends_with_2() {
    for args in [
        &["tx", "describe", "zz"][..],
        &["tx", "describe", "abc"],
        &["tx", "describe", "\u{1b}[2J0000"],
        &["tx", "outcome", &"0".repeat(49)],
        &["tx", "list", "--limt", "3"],
        &["tx", "list", "--limit", "0"],
        &["tx", "watch", "--interval", "1ms"],
        &["tx", "watch", "31ce5540", "--filter", "age>1m"],
        &["status", "-o", "xml"],
        &["serve"],
        &["serve", "--data-dir", "x", "--moved", "--copied"],
        &["dev", "--run-for", "soon"],
        &["dev", "--chaos"],
        &["log", "verify"],
        &["nonsense"],
        &["tx"],
        &[],
    ] {
        let said = run(args);
        assert_fails(&said, 2, "USAGE");
        assert_eq!(said.stdout, "", "{args:?}");
        assert!(!said.stderr.contains('\u{1b}'), "{args:?}");
    }
    for address in ["nowhere", "https://127.0.0.1:1", "ftp://h", "http://"] {
        assert_fails(&run(&["status", "--admin-address", address]), 2, "BAD_ADDRESS");
    }
    let dir = tempfile::tempdir().unwrap();
    let level = ["serve", "--init", "--log-level", "a=b=c", "--data-dir"];
    let said = unanimous(&level).arg(dir.path()).output().unwrap().into();
    assert_fails(&said, 2, "CONFIG_BAD_VALUE");
}

#[test]
fn the_version_is_data() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&["version"]).stdout, format!("unanimous {version}\n"));
    assert_eq!(run(&["version", "-o", "id"]).stdout, format!("{version}\n"));
    assert_eq!(run(&["version", "-o", "json"]).json()["version"], version);
    assert_eq!(run(&["version", "-o", "yaml"]).stdout.lines().count(), 2);
    let asked = run(&["--version"]);
    assert_eq!((asked.code, asked.stdout), (Some(0), format!("unanimous {version}\n")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for args in [&["version"][..], &["help"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = unanimous(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

/// `UNANIMOUS_BLESS=1` writes the help as it is now.
#[test]
fn help_is_as_it_was_read() {
    let mut text = String::new();
    for command in commands() {
        let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
        words.push("--help");
        let said = run(&words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{command:?}");
        assert_eq!(said.stdout.matches("Example: unanimous").count(), 1, "{command:?}");
        text += &format!("$ unanimous {}\n{}\n", words.join(" "), said.stdout);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
    if std::env::var_os("UNANIMOUS_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_coordinator_answers_and_stops() {
    let mut served = Served::start();
    let status = eventually("serving", || {
        let said = served.ask(&["status", "-o", "json"]);
        (said.code == Some(0)).then(|| said.json())
    });
    // Canonical JSON: default values are there, 64-bit numbers are text.
    assert_eq!(status["transactionsInDoubt"], "0");
    assert_eq!(status["participantsConnected"], 0);
    assert_eq!(status["logBehind"], false);
    assert_eq!(status["dataDir"], served.data_dir().to_str().unwrap());

    let listed = served.ask(&["tx", "list", "-o", "json"]).json();
    assert_eq!(listed["transactions"], serde_json::json!([]));
    assert_eq!(served.ask(&["tx", "list", "-o", "jsonl"]).stdout, "");
    assert_eq!(served.ask(&["tx", "list", "-o", "id"]).stdout, "");
    let table = served.ask(&["tx", "list"]);
    assert_eq!((table.stdout.as_str(), table.stderr.as_str()), ("", "0 shown.\n"));
    assert_fails(&served.ask(&["tx", "list", "--page-token", "zz"]), 2, "INVALID_ARGUMENT");

    assert_fails(&served.ask(&["tx", "describe", "31ce5540"]), 4, "NOT_FOUND");
    assert_fails(&served.ask(&["tx", "describe", NOBODYS]), 4, "NOT_FOUND");
    assert_fails(&served.ask(&["tx", "outcome", "31ce5540"]), 4, "NOT_FOUND");
    let unknown = served.ask(&["tx", "outcome", NOBODYS, "-o", "json"]);
    assert_fails(&unknown, 8, "OUTCOME_UNKNOWN");
    assert_eq!(unknown.json()["result"]["outcome"], "OUTCOME_UNKNOWN");

    let stopped = served.terminate();
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let dir = served.data_dir();
    let verified = run(&["log", "verify", dir.to_str().unwrap(), "-o", "json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!((&verified.json()["clean"], &verified.json()["records"]), (&true.into(), &1.into()));
    let dumped = run(&["log", "dump", "--data-dir", dir.to_str().unwrap(), "-o", "jsonl"]);
    assert_eq!(dumped.json()["record"], "boot");
}

#[test]
fn an_undecided_transaction_is_told_as_pending_within_the_time() {
    let served = Served::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gtrid = runtime.block_on(async {
        let client = unanimous_sdk::Client::connect(&served.sessions, "test").await.unwrap();
        let tx = client.begin("lunch").await.unwrap();
        let gtrid = tx.gtrid().to_string();
        let short = &gtrid[40..];
        let pending = served.ask(&["tx", "outcome", short, "--wait", "300ms"]);
        assert_fails(&pending, 8, "OUTCOME_PENDING");
        assert!(pending.stdout.contains("PENDING"), "{pending:?}");
        let described = served.ask(&["tx", "describe", short, "-o", "json"]).json();
        assert_eq!(described["gtrid"], gtrid.as_str());
        assert_eq!(described["name"], "lunch");
        assert_eq!(described["state"], "TRANSACTION_STATE_ACTIVE");
        assert_eq!(served.ask(&["tx", "list", "-o", "id"]).stdout, format!("{gtrid}\n"));
        let row = served.ask(&["tx", "list", "--filter", "state=active"]).stdout;
        assert!(row.lines().nth(1).unwrap().starts_with(short), "{row}");
        let none = ["tx", "list", "--filter", "state=heuristic or name~brunch", "-o", "id"];
        assert_eq!(served.ask(&none).stdout, "");
        tx.commit().await.unwrap();
        gtrid
    });
    let outcome = served.ask(&["tx", "outcome", &gtrid, "-o", "json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.json()["result"]["outcome"], "OUTCOME_COMMITTED");
}

#[test]
fn a_coordinator_that_cannot_start_says_why() {
    let served = Served::start();
    let dir = served.data_dir();
    let serve = |dir: &std::path::Path, more: &[&str]| -> support::Said {
        let any = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        unanimous(&any).arg("--data-dir").arg(dir).args(more).output().unwrap().into()
    };
    assert_fails(&serve(&dir, &[]), 5, "LOG_IN_USE");
    let verify = run(&["log", "verify", dir.to_str().unwrap()]);
    assert_fails(&verify, 5, "LOG_IN_USE");

    let home = tempfile::tempdir().unwrap();
    assert_fails(&serve(&home.path().join("missing"), &[]), 5, "LOG_NOT_INITIALISED");
    assert!(!home.path().join("missing").exists());
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_fails(&serve(&empty, &[]), 5, "LOG_NOT_INITIALISED");
    std::fs::write(empty.join("letter"), "dear").unwrap();
    assert_fails(&serve(&empty, &["--init"]), 5, "LOG_FOREIGN");

    let address = served.sessions.strip_prefix("http://").unwrap();
    let taken = run(&["serve", "--init", "--data-dir", "x", "--listen", address]);
    assert_fails(&taken, 1, "PORT_IN_USE");
    assert!(taken.stderr.contains(address), "{taken:?}");
    assert!(!std::path::Path::new("x").exists());

    for everywhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        for option in ["--listen", "--admin-listen"] {
            let open = run(&["serve", "--init", "--data-dir", "x", option, everywhere]);
            assert_fails(&open, 7, "INSECURE_LISTEN");
        }
    }
}

#[test]
fn a_damaged_log_ends_with_9_and_stays_as_it_is() {
    let mut served = Served::start();
    eventually("serving", || (served.ask(&["status"]).code == Some(0)).then_some(()));
    assert_eq!(served.terminate().code, Some(0));
    let dir = served.data_dir();
    let witness = dir.join("witness");
    let length = std::fs::metadata(&witness).unwrap().len();
    std::fs::write(&witness, vec![0x55; length.try_into().unwrap()]).unwrap();
    let before = bytes_of(&dir);

    let shown = dir.to_str().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let said = run(&[&["serve", "--data-dir", shown][..], &listen].concat());
    assert_fails(&said, 9, "LOG_DAMAGED");
    assert!(said.stderr.contains("witness"), "{said:?}");
    assert!(said.stderr.contains(&format!("next: unanimous log verify --data-dir {shown}")));
    assert_fails(&run(&["log", "verify", shown]), 9, "LOG_DAMAGED");
    assert_fails(&run(&["log", "dump", shown]), 9, "LOG_DAMAGED");
    assert!(bytes_of(&dir) == before, "the directory was changed");
}

#[test]
fn a_copied_log_is_not_opened_before_somebody_says_so() {
    let mut served = Served::start();
    eventually("serving", || (served.ask(&["status"]).code == Some(0)).then_some(()));
    assert_eq!(served.terminate().code, Some(0));
    let copy = served.home.path().join("copy");
    for (path, bytes) in bytes_of(&served.data_dir()) {
        let to = copy.join(path.strip_prefix(served.data_dir()).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    let shown = copy.to_str().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let said = run(&[&["serve", "--data-dir", shown][..], &listen].concat());
    assert_fails(&said, 6, "LOG_MOVED");
    assert!(said.stderr.contains(&format!("unanimous serve --data-dir {shown} --copied")));
    let verified = run(&["log", "verify", shown, "-o", "json"]).json();
    assert_eq!(verified["in_place"], false);
}

/// A pipe to a log collector that died, for instance.
#[test]
fn a_coordinator_whose_log_lines_nobody_reads_serves_and_stops() {
    let mut served = Served::start();
    drop(served.child.stderr.take());
    eventually("serving", || (served.ask(&["status"]).code == Some(0)).then_some(()));
    support::signal(served.child.id(), rustix::process::Signal::TERM);
    let ended = eventually("its end", || served.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn it_ends_when_its_stdin_closes() {
    let mut served = Served::start();
    drop(served.stdin.take());
    assert_eq!(served.ended().code, Some(1));
}
