//! Exit codes, the three lines of every error, and what scripts rely on.
#![allow(clippy::unwrap_used)]

mod support;

use assert_cmd::cargo::cargo_bin;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Said, Served, assert_fails, bytes_of, commands, eventually, run, unanimous};

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
    for address in ["nowhere", "https://", "ftp://h", "http://"] {
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

fn serve(dir: &Path, more: &[&str]) -> Said {
    let any = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    unanimous(&any).arg("--data-dir").arg(dir).args(more).output().unwrap().into()
}

/// The first one goes on: it answers, and its log is clean when it stops.
#[test]
fn s_13_a_second_process_on_the_same_directory_ends_at_once() {
    let mut served = Served::start();
    served.until_serving();
    let dir = served.data_dir();
    let shown = dir.to_str().unwrap();
    for said in [serve(&dir, &[]), run(&["log", "verify", shown]), run(&["log", "dump", shown])] {
        assert_fails(&said, 5, "LOG_IN_USE");
        assert!(said.stderr.contains(shown), "{said:?}");
    }
    assert_eq!(served.ask(&["status"]).code, Some(0));
    assert_eq!(served.terminate().code, Some(0));
    let verified = run(&["log", "verify", shown, "-o", "json"]);
    assert_eq!((verified.code, &verified.json()["clean"]), (Some(0), &true.into()));
}

/// In a user namespace of its own, where nobody may read what its owner may not, not even root.
#[test]
fn s_17_a_directory_that_may_not_be_read_or_is_none() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "dear").unwrap();
    let said = serve(&file, &["--init"]);
    assert_fails(&said, 1, "LOG_IO");
    assert!(said.stderr.contains(file.to_str().unwrap()), "{said:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "dear");

    let closed = home.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let inside = closed.join("log");
    for dir in [&closed, &inside] {
        let said: Said = Command::new("unshare")
            .args(["-U", "--"])
            .arg(cargo_bin("unanimous"))
            .args(["serve", "--init", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(dir)
            .env("NO_COLOR", "1")
            .output()
            .unwrap()
            .into();
        assert_fails(&said, 1, "LOG_IO");
        assert!(said.stderr.contains(dir.to_str().unwrap()), "{said:?}");
        assert!(said.stderr.contains("Permission denied"), "{said:?}");
    }
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0);
}

#[test]
fn s_17_a_directory_in_memory_is_warned_of() {
    let script = "mount -t tmpfs none \"$1\" && exec \"$0\" serve --init --data-dir \"$1/log\" \
                  --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --port-file \"$1/ports\" \
                  --exit-with-stdin";
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .arg(cargo_bin("unanimous"))
        .arg(home.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    for line in lines {
        said.push(line);
        if said.last().unwrap().contains("the log is open") {
            // It ends, and the lines with it.
            drop(child.stdin.take());
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said:?}");
    let warned = said.iter().find(|line| line.contains("the log lies in memory (tmpfs)"));
    assert!(warned.is_some_and(|line| line.contains("WARN")), "{said:?}");
}

#[test]
fn b_08_a_port_in_use_is_told_with_its_option() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let shown = dir.to_str().unwrap();
    for option in ["--listen", "--admin-listen"] {
        let said = run(&["serve", "--init", "--data-dir", shown, option, &address]);
        assert_fails(&said, 1, "PORT_IN_USE");
        assert!(said.stderr.contains(&address) && said.stderr.contains(option), "{said:?}");
        assert!(!dir.exists());
    }
}

#[test]
fn a_coordinator_that_cannot_start_says_why() {
    let home = tempfile::tempdir().unwrap();
    assert_fails(&serve(&home.path().join("missing"), &[]), 5, "LOG_NOT_INITIALISED");
    assert!(!home.path().join("missing").exists());
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_fails(&serve(&empty, &[]), 5, "LOG_NOT_INITIALISED");
    std::fs::write(empty.join("letter"), "dear").unwrap();
    assert_fails(&serve(&empty, &["--init"]), 5, "LOG_FOREIGN");

    for everywhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        for option in ["--listen", "--admin-listen"] {
            let open = run(&["serve", "--init", "--data-dir", "x", option, everywhere]);
            assert_fails(&open, 2, "INSECURE_LISTEN");
        }
    }
    assert!(!Path::new("x").exists());
}

/// Of the records' own bytes; [`a_damaged_log_ends_with_9_and_stays_as_it_is`] has another file.
#[test]
fn s_02_a_flipped_byte_ends_with_9_and_is_told_with_its_place() {
    let mut served = Served::start();
    served.until_serving();
    assert_eq!(served.terminate().code, Some(0));
    let dir = served.data_dir();
    let frame = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"UNFR");
    let (file, mut bytes, at) = bytes_of(&dir)
        .into_iter()
        .find_map(|(file, bytes)| frame(&bytes).map(|at| (file, bytes, at)))
        .unwrap();
    bytes[at + 40] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let before = bytes_of(&dir);
    let shown = dir.to_str().unwrap();
    let place = format!("LSN 1 cannot be read, after file {} offset 0", file.display());
    for said in [serve(&dir, &[]), run(&["log", "verify", shown]), run(&["log", "dump", shown])] {
        assert_fails(&said, 9, "LOG_DAMAGED");
        assert!(said.stderr.contains(&place), "{said:?}");
    }
    assert!(bytes_of(&dir) == before, "the directory was changed");
}

/// B-11: with `log dump` the records before the damage are still worth reading.
#[test]
fn b_11_commands_that_look_at_a_log_are_given_something_else() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), [0x55; 10_000]).unwrap();
    std::fs::create_dir(at("foreign")).unwrap();
    std::fs::write(at("foreign/letter"), "dear\u{1b}[2J").unwrap();
    std::fs::create_dir(at("forged")).unwrap();
    for name in ["identity", "witness"] {
        std::fs::write(home.path().join("forged").join(name), [0xff; 8_192]).unwrap();
    }
    let given =
        [("file", 1, "LOG_IO"), ("foreign", 5, "LOG_FOREIGN"), ("forged", 5, "LOG_FOREIGN")];
    for (name, exit, code) in given {
        for command in ["verify", "dump"] {
            let before = bytes_of(home.path());
            let said = run(&["log", command, &at(name), "-o", "json"]);
            assert_fails(&said, exit, code);
            assert!(
                said.stderr.contains(&at(name)) && !said.stderr.contains("panicked"),
                "{said:?}"
            );
            assert!(bytes_of(home.path()) == before, "{name}: changed");
        }
    }
}

#[test]
fn a_damaged_log_ends_with_9_and_stays_as_it_is() {
    let mut served = Served::start();
    served.until_serving();
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
    served.until_serving();
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
    served.until_serving();
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
