//! What is asked of the server at the start: [`Mysql::findings`].

use super::errors::Trouble;
use super::outside::within;
use super::server::{self, Settings};
use super::session;
use super::{FINISHING_MAX, Mysql};
use crate::database::judge;
use crate::finding::{Finding, Severity};
use crate::resource::{Retry, Unfit};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a server may take to be there.
const REACHED_MAX: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
/// The version of MySQL that the tests were run on.
const MYSQL_RUN: (u32, u32) = (9, 7);
/// Tables that are named in a finding.
const NAMED_MAX: usize = 5;
/// What the server is asked for by name. What it does not have, it leaves out.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', \
                         'innodb_flush_log_at_trx_commit', 'innodb_doublewrite', \
                         'max_connections')";
const TABLES: &str = "SELECT CONCAT(t.TABLE_NAME, ' (', t.ENGINE, ')') \
                      FROM information_schema.TABLES t \
                      JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
                      WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' \
                      AND NOT (COALESCE(e.TRANSACTIONS, 'NO') = 'YES' \
                      AND COALESCE(e.XA, 'NO') = 'YES') \
                      ORDER BY t.TABLE_NAME";

/// What the server says, before anybody judges it.
#[derive(Clone, Debug)]
struct Facts {
    settings: Settings,
    variables: BTreeMap<String, String>,
    database: Option<String>,
    /// The server's number of the connection is not the one it was opened with.
    between: bool,
    work_pool_max: usize,
    /// Tables whose changes cannot be undone.
    untransacted: Vec<String>,
}

impl Facts {
    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }
}

impl Mysql {
    /// What is wrong with the server as it is set up, or could be better; makes the marker table if
    /// there is none. The worst of it refuses the start: see [`crate::Severity`].
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn findings(&self) -> Result<Vec<Finding>, Retry> {
        let mut conn = self.outside().await?;
        let facts = self.facts(&mut conn).await?;
        let mut findings = judge_facts(&facts);
        if facts.database.is_some() {
            findings.extend(self.try_rights(conn).await?);
        }
        Ok(findings)
    }

    /// [`crate::Resource::check`].
    pub(super) async fn examine(&self) -> Result<(), Unfit> {
        self.reach().await?;
        let findings = self.findings().await.map_err(|retry| unreachable(&retry.why))?;
        judge(findings, self.inner.accepts_unsafe)
    }

    async fn reach(&self) -> Result<(), Unfit> {
        let ends_at = Instant::now() + REACHED_MAX;
        loop {
            let why = match timeout_at(ends_at, self.inner.finishing.get_conn()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(Error::Server(error))) => {
                    return Err(Unfit {
                        what: format!("the database lets nobody in: {error}"),
                        why: "nothing can be done there, and nothing in doubt can be ended".into(),
                        next: "give the user, its password and the database as the server has \
                               them, and encryption (ssl_opts of the driver's options) where it \
                               asks for that"
                            .into(),
                    });
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            if Instant::now() + PAUSE >= ends_at {
                return Err(unreachable(&why));
            }
            sleep(PAUSE).await;
        }
    }

    async fn facts(&self, conn: &mut Conn) -> Result<Facts, Trouble> {
        let settings = Settings::read(conn).await?;
        let variables: Vec<(String, String)> = within(conn.query(VARIABLES)).await?;
        let asked = "SELECT DATABASE(), CONNECTION_ID()";
        let row: Option<(Option<String>, u64)> = within(conn.query_first(asked)).await?;
        let (database, connection) = row.unwrap_or_default();
        Ok(Facts {
            settings,
            variables: variables.into_iter().collect(),
            database,
            between: connection != u64::from(conn.id()),
            work_pool_max: self.inner.work_pool_max,
            untransacted: within(conn.query(TABLES)).await?,
        })
    }

    /// What only trying shows.
    async fn try_rights(&self, mut conn: Conn) -> Result<Vec<Finding>, Trouble> {
        let mut findings = Vec::new();
        let user = server::user(&mut conn).await?;
        if let Err(Trouble::Refused(error)) = self.list(&mut conn).await {
            findings.push(Finding {
                code: "MYSQL_XA_RECOVER",
                severity: Severity::Unfit,
                what: format!("the user may not list prepared branches: {error}"),
                why: "branches in doubt would keep their locks for ever".to_owned(),
                next: format!("GRANT XA_RECOVER_ADMIN ON *.* TO {user}"),
            });
        }
        let table = self.inner.markers.table();
        let unusable = |what| Finding {
            code: "MYSQL_MARKER_TABLE",
            severity: Severity::Unfit,
            what,
            why: "whether a branch has committed could not be proved".to_owned(),
            next: format!(
                "{}; GRANT SELECT, INSERT, DELETE ON {table} TO {user}",
                self.inner.markers.create()
            ),
        };
        let tried = async {
            self.meet(&mut conn).await?;
            let tries = self.inner.markers.try_out(&rand::random());
            within(conn.query_drop(tries)).await?;
            Ok::<_, Trouble>(conn.affected_rows())
        };
        let tried = tried.await;
        if tried.is_err() {
            // Its transaction may be open: whoever looked for a marker on it would see an old one.
            session::discard(conn);
        }
        match tried {
            Ok(0) => {}
            Ok(_) => {
                let what = format!("the marker table {table} has no transactions: drop it first");
                findings.push(unusable(what));
            }
            Err(Trouble::Refused(error)) => {
                findings
                    .push(unusable(format!("the marker table {table} cannot be used: {error}")));
            }
            Err(broken) => return Err(broken),
        }
        Ok(findings)
    }
}

fn unreachable(why: &str) -> Unfit {
    Unfit {
        what: format!("the database cannot be reached: {why}"),
        why: "nothing can be done there, and nothing in doubt can be ended".to_owned(),
        next: "start the server, or mend the address".to_owned(),
    }
}

/// The first three numbers of a version.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

fn judge_facts(facts: &Facts) -> Vec<Finding> {
    let judged = [
        database(facts),
        between(facts),
        age(facts),
        galera(facts),
        flush(facts),
        doublewrite(facts),
        binary_log(facts),
        connections(facts),
        untransacted(facts),
        not_run(facts),
    ];
    judged.into_iter().flatten().collect()
}

fn found(
    code: &'static str,
    severity: Severity,
    [what, why, next]: [impl Into<String>; 3],
) -> Option<Finding> {
    Some(Finding { code, severity, what: what.into(), why: why.into(), next: next.into() })
}

fn database(facts: &Facts) -> Option<Finding> {
    if facts.database.is_some() {
        return None;
    }
    let next = "name the database: mysql://user:password@host:port/database";
    let why = "the marker table would have no place";
    found("MYSQL_NO_DATABASE", Severity::Unfit, ["the address names no database", why, next])
}

fn between(facts: &Facts) -> Option<Finding> {
    if !facts.between {
        return None;
    }
    let what = "something stands between here and the server, and gives connections other numbers";
    let why = "a branch needs one session for itself, which can be ended by its number";
    let next = "give the server's own address, or a proxy that hands sessions through unchanged";
    found("MYSQL_PROXY", Severity::Unfit, [what, why, next])
}

fn age(facts: &Facts) -> Option<Finding> {
    let Settings { version: text, log_bin, .. } = &facts.settings;
    let (is_mariadb, has) = (facts.settings.is_mariadb(), version(text));
    let (name, needs) = match (is_mariadb, log_bin) {
        (true, _) => ("MariaDB", [10, 5, 2]),
        (false, true) => ("MySQL with a binary log", [8, 0, 30]),
        (false, false) => ("MySQL", [5, 7, 7]),
    };
    if has >= needs {
        return None;
    }
    let needs = needs.map(|part| part.to_string()).join(".");
    found(
        "MYSQL_TOO_OLD",
        Severity::Unsafe,
        [
            format!("the server is version {text}"),
            "a prepared branch may be lost with its session, or with the server".to_owned(),
            format!("use {name} {needs} or later"),
        ],
    )
}

fn galera(facts: &Facts) -> Option<Finding> {
    if facts.variable("wsrep_on") != "ON" {
        return None;
    }
    let why = "a Galera cluster knows no XA";
    let next = "use a server outside of the cluster; wsrep_on = OFF";
    found("MYSQL_GALERA", Severity::Unfit, ["wsrep_on is ON", why, next])
}

fn flush(facts: &Facts) -> Option<Finding> {
    let value = facts.variable("innodb_flush_log_at_trx_commit");
    // MariaDB's 3 syncs as often as 1, and more.
    if value == "1" || (value == "3" && facts.settings.is_mariadb()) {
        return None;
    }
    found(
        "MYSQL_FLUSH_LOG",
        Severity::Unsafe,
        [
            format!("innodb_flush_log_at_trx_commit is {value}"),
            "a crash may lose branches that voted commit, and committed ones".to_owned(),
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in the server's configuration \
         innodb_flush_log_at_trx_commit = 1"
                .to_owned(),
        ],
    )
}

fn doublewrite(facts: &Facts) -> Option<Finding> {
    if facts.variable("innodb_doublewrite") != "OFF" {
        return None;
    }
    let why = "pages may be torn by a power cut, unless the file system writes them whole";
    let next = "innodb_doublewrite = ON in the server's configuration, and a restart";
    found("MYSQL_DOUBLEWRITE", Severity::Warning, ["innodb_doublewrite is OFF", why, next])
}

fn binary_log(facts: &Facts) -> Option<Finding> {
    if facts.settings.one_phase() {
        return None;
    }
    found("MYSQL_SYNC_BINLOG", Severity::Warning, [
        format!("the binary log is on, and sync_binlog is {}", facts.settings.sync_binlog),
        "a plain COMMIT may be lost with the machine, so a branch that is alone in its transaction \
         is committed in two phases"
            .to_owned(),
        "SET GLOBAL sync_binlog = 1, and in the server's configuration sync_binlog = 1".to_owned(),
    ])
}

fn connections(facts: &Facts) -> Option<Finding> {
    let needed = facts.work_pool_max + FINISHING_MAX;
    let max = facts.variable("max_connections").parse().unwrap_or(usize::MAX);
    if max > needed {
        return None;
    }
    found(
        "MYSQL_MAX_CONNECTIONS",
        Severity::Warning,
        [
            format!("max_connections is {max}, and this process may use {needed}"),
            "work is refused while branches wait".to_owned(),
            format!("SET GLOBAL max_connections = {}, or a smaller work pool", needed * 2),
        ],
    )
}

fn untransacted(facts: &Facts) -> Option<Finding> {
    if facts.untransacted.is_empty() {
        return None;
    }
    let mut named =
        facts.untransacted.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if facts.untransacted.len() > NAMED_MAX {
        named += &format!(" and {} more", facts.untransacted.len() - NAMED_MAX);
    }
    found(
        "MYSQL_NO_TRANSACTIONS",
        Severity::Warning,
        [
            format!("tables without transactions: {named}"),
            "what a branch changes there stays, even if it is rolled back".to_owned(),
            "ALTER TABLE .. ENGINE=InnoDB, or leave them out of branches".to_owned(),
        ],
    )
}

fn not_run(facts: &Facts) -> Option<Finding> {
    let [major, minor, _] = version(&facts.settings.version);
    if facts.settings.is_mariadb() || (major, minor) == MYSQL_RUN {
        return None;
    }
    let (run_major, run_minor) = MYSQL_RUN;
    found(
        "MYSQL_NOT_RUN_BY_US",
        Severity::Warning,
        [
            format!("the server is MySQL {}, which was not run by us", facts.settings.version),
            format!("this resource was tried on MySQL {run_major}.{run_minor} and on MariaDB"),
            "try your own crash tests first".to_owned(),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let variables = [
            ("wsrep_on", "OFF"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("innodb_doublewrite", "ON"),
            ("max_connections", "151"),
        ];
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let version = "10.11.14-MariaDB-0+deb12u2".to_owned();
        Facts {
            settings: Settings { version, log_bin: false, sync_binlog: 0 },
            variables: variables.into_iter().map(text).collect(),
            database: Some("bank".to_owned()),
            between: false,
            work_pool_max: 16,
            untransacted: Vec::new(),
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Severity)> {
        let mut facts = facts();
        change(&mut facts);
        judge_facts(&facts).into_iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    fn set(name: &str, value: &str) -> Vec<(&'static str, Severity)> {
        with(|facts| drop(facts.variables.insert(name.to_owned(), value.to_owned())))
    }

    #[test]
    fn d_30_every_setting_has_its_finding() {
        use Severity::{Unfit, Unsafe, Warning};
        assert_eq!(with(|_| {}), []);
        assert_eq!(with(|facts| facts.database = None), [("MYSQL_NO_DATABASE", Unfit)]);
        assert_eq!(with(|facts| facts.between = true), [("MYSQL_PROXY", Unfit)]);
        assert_eq!(set("wsrep_on", "ON"), [("MYSQL_GALERA", Unfit)]);
        for value in ["0", "2"] {
            let found = set("innodb_flush_log_at_trx_commit", value);
            assert_eq!(found, [("MYSQL_FLUSH_LOG", Unsafe)], "{value}");
        }
        assert_eq!(set("innodb_flush_log_at_trx_commit", "3"), []);
        assert_eq!(set("innodb_doublewrite", "OFF"), [("MYSQL_DOUBLEWRITE", Warning)]);
        assert_eq!(set("max_connections", "20"), [("MYSQL_MAX_CONNECTIONS", Warning)]);
        assert_eq!(set("max_connections", "21"), []);
        let binary_log = with(|facts| facts.settings.log_bin = true);
        assert_eq!(binary_log, [("MYSQL_SYNC_BINLOG", Warning)]);
        let tables = with(|facts| facts.untransacted = vec!["old (MyISAM)".to_owned()]);
        assert_eq!(tables, [("MYSQL_NO_TRANSACTIONS", Warning)]);
    }

    #[test]
    fn d_30_a_server_that_may_lose_prepared_branches_is_too_old() {
        use Severity::{Unsafe, Warning};
        for (version, log_bin, found) in [
            ("10.5.1-MariaDB", false, vec![("MYSQL_TOO_OLD", Unsafe)]),
            ("10.5.2-MariaDB-log", false, vec![]),
            ("11.4.0-MariaDB", false, vec![]),
            ("8.0.29", true, vec![("MYSQL_TOO_OLD", Unsafe), ("MYSQL_NOT_RUN_BY_US", Warning)]),
            ("8.0.30-0ubuntu", true, vec![("MYSQL_NOT_RUN_BY_US", Warning)]),
            ("8.0.29", false, vec![("MYSQL_NOT_RUN_BY_US", Warning)]),
            ("5.7.6", false, vec![("MYSQL_TOO_OLD", Unsafe), ("MYSQL_NOT_RUN_BY_US", Warning)]),
            ("9.7.4-2", true, vec![]),
            ("9.6.0", true, vec![("MYSQL_NOT_RUN_BY_US", Warning)]),
            ("nonsense", false, vec![("MYSQL_TOO_OLD", Unsafe), ("MYSQL_NOT_RUN_BY_US", Warning)]),
        ] {
            let judged = with(|facts| {
                facts.settings = Settings { version: version.to_owned(), log_bin, sync_binlog: 1 };
            });
            assert_eq!(judged, found, "{version}");
        }
    }

    #[test]
    fn d_28_tables_without_transactions_are_named_but_not_all_of_many() {
        let mut facts = facts();
        facts.untransacted = (1..=7).map(|number| format!("t{number} (Aria)")).collect();
        let what = untransacted(&facts).unwrap().what;
        assert!(what.contains("t1 (Aria), ") && what.ends_with("t5 (Aria) and 2 more"), "{what}");
    }
}
