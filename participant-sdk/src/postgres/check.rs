//! Whether the server can do its part, and what it holds prepared: for the start, and for people.

use super::Postgres;
use super::server::{ANSWER_MAX, Row, unreadable};
use super::session::Failed;
use super::statements;
use crate::database::judge;
use crate::finding::{Finding, Severity};
use crate::resource::{Retry, Unfit};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use unanimous_core::BranchId;

/// `pg_xact_status` and its neighbours speak of 64-bit ids from here on.
const VERSION_MIN: u32 = 130_000;
/// How long a server that cannot be reached is waited for at the start.
const REACH_MAX: Duration = Duration::from_secs(20);
const REACH_EVERY: Duration = Duration::from_millis(500);
/// A branch that is prepared for longer, or that holds back the horizon by more ids, has been
/// forgotten by somebody.
const PREPARED_S_MAX: u64 = 3_600;
const XID_AGE_MAX: u64 = 10_000_000;

/// A prepared transaction of the database, as an operator needs it: it keeps its locks, and keeps
/// vacuum from removing rows, until it is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBranch {
    /// Its name at the server.
    pub gid: String,
    /// The branch, if it is one of a coordinator's; `None`: somebody else's.
    pub branch: Option<BranchId>,
    /// The role that has prepared it: only it, or a superuser, can finish it.
    pub owner: String,
    /// Since when it is prepared, in seconds.
    pub prepared_s: u64,
    /// How many transactions were begun since.
    pub xid_age: u64,
}

impl From<Row> for ListedBranch {
    fn from(row: Row) -> Self {
        let branch = row.branch();
        let Row { gid, owner, prepared_s, xid_age, .. } = row;
        Self { gid, branch, owner, prepared_s, xid_age }
    }
}

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    max_prepared: u64,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    in_recovery: bool,
    /// The server process is another one than when the connection was made.
    moved: bool,
    forbidden: Option<String>,
    user: String,
    work_pool_max: usize,
}

impl Postgres {
    /// Every prepared transaction of this database, the oldest first.
    ///
    /// # Errors
    /// [`Retry`]: the server cannot be asked now.
    pub async fn prepared(&self) -> Result<Vec<ListedBranch>, Retry> {
        let rows = self.server.prepared(None).await?;
        Ok(rows.into_iter().map(ListedBranch::from).collect())
    }

    /// What there is to say about the server: what would refuse the start, what was accepted
    /// ([`super::PostgresBuilder::accept_unsafe_settings`]), and what will become a problem.
    ///
    /// # Errors
    /// [`Retry`]: the server cannot be asked now.
    pub async fn findings(&self) -> Result<Vec<Finding>, Retry> {
        let session = match self.server.lend().await {
            Ok(session) => session,
            Err(Failed::Refused { code, words }) if code == "42501" => {
                return Ok(vec![not_allowed(words)]);
            }
            Err(failed) => return Err(failed.into()),
        };
        let said = session.say(statements::VERSION, ANSWER_MAX).await?;
        let row = said.row().ok_or_else(unreadable)?;
        let version: u32 = row.get(0).and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
        if version < VERSION_MIN {
            return Ok(vec![too_old(row.get(1).unwrap_or_default())]);
        }
        let said = session.say(statements::SETTINGS, ANSWER_MAX).await?;
        let row = said.row().ok_or_else(unreadable)?;
        let text = |index| row.get(index).map(str::to_owned).ok_or_else(unreadable);
        let pid = session.backend().pid.to_string();
        let settings = Settings {
            max_prepared: text(0)?.parse()?,
            fsync: text(1)?,
            full_page_writes: text(2)?,
            synchronous_commit: text(3)?,
            in_recovery: text(4)? == "true",
            moved: text(5)? != pid,
            forbidden: row.get(6).map(str::to_owned),
            user: text(7)?,
            work_pool_max: self.work.status().max_size,
        };
        drop(session);
        let mut findings = judged(&settings);
        if !settings.in_recovery && settings.forbidden.is_none() {
            findings.extend(self.prepared().await?.iter().filter_map(forgotten));
        }
        Ok(findings)
    }
}

/// The check at the start.
pub(super) async fn check(postgres: &Postgres) -> Result<(), Unfit> {
    judge(reach(|| postgres.findings()).await?, postgres.accepts_unsafe)
}

/// Asks a server at the start: one that cannot be reached is waited for.
pub(super) async fn reach<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Unfit>
where
    F: Future<Output = Result<T, Retry>>,
{
    let ends_at = Instant::now() + REACH_MAX;
    let mut words = "it does not answer".to_owned();
    while Instant::now() < ends_at {
        match timeout_at(ends_at, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Retry { why })) => words = why,
            Err(_) => break,
        }
        tracing::debug!(words, "the database cannot be used yet");
        sleep(REACH_EVERY).await;
    }
    Err(Unfit {
        what: format!("the database cannot be used: {words}"),
        why: "no branch could be worked on, and none in doubt be finished".to_owned(),
        next: "start the server, or mend the address, the role, pg_hba.conf, or the encryption \
               (PostgresBuilder::tls)"
            .to_owned(),
    })
}

fn too_old(version: &str) -> Finding {
    Finding {
        code: "POSTGRES_TOO_OLD",
        severity: Severity::Unfit,
        what: format!("the server is PostgreSQL {version}"),
        why: "before version 13 nothing can be proved about a branch that is gone".to_owned(),
        next: "use PostgreSQL 13 or later".to_owned(),
    }
}

/// The very first message was refused: the words name the function.
fn not_allowed(words: String) -> Finding {
    Finding {
        code: "POSTGRES_NOT_ALLOWED",
        severity: Severity::Unfit,
        what: words,
        why: "nothing could be proved about a branch that is gone".to_owned(),
        next: "grant the role what the server refuses: by itself everybody may".to_owned(),
    }
}

/// Without these nothing works.
fn unfit(settings: &Settings, found: &mut Vec<Finding>) {
    let severity = Severity::Unfit;
    if settings.in_recovery {
        found.push(Finding {
            code: "POSTGRES_STANDBY",
            severity,
            what: "the server is a standby".to_owned(),
            why: "it takes no writes, and no branch can be finished on it".to_owned(),
            next: "connect to the primary (target_session_attrs=read-write)".to_owned(),
        });
    }
    if settings.moved {
        found.push(Finding {
            code: "POSTGRES_POOLING_PROXY",
            severity,
            what: "a proxy shares the server's connections among transactions".to_owned(),
            why: "a branch could be prepared on a connection that is not its own".to_owned(),
            next: "connect to the server itself, or let the proxy pool sessions".to_owned(),
        });
    }
    if let Some(functions) = &settings.forbidden {
        let user = &settings.user;
        found.push(Finding {
            code: "POSTGRES_NOT_ALLOWED",
            severity,
            what: format!("the role {user:?} may not call {functions}"),
            why: "nothing could be proved about a branch that is gone".to_owned(),
            next: format!("GRANT EXECUTE ON FUNCTION {functions} TO \"{user}\""),
        });
    }
    if settings.max_prepared == 0 {
        found.push(Finding {
            code: "POSTGRES_NO_PREPARED_TRANSACTIONS",
            severity,
            what: "max_prepared_transactions is 0".to_owned(),
            why: "PREPARE TRANSACTION is switched off: every branch would vote rollback".to_owned(),
            next: format!(
                "ALTER SYSTEM SET max_prepared_transactions = {}; then restart the server",
                settings.work_pool_max.saturating_mul(2)
            ),
        });
    }
}

/// What the settings mean.
fn judged(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    unfit(settings, &mut found);
    let on = |name: &str| format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()");
    let durable = [
        ("POSTGRES_FSYNC_OFF", "fsync", &settings.fsync, &["off"][..]),
        ("POSTGRES_TORN_PAGES", "full_page_writes", &settings.full_page_writes, &["off"]),
        (
            "POSTGRES_ASYNCHRONOUS_COMMIT",
            "synchronous_commit",
            &settings.synchronous_commit,
            &["off", "local"],
        ),
    ];
    for (code, name, value, bad) in durable {
        if bad.contains(&value.as_str()) {
            let why = match name {
                "synchronous_commit" => {
                    "what is answered may not be where it has to be, on the \
                    server's disk and on its synchronous standbys"
                }
                _ => "a power cut may lose or damage branches that have voted, and whatever else",
            };
            found.push(Finding {
                code,
                severity: Severity::Unsafe,
                what: format!("{name} is {value}"),
                why: why.to_owned(),
                next: on(name),
            });
        }
    }
    let pool_max = u64::try_from(settings.work_pool_max).unwrap_or(u64::MAX);
    if (1..pool_max).contains(&settings.max_prepared) {
        found.push(Finding {
            code: "POSTGRES_FEW_PREPARED_TRANSACTIONS",
            severity: Severity::Warning,
            what: format!(
                "max_prepared_transactions is {}, for {pool_max} connections for work",
                settings.max_prepared
            ),
            why: "branches beyond it vote rollback".to_owned(),
            next: format!(
                "ALTER SYSTEM SET max_prepared_transactions = {}; then restart the server",
                pool_max.saturating_mul(2)
            ),
        });
    }
    found
}

/// A prepared transaction that nobody seems to finish.
fn forgotten(listed: &ListedBranch) -> Option<Finding> {
    let ListedBranch { gid, branch, owner, prepared_s, xid_age } = listed;
    if *prepared_s <= PREPARED_S_MAX && *xid_age <= XID_AGE_MAX {
        return None;
    }
    let next = match branch {
        Some(branch) => format!("unanimous tx describe {}", branch.gtrid),
        None => format!("as role {owner:?}: COMMIT PREPARED '{gid}', or ROLLBACK PREPARED '{gid}'"),
    };
    Some(Finding {
        code: "POSTGRES_PREPARED_FOR_LONG",
        severity: Severity::Warning,
        what: format!("{gid} is prepared for {prepared_s} s, {xid_age} transactions back"),
        why: "it keeps its locks, and vacuum from removing rows".to_owned(),
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Severity::{Unfit, Unsafe, Warning};

    type Change = (&'static dyn Fn(&mut Settings), &'static str, Severity, &'static str);

    fn good() -> Settings {
        Settings {
            max_prepared: 64,
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            in_recovery: false,
            moved: false,
            forbidden: None,
            user: "bank".to_owned(),
            work_pool_max: 16,
        }
    }

    #[test]
    fn d_30_each_setting_that_loses_something_is_found_with_what_mends_it() {
        assert_eq!(judged(&good()), []);
        let changes: [Change; 10] = [
            (&|s| s.max_prepared = 0, "POSTGRES_NO_PREPARED_TRANSACTIONS", Unfit, "= 32;"),
            (&|s| s.max_prepared = 15, "POSTGRES_FEW_PREPARED_TRANSACTIONS", Warning, "= 32;"),
            (&|s| s.fsync = "off".to_owned(), "POSTGRES_FSYNC_OFF", Unsafe, "SET fsync = on"),
            (
                &|s| s.full_page_writes = "off".to_owned(),
                "POSTGRES_TORN_PAGES",
                Unsafe,
                "SET full_page_writes = on",
            ),
            (
                &|s| s.synchronous_commit = "off".to_owned(),
                "POSTGRES_ASYNCHRONOUS_COMMIT",
                Unsafe,
                "SET synchronous_commit = on",
            ),
            (
                &|s| s.synchronous_commit = "local".to_owned(),
                "POSTGRES_ASYNCHRONOUS_COMMIT",
                Unsafe,
                "SET synchronous_commit = on",
            ),
            (&|s| s.in_recovery = true, "POSTGRES_STANDBY", Unfit, "primary"),
            (&|s| s.moved = true, "POSTGRES_POOLING_PROXY", Unfit, "the server itself"),
            (
                &|s| s.forbidden = Some("f(x)".to_owned()),
                "POSTGRES_NOT_ALLOWED",
                Unfit,
                "GRANT EXECUTE ON FUNCTION f(x) TO \"bank\"",
            ),
            (&|s| s.max_prepared = 1, "POSTGRES_FEW_PREPARED_TRANSACTIONS", Warning, "restart"),
        ];
        for (change, code, severity, next) in changes {
            let mut settings = good();
            change(&mut settings);
            let [found] = &judged(&settings)[..] else { unreachable!("{code}: one finding") };
            assert_eq!((found.code, found.severity), (code, severity));
            assert!(found.next.contains(next), "{}", found.next);
        }
        let fine = Settings { synchronous_commit: "remote_apply".to_owned(), ..good() };
        assert_eq!(judged(&Settings { max_prepared: 16, ..fine }), []);
    }

    #[test]
    fn d_19_what_is_prepared_for_an_hour_or_for_ten_million_ids_is_found() {
        let listed = |prepared_s, xid_age| ListedBranch {
            gid: "g".to_owned(),
            branch: None,
            owner: "bank".to_owned(),
            prepared_s,
            xid_age,
        };
        assert_eq!(forgotten(&listed(PREPARED_S_MAX, XID_AGE_MAX)), None);
        for (prepared_s, xid_age) in [(PREPARED_S_MAX + 1, 0), (0, XID_AGE_MAX + 1)] {
            let found = forgotten(&listed(prepared_s, xid_age)).unwrap();
            assert_eq!(found.code, "POSTGRES_PREPARED_FOR_LONG");
            assert!(found.next.contains("ROLLBACK PREPARED 'g'"), "{}", found.next);
        }
    }
}
