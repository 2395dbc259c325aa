//! Configuration as people meet it: the written file, every error, and what `serve` makes of it.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use support::{Said, assert_fails, eventually, run, unanimous};
use tempfile::TempDir;

/// A directory with one file of this text.
fn file(text: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("u.toml");
    std::fs::write(&path, text).unwrap();
    (home, path)
}

fn check(path: &Path) -> Said {
    unanimous(&["config", "check"]).arg(path).output().unwrap().into()
}

/// Everything `config check` says about this text, the file's path replaced by FILE.
#[track_caller]
fn told(text: &str) -> String {
    let (_home, path) = file(text);
    let said = check(&path);
    assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:?}");
    without_explain(&said.stderr.replace(path.to_str().unwrap(), "FILE"))
}

/// Without the last line of every error, which names its page.
fn without_explain(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("        or unanimous explain "));
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// `config show -o json` in this environment.
fn shown(environment: &[(&str, &str)], args: &[&str]) -> Said {
    let mut command = unanimous(&["config", "show", "-o", "json"]);
    command.args(args).envs(environment.iter().copied()).output().unwrap().into()
}

fn setting<'a>(shown: &'a Value, key: &str) -> &'a Value {
    let settings = shown["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap()
}

/// `UNANIMOUS_BLESS=1` writes the file as it is now.
#[test]
fn the_written_file_is_as_it_was_read() {
    let said = run(&["config", "init"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config.toml");
    if std::env::var_os("UNANIMOUS_BLESS").is_some() {
        std::fs::write(path, &said.stdout).unwrap();
    }
    assert_eq!(said.stdout, std::fs::read_to_string(path).unwrap());
}

#[test]
fn what_is_written_can_be_read_again_and_nothing_is_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("u.toml");
    let shown_path = path.to_str().unwrap();
    let said = run(&["config", "init", shown_path]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(check(&path).stdout, format!("{shown_path}: OK\n"));
    assert_eq!(run(&["config", "check", shown_path, "-o", "json"]).json()["ok"], true);

    std::fs::write(&path, "[limits]\n").unwrap();
    assert_fails(&run(&["config", "init", shown_path]), 5, "CONFIG_EXISTS");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "[limits]\n");
    assert_fails(&run(&["config", "init", "/nowhere/at/all"]), 1, "IO");

    let written = run(&["config", "init"]).stdout;
    let mut child = unanimous(&["config", "check", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(written.as_bytes()).unwrap();
    let checked = child.wait_with_output().unwrap();
    assert_eq!(checked.status.code(), Some(0));
    assert_eq!(checked.stdout, b"/dev/stdin: OK\n");
}

#[test]
fn the_stronger_place_wins_and_is_shown() {
    let (_home, path) = file("[listen]\nsessions = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n");
    let config = path.to_str().unwrap();
    let in_file = shown(&[], &["--config", config]).json();
    let expected = json!({
        "key": "listen.sessions",
        "value": "127.0.0.1:1",
        "source": "file",
        "place": format!("{config}:2"),
        "default": "127.0.0.1:7450",
    });
    assert_eq!(setting(&in_file, "listen.sessions"), &expected);
    assert_eq!(setting(&in_file, "log.data_dir")["value"], Value::Null);
    assert_eq!(setting(&in_file, "log.data_dir")["source"], "default");

    let variables = [("UNANIMOUS_CONFIG", config), ("UNANIMOUS_LISTEN", "127.0.0.1:3")];
    let in_environment = shown(&variables, &[]).json();
    let of = |shown: &Value, key: &str| {
        let setting = setting(shown, key);
        [&setting["value"], &setting["place"]].map(|value| value.as_str().unwrap().to_owned())
    };
    assert_eq!(of(&in_environment, "listen.sessions"), ["127.0.0.1:3", "UNANIMOUS_LISTEN"]);
    assert_eq!(of(&in_environment, "listen.admin"), ["127.0.0.1:2", &format!("{config}:3")]);
    let on_line = shown(&variables, &["--listen", "127.0.0.1:4"]).json();
    assert_eq!(of(&on_line, "listen.sessions"), ["127.0.0.1:4", "--listen"]);

    let table = run(&["config", "show", "--data-dir", "/d"]).stdout;
    let row = table.lines().find(|line| line.starts_with("log.data_dir ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["log.data_dir", "/d", "--data-dir"]);
    let keys = run(&["config", "show", "-o", "id"]).stdout.lines().count();
    assert_eq!(run(&["config", "show", "-o", "jsonl"]).stdout.lines().count(), keys);
    assert!(run(&["config", "show", "-o", "yaml"]).stdout.contains("key: log.data_dir"));
}

#[test]
fn b_08_an_unknown_key_is_told_with_the_one_that_was_meant() {
    assert_eq!(
        told("[listen]\n\n# a comment\n\n\n[limits]\ntransactons_max = 5\n"),
        "error[CONFIG_UNKNOWN_KEY]: unknown key limits.transactons_max in FILE line 7\n  \
         why:  a key that nobody reads would be a setting without effect\n  \
         next: limits.transactions_max\n"
    );
    let next = |text: &str| told(text).lines().last().unwrap().trim().to_owned();
    assert_eq!(next("[limits]\nkeepalive = \"1s\"\n"), "next: timeouts.keepalive");
    assert_eq!(next("data_dir = \"/d\"\n"), "next: log.data_dir");
    assert_eq!(next("data_dri = \"/d\"\n"), "next: log.data_dir");
    assert_eq!(next("[log]\nmax_queue_bytes = \"1B\"\n"), "next: log.queue_bytes_max");
    assert_eq!(next("[log]\nx = 1\n"), "next: unanimous config init, to see every key");
    assert_eq!(
        told("\n[limit]\ntransactions_max = 5\nbranches_max = 5\n"),
        "error[CONFIG_UNKNOWN_SECTION]: unknown section [limit] in FILE line 2\n  \
         why:  keys that nobody reads would be settings without effect\n  \
         next: [limits]\n"
    );
}

/// Values that are refused, and what is said about them.
const BAD_VALUES: [(&str, &str); 10] = [
    (
        "[limits]\ntransactions_max = \"many\"",
        "limits.transactions_max = \"many\" in FILE line 2\n  \
         why:  must be a whole number from 1 to 1000000000\n  \
         next: transactions_max = 200000\n",
    ),
    (
        "[limits]\nmessage_bytes_max = 1_048_576",
        "limits.message_bytes_max = 1_048_576 in FILE line 2\n  \
         why:  must be a size in text, with its unit (B, KiB, MiB, GiB, TiB), from 1B to \
         1024TiB\n  \
         next: message_bytes_max = \"1MiB\"\n",
    ),
    (
        "[timeouts]\ntimeout_default = 30",
        "timeouts.timeout_default = 30 in FILE line 2\n  \
         why:  must be a time in text, with its units (ms, s, m, h, d), from 1ms to \
         365d\n  \
         next: timeout_default = \"30s\"\n        or timeout_default = \"30ms\"\n",
    ),
    (
        "[listen]\nsessions = \"localhost\"",
        "listen.sessions = \"localhost\" in FILE line 2\n  \
         why:  must be an IP address and a port in text\n  \
         next: sessions = \"127.0.0.1:7450\"\n",
    ),
    (
        "[listen]\ninsecure = 1",
        "listen.insecure = 1 in FILE line 2\n  \
         why:  must be true or false\n  \
         next: insecure = false\n",
    ),
    (
        "[log]\ndata_dir = \"\"",
        "log.data_dir = \"\" in FILE line 2\n  \
         why:  must be a path in text, and not empty\n  \
         next: data_dir = \"/var/lib/unanimous\"\n",
    ),
    (
        "[log]\nslot = 65536",
        "log.slot = 65536 in FILE line 2\n  \
         why:  must be a whole number from 0 to 65535\n  \
         next: slot = 0\n",
    ),
    (
        "[process]\nlog_level = \"a=b=c\"",
        "process.log_level = \"a=b=c\" in FILE line 2\n  \
         why:  must be error, warn, info, debug, trace, or directives as \
         \"info,unanimous_server=debug\"\n  \
         next: log_level = \"info\"\n",
    ),
    (
        "[process]\nlog_format = \"Json\"",
        "process.log_format = \"Json\" in FILE line 2\n  \
         why:  must be \"human\" or \"json\"\n  \
         next: log_format = \"human\"\n",
    ),
    (
        "limits = 5",
        "limits = 5 in FILE line 1\n  \
         why:  limits is a section, with its keys on the lines below [limits]\n  \
         next: [limits]\n",
    ),
];

#[test]
fn b_08_a_bad_value_is_told_with_its_rule_and_a_good_one() {
    for (text, expected) in BAD_VALUES {
        assert_eq!(told(text), format!("error[CONFIG_BAD_VALUE]: {expected}"));
    }
    for value in
        ["{}", "[1]", "1.5", "-1", "2026-01-01", "99999999999999999999999", "\"\"\"\n5\"\"\""]
    {
        let said = told(&format!("[limits]\ncalls_max = {value}\n"));
        assert!(said.starts_with("error[CONFIG_BAD_VALUE]: limits.calls_max = "), "{said}");
    }
    let long = told(&format!("[log]\nqueue_bytes_max = \"{}\"\n", "é".repeat(1_000)));
    assert!(long.lines().next().unwrap().chars().count() < 140, "{long}");
}

#[test]
fn contradictions_are_told_all_at_once() {
    assert_eq!(
        told("[queues]\nsession_queue = 5\n[timeouts]\ntimeout_max = \"1s\"\n"),
        "error[CONFIG_CONTRADICTION]: queues.session_queue = 5 in FILE line 2\n  \
         why:  at least events_queue + calls_per_client_max, 16384\n  \
         next: session_queue = 16384\n\
         error[CONFIG_CONTRADICTION]: timeouts.timeout_default = \"30s\" (the default)\n  \
         why:  must not be above timeouts.timeout_max = \"1s\": every Begin without a time-out of \
         its own would be refused\n  \
         next: unanimous config init, to see every key\n"
    );
    let all = [
        "[limits]\nbranches_max = 1_000",
        "[limits]\nmessage_bytes_max = \"1KiB\"",
        "[queues]\nevents_queue = 1_000_000",
        "[retries]\nretry_min = \"1h\"",
        "[listen]\nadmin = \"127.0.0.1:7450\"",
        "[log]\ndata_dir = \"/d\"\nsecond_dir = \"/d\"",
    ];
    for text in all {
        let said = told(text);
        assert!(said.starts_with("error[CONFIG_CONTRADICTION]: "), "{said}");
        assert_eq!(said.matches("error[").count(), 1, "{said}");
    }
    let open = "[listen]\nsessions = \"0.0.0.0:7450\"\n";
    let (_home, path) = file(open);
    assert_fails(&check(&path), 2, "INSECURE_LISTEN");
    std::fs::write(&path, format!("{open}insecure = true\n")).unwrap();
    assert_eq!(check(&path).code, Some(0));
}

#[test]
fn every_problem_is_listed_in_the_order_of_the_file() {
    let text = "[limits]\ncalls_max = 0\ncall_max = 1\n[log]\nslot = x\n\n[los]\ncalls_max = 2\n";
    let said = told(text);
    let codes: Vec<_> = said.lines().filter(|line| line.starts_with("error[")).collect();
    let expected = [
        "error[CONFIG_BAD_VALUE]: limits.calls_max = 0 in FILE line 2",
        "error[CONFIG_UNKNOWN_KEY]: unknown key limits.call_max in FILE line 3",
        "error[CONFIG_SYNTAX]: FILE line 5 is not TOML",
        "error[CONFIG_UNKNOWN_SECTION]: unknown section [los] in FILE line 7",
    ];
    assert_eq!(codes, expected, "{said}");

    let (_home, path) = file(text);
    let said = run(&["config", "check", path.to_str().unwrap(), "-o", "json"]);
    assert_fails(&said, 2, "CONFIG_UNKNOWN_SECTION");
    let problems = said.json();
    assert_eq!(problems["ok"], false);
    let lines: Vec<_> = problems["problems"].as_array().unwrap().iter().collect();
    assert_eq!(lines.iter().map(|one| &one["line"]).collect::<Vec<_>>(), [2, 3, 5, 7]);
    assert_eq!(lines[1]["key"], "limits.call_max");
    assert_eq!(lines[1]["next"], json!(["limits.calls_max"]));

    let twice = told("[limits]\ncalls_max = 1\ncalls_max = 2\n");
    assert!(twice.starts_with("error[CONFIG_SYNTAX]: FILE line 3 is not TOML\n"), "{twice}");
    let many = told(&(0..30).map(|n| format!("zz{n} = 1\n")).collect::<String>());
    assert_eq!(many.matches("error[").count(), 21);
    assert!(many.contains("error[CONFIG_MANY_PROBLEMS]: and 10 more problems\n"), "{many}");
}

#[test]
fn what_is_no_configuration_is_refused() {
    let home = tempfile::tempdir().unwrap();
    assert_fails(&check(home.path()), 2, "CONFIG_UNREADABLE");
    assert_fails(&check(&home.path().join("missing")), 2, "CONFIG_UNREADABLE");
    assert_fails(&check(Path::new("/dev/zero")), 2, "CONFIG_UNREADABLE");
    let (_home, path) = file(vec![b'#'; (1 << 20) + 1]);
    assert_fails(&check(&path), 2, "CONFIG_UNREADABLE");
    let (_home, path) = file(vec![b'#'; 1 << 20]);
    assert_eq!(check(&path).code, Some(0));
    let (_home, path) = file(b"[limits]\n\n\xff\xfe\x00");
    let said = check(&path);
    assert_fails(&said, 2, "CONFIG_SYNTAX");
    assert!(said.stderr.contains(" line 3 is not TOML\n"), "{said:?}");
    for garbage in ["\0\u{1}\u{1b}[2J\n", "[[[[", "= = =", "[limits", "\"", "limits", "]\n[\n]"] {
        let said = told(garbage);
        assert!(said.contains("error[CONFIG_SYNTAX]: FILE line 1 "), "{garbage:?}: {said}");
        assert!(!said.contains('\u{1b}'), "{garbage:?}");
    }
    let (_home, path) = file("[".repeat(500_000));
    assert_eq!(check(&path).code, Some(2));
    for nothing in ["", "\n\n", "# nothing\n", "\u{feff}[limits]\n", "[limits]\r\n"] {
        let (_home, path) = file(nothing);
        assert_eq!(check(&path).code, Some(0), "{nothing:?}");
    }
}

#[test]
fn the_environment_is_read_as_strictly_as_the_file() {
    let bad = shown(&[("UNANIMOUS_LIMITS_CALLS_MAX", "many")], &[]);
    assert_fails(&bad, 2, "CONFIG_BAD_VALUE");
    assert_eq!(
        without_explain(&bad.stderr),
        "error[CONFIG_BAD_VALUE]: limits.calls_max = many from UNANIMOUS_LIMITS_CALLS_MAX in the \
         environment\n  \
         why:  must be a whole number from 1 to 1000000000\n  \
         next: UNANIMOUS_LIMITS_CALLS_MAX=400000\n"
    );
    for (name, value) in [
        ("UNANIMOUS_DATA_DIR", ""),
        ("UNANIMOUS_INSECURE", "yes"),
        ("UNANIMOUS_LOG_LEVEL", " "),
        ("UNANIMOUS_TIMEOUTS_DRAIN", "10"),
        ("UNANIMOUS_LOG_QUEUE_BYTES_MAX", "1"),
    ] {
        assert_fails(&shown(&[(name, value)], &[]), 2, "CONFIG_BAD_VALUE");
    }
    for (slip, meant) in [
        ("UNANIMOUS_DATA_DIRR", "UNANIMOUS_DATA_DIR"),
        ("UNANIMOUS_LOG_DATA_DIR", "UNANIMOUS_DATA_DIR"),
        ("UNANIMOUS_LITSEN", "UNANIMOUS_LISTEN"),
        ("UNANIMOUS_CONFG", "UNANIMOUS_CONFIG"),
    ] {
        let said = shown(&[(slip, "x")], &[]);
        assert_fails(&said, 2, "CONFIG_UNKNOWN_VARIABLE");
        assert!(said.stderr.contains(meant), "{said:?}");
    }
    // Set by test builds, and by Kubernetes for a service of that name.
    let strange = [("UNANIMOUS_CRASH_POINT", "x"), ("UNANIMOUS_PORT", "tcp://1.2.3.4:7450")];
    let said = shown(&strange, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        said.stderr,
        "warning: nobody reads UNANIMOUS_CRASH_POINT in the environment\n\
         warning: nobody reads UNANIMOUS_PORT in the environment\n"
    );
    let flag = run(&["config", "show", "--log-level", "a=b=c"]);
    assert_fails(&flag, 2, "CONFIG_BAD_VALUE");
    assert!(flag.stderr.contains("= a=b=c from --log-level on the command line"), "{flag:?}");
}

/// The limits of the file are the limits of the coordinator.
#[test]
fn serve_obeys_the_file() {
    let (home, path) = file("");
    let ports = home.path().join("ports");
    let data = home.path().join("data");
    let text = format!(
        "[listen]\nsessions = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [log]\ndata_dir = {data:?}\n\
         [timeouts]\ntimeout_default = \"5s\"\ntimeout_max = \"5s\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let mut child = unanimous(&["serve", "--init", "--exit-with-stdin", "--config"])
        .arg(&path)
        .arg("--port-file")
        .arg(&ports)
        .env("UNANIMOUS_STRANGER", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = eventually("the port file", || std::fs::read_to_string(&ports).ok());
    let ports: Value = serde_json::from_str(&written).unwrap();
    let sessions = format!("http://{}", ports["sessions"].as_str().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = unanimous_sdk::Client::connect(&sessions, "test").await.unwrap();
        let longer = client.begin("longer").timeout(Duration::from_millis(5_001)).await;
        assert!(longer.is_err(), "timeouts.timeout_max is 5s");
        let tx = client.begin("fitting").timeout(Duration::from_secs(5)).await.unwrap();
        tx.commit().await.unwrap();
    });
    drop(child.stdin.take());
    let said: Said = child.wait_with_output().unwrap().into();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("UNANIMOUS_STRANGER"), "{said:?}");
    assert!(data.is_dir());
}

#[test]
fn b_08_serve_tells_every_problem_and_touches_nothing() {
    let (home, path) = file("[limits]\ncalls_max = 0\nx = 1\n");
    let data = home.path().join("data");
    let mut command = unanimous(&["serve", "--init", "--config"]);
    let said: Said = command.arg(&path).arg("--data-dir").arg(&data).output().unwrap().into();
    assert_fails(&said, 2, "CONFIG_UNKNOWN_KEY");
    assert!(said.stderr.starts_with("error[CONFIG_BAD_VALUE]: "), "{said:?}");
    assert!(!data.exists());
    assert_fails(&run(&["serve", "--config", "/nowhere"]), 2, "CONFIG_UNREADABLE");
    for alone in ["--degraded", "--rebuild"] {
        let one = ["serve", "--init", "--exit-with-stdin", "--data-dir"];
        let said = unanimous(&one).arg(&data).arg(alone).output().unwrap().into();
        assert_fails(&said, 2, "USAGE");
        assert!(!data.exists());
    }
    std::fs::write(&path, "").unwrap();
    let said = unanimous(&["serve", "--config"]).arg(&path).output().unwrap().into();
    assert_fails(&said, 2, "USAGE");
}

/// What is set for a coordinator of one's own does not reach the one that `dev` starts.
#[test]
fn dev_has_settings_of_its_own() {
    let output = unanimous(&["dev", "--run-for", "1s", "-o", "json"])
        .env("UNANIMOUS_CONFIG", "/nowhere")
        .env("UNANIMOUS_LIMITS_TRANSACTIONS_MAX", "none")
        .output()
        .unwrap();
    let said = Said::from(output);
    assert_eq!(said.code, Some(0), "{said:?}");
}
