//! Who is let in, through the real binary: certificates, tokens, files that are wrong, files that
//! are replaced, and no secret anywhere.
#![allow(clippy::unwrap_used)]

mod support;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType, date_time_ymd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::guarded::{Guarded, Home, with_cert, with_token, write_secret};
use support::{Said, assert_fails, eventually, run};
use tempfile::TempDir;
use unanimous_sdk::embedded::{Accounts, Opening};
use unanimous_sdk::{Attached, Client, Credentials, Participant, Wait};

/// An id of the right form that nobody has.
const NOBODYS: &str = "010000000000000000000100000001000000000000000000";

fn serving(guarded: &Guarded, options: &[String]) {
    eventually("serving", || (guarded.ask(&["status"], options).code == Some(0)).then_some(()));
}

/// A certificate of this authority that only a test would make.
fn odd(home: &Home, name: &str, change: impl FnOnce(&mut CertificateParams)) {
    let key = std::fs::read_to_string(home.path("ca").join("ca.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap();
    let digits: String =
        key.public_key_raw()[1..5].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = rcgen::DistinguishedName::new();
    let issued_by = format!("unanimous authority {digits}");
    authority.distinguished_name.push(DnType::CommonName, issued_by);
    let issuer = Issuer::new(authority, key);
    let mut params = CertificateParams::default();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(home.path("ca").join(format!("{name}.pem")), cert.pem()).unwrap();
    write_secret(&home.path("ca").join(format!("{name}.key")), &key.serialize_pem());
}

/// reliability.md Z-06: refused, with a clear message on both sides.
#[test]
fn z_06_each_certificate_that_is_wrong_is_refused_and_both_sides_say_why() {
    let (home, other) = (Home::make(), Home::make());
    home.cert(&["client", "alice", "--role", "operator"]);
    other.cert(&["client", "alice", "--role", "operator"]);
    odd(&home, "old", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 2, 3);
    });
    let guarded = Guarded::start(&home, home.serve());
    serving(&guarded, &with_cert(&home, "alice"));

    let mut foreign = with_cert(&other, "alice");
    foreign[1] = with_cert(&home, "alice")[1].clone();
    let mut nameless = with_cert(&home, "alice");
    nameless.extend(["--server-name".to_owned(), "nowhere".to_owned()]);
    let nobody = with_cert(&home, "alice")[..2].to_vec();
    let taken = [
        (with_cert(&home, "old"), "NOT_AUTHENTICATED", 7, "CertificateExpired", "expired"),
        (foreign, "NOT_AUTHENTICATED", 7, "received fatal alert", "its certificate is not taken"),
        (nobody, "NOT_AUTHENTICATED", 7, "CertificateRequired", "has shown no certificate"),
        (with_cert(&home, "server"), "NOT_AUTHENTICATED", 7, "fatal alert", "client authent"),
        (with_cert(&other, "alice"), "TLS_FAILED", 3, "UnknownIssuer", "UnknownCA"),
        (nameless, "TLS_FAILED", 3, "nowhere", "BadCertificate"),
    ];
    for (options, code, exit, here, there) in taken {
        let said = guarded.ask(&["status"], &options);
        assert_fails(&said, exit, code);
        assert!(said.stderr.contains(here), "{here}: {said:?}");
        guarded.until_told(there, 1);
    }
    // Both ports, and no encryption on one side only.
    for (option, address) in [("--admin-address", &guarded.admin), ("--address", &guarded.sessions)]
    {
        let plain = address.replacen("https", "http", 1);
        let said = match option {
            "--address" => run(&["tx", "outcome", NOBODYS, option, &plain]),
            _ => run(&["status", option, &plain]),
        };
        assert_fails(&said, 3, "TLS_FAILED");
        assert!(said.stderr.contains("https://"), "{said:?}");
    }
    guarded.until_told("it speaks no TLS", 1);
}

/// The SDK says why, too.
#[tokio::test(flavor = "multi_thread")]
async fn z_06_a_participant_is_told_why_it_is_not_let_in() {
    let home = Home::make();
    home.cert(&["participant", "bank-a"]);
    home.cert(&["client", "alice", "--role", "operator"]);
    let guarded = Guarded::start(&home, home.serve());
    let not_here = home.path("ca").join("alice.pem");
    let wrong = [
        ("bank-b", credentials(&home, "bank-a"), "may not take part as"),
        ("bank-a", credentials(&home, "alice"), "is no participant"),
        ("bank-a", credentials(&home, "bank-a").ca(not_here), "UnknownIssuer"),
        ("bank-a", Credentials::new().ca(home.path("ca").join("ca.pem")), "CertificateRequired"),
    ];
    for (name, credentials, why) in wrong {
        let bank = Bank::open(&guarded, name, credentials).await;
        let patience = Duration::from_millis(500);
        let told = eventually_async(|| async {
            let told = bank.participant.connected(patience).await.unwrap_err().to_string();
            told.contains(why).then_some(told)
        });
        assert!(told.await.contains(why));
        bank.close().await;
    }
    let bank = Bank::open(&guarded, "bank-a", credentials(&home, "bank-a")).await;
    bank.participant.connected(Duration::from_secs(20)).await.unwrap();
    bank.close().await;
}

/// A client has only its log to say it: once, and not each time that it dials.
#[tokio::test]
async fn z_06_a_client_says_in_its_log_why_it_is_not_let_in() {
    let home = Home::make();
    home.cert(&["participant", "bank-a"]);
    let guarded = Guarded::start(&home, home.serve());
    let log = home.path("sdk.log");
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::sync::Mutex::new(std::fs::File::create(&log).unwrap()))
        .finish();
    let told = tracing::subscriber::set_default(subscriber);
    let client = Client::builder(guarded.sessions.clone(), "shop")
        .credentials(credentials(&home, "bank-a"))
        .begin_within(Duration::from_secs(2))
        .connect()
        .unwrap();
    client.begin("transfer").await.unwrap_err();
    drop(told);
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("no session with the coordinator").count(), 1, "{log}");
    assert!(log.contains("WARN") && log.contains("is no client"), "{log}");
}

async fn eventually_async<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it did not come to that")
}

fn credentials(home: &Home, name: &str) -> Credentials {
    let dir = home.path("ca");
    let file = |name: String| dir.join(name);
    Credentials::new()
        .ca(file("ca.pem".to_owned()))
        .certificate(file(format!("{name}.pem")), file(format!("{name}.key")))
}

struct Bank {
    accounts: Attached<Accounts>,
    participant: Participant,
    /// Goes last: without its directory the log fails.
    _dir: TempDir,
}

impl Bank {
    async fn open(guarded: &Guarded, name: &str, credentials: Credentials) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opening = Opening { init: Some((64, 1_000)), ..Opening::default() };
        let store = Accounts::open(&dir.path().join("store"), opening).unwrap();
        let mut builder = Participant::builder(name)
            .coordinator(guarded.sessions.clone())
            .credentials(credentials);
        let accounts = builder.attach(format!("{name}/accounts"), store);
        let participant = builder.start().await.unwrap();
        Self { accounts, participant, _dir: dir }
    }

    async fn close(self) {
        self.participant.stop().await;
        self.accounts.close().unwrap();
    }
}

/// One transfer between two accounts of this number.
async fn transfer(client: &Client, from: &Bank, to: &Bank, account: u32) {
    let tx = client.begin("transfer").await.unwrap();
    let (debit, credit) = (from.accounts.join(&tx.context()), to.accounts.join(&tx.context()));
    let (debit, credit) = (debit.await.unwrap(), credit.await.unwrap());
    debit.debit(account, 1).unwrap();
    credit.credit(account, 1).unwrap();
    debit.end();
    credit.end();
    tx.wait(Wait::Completed).commit().await.unwrap();
}

fn copy(home: &Home, from: &str, to: &str) {
    // Aside and renamed: nobody ever reads half of it.
    let (from, to) = (home.path(from), home.path(to));
    let aside = to.with_extension("part");
    std::fs::copy(&from, &aside).unwrap();
    std::fs::rename(&aside, &to).unwrap();
}

/// reliability.md Z-07: the coordinator's certificate, then the authority, then everybody's, are
/// replaced while transfers run and new connections come; each transfer commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn z_07_everything_is_replaced_under_load_and_no_transaction_fails() {
    const CLIENTS: u32 = 4;
    let (home, next) = (Home::make(), Home::make());
    for home in [&home, &next] {
        home.cert(&["participant", "bank-a"]);
        home.cert(&["participant", "bank-b"]);
        home.cert(&["client", "shop", "--role", "client"]);
        home.cert(&["client", "alice", "--role", "operator"]);
    }
    let guarded = Guarded::start(&home, home.serve());
    let a = Bank::open(&guarded, "bank-a", credentials(&home, "bank-a")).await;
    let b = Bank::open(&guarded, "bank-b", credentials(&home, "bank-b")).await;
    let done = std::sync::atomic::AtomicU32::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let load = |number: u32| {
        let (home, guarded, a, b, done, over) = (&home, &guarded, &a, &b, &done, &over);
        async move {
            let relaxed = std::sync::atomic::Ordering::Relaxed;
            while !over.load(relaxed) {
                // A connection of its own, with the files as they are now.
                let client = Client::builder(guarded.sessions.clone(), "shop")
                    .credentials(credentials(home, "shop"))
                    .connect()
                    .unwrap();
                for _ in 0..5 {
                    transfer(&client, a, b, number + 1).await;
                    done.fetch_add(1, relaxed);
                }
            }
        }
    };
    let rotate = async {
        let more = |count: u32| {
            let seen = done.load(std::sync::atomic::Ordering::Relaxed);
            let done = &done;
            eventually_async(move || async move {
                (done.load(std::sync::atomic::Ordering::Relaxed) >= seen + count).then_some(())
            })
        };
        more(20).await;
        rotations(&home, &next, &guarded, more).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let loads = futures_util::future::join_all((0..CLIENTS).map(load));
    tokio::join!(loads, rotate);
    let moved = i64::from(done.load(std::sync::atomic::Ordering::Relaxed));
    assert!(moved > 100, "{moved}");
    let sum: i64 = b.accounts.balances().iter().sum();
    assert_eq!(sum, 64 * 1_000 + moved);
    a.close().await;
    b.close().await;
}

/// A new certificate of the same authority, a file that is no certificate, both authorities, the
/// new one's certificates, and the new one alone.
async fn rotations<F: Future<Output = ()>>(
    home: &Home,
    next: &Home,
    guarded: &Guarded,
    more: impl Fn(u32) -> F,
) {
    let to = home.path("new");
    home.cert(&["server", "--host", "localhost", "--to", to.to_str().unwrap()]);
    copy(home, "new/server.key", "ca/server.key");
    copy(home, "new/server.pem", "ca/server.pem");
    guarded.reload(1);
    more(20).await;

    let good = std::fs::read(home.path("ca/server.pem")).unwrap();
    std::fs::write(home.path("ca/server.pem"), "hello").unwrap();
    guarded.hang_up();
    guarded.until_told("not read again", 1);
    more(20).await;
    std::fs::write(home.path("ca/server.pem"), good).unwrap();

    let pem = |home: &Home| std::fs::read_to_string(home.path("ca/ca.pem")).unwrap();
    let both = pem(home) + &pem(next);
    std::fs::write(home.path("ca/part"), both).unwrap();
    std::fs::rename(home.path("ca/part"), home.path("ca/ca.pem")).unwrap();
    guarded.reload(2);
    more(20).await;
    // A pair whose halves do not fit for a moment is a dial that is tried again.
    for name in ["server", "shop", "bank-a", "bank-b", "alice"] {
        for kind in ["key", "pem"] {
            let file = format!("ca/{name}.{kind}");
            std::fs::copy(next.path(&file), home.path("part")).unwrap();
            std::fs::rename(home.path("part"), home.path(&file)).unwrap();
        }
    }
    guarded.reload(3);
    more(20).await;
    std::fs::copy(next.path("ca/ca.pem"), home.path("part")).unwrap();
    std::fs::rename(home.path("part"), home.path("ca/ca.pem")).unwrap();
    guarded.reload(4);
    more(20).await;
    let options = with_cert(next, "alice");
    let said = tokio::task::block_in_place(|| guarded.ask(&["status"], &options));
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// What `serve` says of a start that does not come to be.
fn does_not_start(home: &Home, change: impl FnOnce(&mut std::process::Command)) -> Said {
    let mut serve = home.serve();
    change(&mut serve);
    let said: Said = serve.output().unwrap().into();
    assert!(!home.path("data").exists(), "{said:?}");
    said
}

/// reliability.md B-08.
#[test]
fn b_08_each_bad_file_ends_the_start_with_its_key() {
    let (home, other) = (Home::make(), Home::make());
    odd(&home, "old", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 2, 3);
    });
    let text = |name: &str, text: &str| {
        write_secret(&home.path(name), text);
        home.path(name)
    };
    let open = text("open", "x");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let digest = "0".repeat(64);
    let in_ca = |home: &Home, name: &str| home.path("ca").join(name);
    let bad: Vec<(&str, PathBuf, &str)> = vec![
        ("CERT", home.path("nowhere"), "No such file"),
        ("CERT", home.path("ca"), "not a file"),
        ("CERT", text("no.pem", "hello"), "no certificate"),
        ("CERT", in_ca(&home, "old.pem"), "expired on 2001-02-03"),
        ("KEY", home.path("nowhere"), "No such file"),
        ("KEY", open.clone(), "mode 644"),
        ("KEY", text("no.key", "hello"), "no private key"),
        ("KEY", in_ca(&other, "server.key"), "does not go with"),
        ("CLIENT_CA", text("no.ca", ""), "no certificate"),
        ("ROLES_FILE", text("roles", "alice king\n"), "line 1: \"king\" is no role"),
        ("ROLES_FILE", text("names", "a reader\n# b\na client"), "line 3: the name is there twice"),
        ("TOKENS_FILE", open, "mode 644"),
        ("TOKENS_FILE", text("tokens-1", "alice reader 00"), "line 1: the third word"),
        ("TOKENS_FILE", text("tokens-2", &format!("\na reader {digest} soon")), "line 2: the four"),
        ("TOKENS_FILE", text("tokens-3", &format!("a participant {digest}")), "line 1: \"parti"),
    ];
    for (key, path, why) in bad {
        let said = does_not_start(&home, |serve| {
            serve.env(format!("UNANIMOUS_TLS_{key}"), &path);
        });
        assert_fails(&said, 1, "ACCESS_FILE");
        let named = format!("tls.{} = {}", key.to_lowercase(), path.display());
        assert!(said.stderr.contains(&named) && said.stderr.contains(why), "{why}: {said:?}");
    }
    for (removed, added, why) in [
        ("CERT", None, "tls.cert and tls.key"),
        ("KEY", None, "tls.cert and tls.key"),
        ("CLIENT_CA", None, "nobody can be known"),
        ("nothing", Some(("UNANIMOUS_INSECURE", "true")), "listen.insecure"),
    ] {
        let said = does_not_start(&home, |serve| {
            serve.env_remove(format!("UNANIMOUS_TLS_{removed}")).envs(added);
        });
        assert_fails(&said, 2, "CONFIG_CONTRADICTION");
        assert!(said.stderr.contains(why), "{said:?}");
    }
}

#[test]
fn tokens_and_names_are_known_as_the_files_say_now() {
    let home = Home::make();
    let token = home.token("rosa", "reader");
    assert!(token.starts_with("unanimous_") && token.len() == 74, "{}", token.len());
    home.token("otto", "operator");
    odd(&home, "corp", |params| {
        let name = Ia5String::try_from("alice.corp.example").unwrap();
        let grabbed = Ia5String::try_from("unanimous:role/admin").unwrap();
        params.subject_alt_names = vec![SanType::DnsName(name), SanType::URI(grabbed)];
    });
    let roles = home.path("roles");
    std::fs::write(&roles, "# who may what\nalice.corp.example reader client\n").unwrap();
    let mut serve = home.serve();
    serve.env("UNANIMOUS_TLS_TOKENS_FILE", home.path("tokens"));
    serve.env("UNANIMOUS_TLS_ROLES_FILE", &roles);
    let guarded = Guarded::start(&home, serve);
    let (rosa, otto) = (with_token(&home, "rosa"), with_token(&home, "otto"));
    let corp = with_cert(&home, "corp");
    serving(&guarded, &rosa);

    let retry = ["tx", "retry", "31ce5540"];
    assert_fails(&guarded.ask(&retry, &otto), 4, "NOT_FOUND");
    for reader in [&rosa, &corp] {
        assert_eq!(guarded.ask(&["status"], reader).code, Some(0));
        let said = guarded.ask(&retry, reader);
        assert_fails(&said, 7, "ROLE_MISSING");
        assert!(said.stderr.contains("is no operator"), "{said:?}");
    }
    guarded.until_told("caller=\"alice.corp.example\"", 1);
    // A token is never sent unencrypted.
    let plain = guarded.admin.replacen("https", "http", 1);
    let file = home.path("rosa.token");
    let said = run(&["status", "--admin-address", &plain, "--token-file", file.to_str().unwrap()]);
    assert_fails(&said, 2, "BAD_CREDENTIALS");

    // What is taken away counts no longer.
    let lines = std::fs::read_to_string(home.path("tokens")).unwrap();
    let left = lines.lines().find(|line| line.starts_with("otto")).unwrap();
    write_secret(&home.path("tokens"), &format!("{left}\n"));
    std::fs::write(&roles, "somebody.else operator\n").unwrap();
    guarded.reload(1);
    let said = guarded.ask(&["status"], &rosa);
    assert_fails(&said, 7, "NOT_AUTHENTICATED");
    assert!(said.stderr.contains("the token is not known"), "{said:?}");
    assert_fails(&guarded.ask(&["status"], &corp), 7, "ROLE_MISSING");
    assert_eq!(guarded.ask(&["status"], &otto).code, Some(0));
}

/// The must-show: everywhere without certificates is an error, or a warning if it is meant so.
#[test]
fn everywhere_without_certificates_is_an_error_or_a_loud_warning() {
    let home = tempfile::tempdir().unwrap();
    let (data, ports) = (home.path().join("data"), home.path().join("ports"));
    let args = ["serve", "--init", "--listen", "0.0.0.0:0"];
    let serve = |more: &[&str]| {
        let mut command = support::unanimous(&[&args[..], more].concat());
        command.args(["--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        command.arg("--port-file").arg(&ports);
        command
    };
    let refused: Said = serve(&[]).output().unwrap().into();
    assert_fails(&refused, 2, "INSECURE_LISTEN");
    assert!(!data.exists() && !ports.exists());

    let mut serve = serve(&["--insecure"]);
    let mut child = serve
        .arg("--exit-with-stdin")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let written = eventually("the port file", || std::fs::read_to_string(&ports).ok());
    let ports: serde_json::Value = serde_json::from_str(&written).unwrap();
    let admin = format!("http://{}", ports["admin"].as_str().unwrap());
    eventually("serving", || {
        (run(&["status", "--admin-address", &admin]).code == Some(0)).then_some(())
    });
    drop(child.stdin.take());
    let said: Said = child.wait_with_output().unwrap().into();
    assert!(said.stderr.contains("warning: INSECURE: whoever reaches 0.0.0.0:0"), "{said:?}");
    assert!(said.stderr.contains("WARN"), "and in the log: {said:?}");
}

/// What must be in no output: tokens, and the lines of private keys.
fn secrets(home: &Home, tokens: &[String]) -> Vec<String> {
    let mut secrets = tokens.to_vec();
    for entry in std::fs::read_dir(home.path("ca")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "key") {
            let text = std::fs::read_to_string(path).unwrap();
            secrets.extend(text.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
        }
    }
    // Shown byte by byte, as a careless `{:?}` does.
    let bytes =
        |secret: &String| format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).into();
    let shown: Vec<String> = secrets.iter().map(bytes).collect();
    [secrets, shown].concat()
}

fn assert_none_in(secrets: &[String], place: &str, text: &str) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{place} shows {}...", &secret[..12]);
    }
}

#[test]
fn no_secret_is_in_any_output_at_any_level() {
    let home = Home::make();
    home.cert(&["client", "alice", "--role", "operator"]);
    let tokens = [home.token("rosa", "reader"), home.token("carl", "client")];
    let mut serve = home.serve();
    serve.env("UNANIMOUS_TLS_TOKENS_FILE", home.path("tokens")).args(["--log-level", "trace"]);
    let guarded = Guarded::start(&home, serve);
    let secrets = secrets(&home, &tokens);
    assert!(secrets.len() >= 12, "{}", secrets.len());
    serving(&guarded, &with_token(&home, "rosa"));
    let asked: [&[&str]; 4] =
        [&["status"], &["tx", "list"], &["tx", "retry", "31ce5540"], &["doctor", "-o", "json"]];
    for args in asked {
        for options in [with_token(&home, "rosa"), with_cert(&home, "alice")] {
            let said = guarded.ask(args, &options);
            assert_none_in(&secrets, "a command", &format!("{said:?}"));
        }
    }
    // Files that are not what they should be are told of, never shown.
    let key = home.path("ca").join("alice.key").to_str().unwrap().to_owned();
    let token = home.path("rosa.token").to_str().unwrap().to_owned();
    let ca = home.path("ca").join("ca.pem").to_str().unwrap().to_owned();
    let mixed: [&[&str]; 4] = [
        &["--ca", &key],
        &["--ca", &ca, "--token-file", &key],
        &["--ca", &ca, "--cert", &token, "--key", &token],
        &["--ca", &token],
    ];
    for options in mixed {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let said = guarded.ask(&["status"], &options);
        assert_ne!(said.code, Some(0));
        assert_none_in(&secrets, "a command", &format!("{said:?}"));
    }
    for (variable, file) in
        [("CERT", &key), ("KEY", &token), ("TOKENS_FILE", &token), ("ROLES_FILE", &key)]
    {
        let said: Said = home
            .serve()
            .env(format!("UNANIMOUS_TLS_{variable}"), file)
            .args(["--log-level", "trace"])
            .output()
            .unwrap()
            .into();
        assert_fails(&said, 1, "ACCESS_FILE");
        assert_none_in(&secrets, "serve", &format!("{said:?}"));
    }
    guarded.hang_up();
    guarded.until_told("are read again", 1);
    let log = guarded.log();
    assert!(log.contains("TRACE h2"), "the log is at trace level");
    assert_none_in(&secrets, "the log", &log);
}

/// As programs show what they hold.
#[tokio::test]
async fn no_secret_is_in_what_the_sdk_writes_at_any_level() {
    let home = Home::make();
    let token = home.token("carl", "client");
    home.cert(&["participant", "bank-a"]);
    let mut serve = home.serve();
    serve.env("UNANIMOUS_TLS_TOKENS_FILE", home.path("tokens"));
    let guarded = Guarded::start(&home, serve);
    let log = home.path("sdk.log");
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::sync::Mutex::new(std::fs::File::create(&log).unwrap()))
        .finish();
    let told = tracing::subscriber::set_default(subscriber);
    let as_carl =
        Credentials::new().ca(home.path("ca").join("ca.pem")).token_file(home.path("carl.token"));
    let client = Client::builder(guarded.sessions.clone(), "shop").credentials(as_carl.clone());
    let shown = format!("{client:?} {as_carl:?}");
    let client = client.connect().unwrap();
    client.begin("nothing").await.unwrap().commit().await.unwrap();
    let bank = Bank::open(&guarded, "bank-a", credentials(&home, "bank-a")).await;
    bank.participant.connected(Duration::from_secs(20)).await.unwrap();
    let shown = format!("{shown} {client:?} {:?}", bank.participant);
    bank.close().await;
    drop(told);
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("TRACE") && log.contains("h2"), "it was told at trace level");
    let secrets = secrets(&home, &[token]);
    assert_none_in(&secrets, "the SDK's log", &log);
    assert_none_in(&secrets, "Debug", &shown);
}

#[test]
fn nothing_is_written_over_and_keys_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::make();
    let before = support::bytes_of(&home.path("ca"));
    let authority = home.path("ca");
    let authority = authority.to_str().unwrap();
    let again: [&[&str]; 3] = [
        &["cert", "init", authority],
        &["cert", "server", "--host", "localhost", "--authority", authority],
        &["cert", "client", "server", "--role", "admin", "--authority", authority],
    ];
    for args in again {
        assert_fails(&run(args), 5, "CERT_EXISTS");
    }
    assert_eq!(support::bytes_of(&home.path("ca")), before);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for (path, _) in &before {
        let secret = path.extension().is_some_and(|extension| extension == "key");
        assert_eq!(mode(path), if secret { 0o600 } else { 0o644 }, "{}", path.display());
    }
    home.token("rosa", "reader");
    assert_eq!(mode(&home.path("rosa.token")), 0o600);
    assert_eq!(mode(&home.path("ca")), 0o700);
}
