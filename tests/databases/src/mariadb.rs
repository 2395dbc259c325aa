//! A MariaDB server, or a MySQL server in its place: whose `mysqld` the variable `UNANIMOUS_MYSQLD`
//! names.

use crate::certificates::Certificates;
use crate::daemon::{Daemon, Home, PATIENCE, wait_until};
use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const SERVER_PACKAGE: &str = "Debian's package mariadb-server";
const CLIENT_PACKAGE: &str = "Debian's package mariadb-client";

/// Whose presence says that the server is MySQL.
const MYSQLD: &str = "UNANIMOUS_MYSQLD";
/// MySQL lets `root` come over the socket only.
const ROOT_FILE: &str = "root.sql";
const MYSQL_ROOT: &str = "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
";

/// The `mysqld` to try, if it is not MariaDB.
fn mysqld() -> Option<PathBuf> {
    std::env::var_os(MYSQLD).map(PathBuf::from)
}

/// Whether the server is MySQL.
#[must_use]
pub fn is_mysql() -> bool {
    mysqld().is_some()
}

/// A MariaDB server with data of its own. `root` may connect from this machine without a password.
#[derive(Debug)]
pub struct Mariadb {
    // Before its folder.
    daemon: Option<Daemon>,
    home: Home,
    settings: Vec<(String, String)>,
}

impl Mariadb {
    /// Makes and starts one. `settings` are those of its configuration file.
    ///
    /// # Errors
    /// MariaDB is not installed, or does not start.
    pub fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let home = Home::new()?;
        let data = format!("--datadir={}", home.path().join("data").display());
        // A server that starts removes the temporary files of all others in the same folder.
        let temporary = format!("--tmpdir={}", home.path().display());
        let (install, options): (_, &[_]) = match mysqld() {
            Some(mysqld) => (mysqld, &["--no-defaults", "--initialize-insecure"]),
            None => (
                program("mariadb-install-db", SERVER_PACKAGE)?,
                &[
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--skip-name-resolve",
                    "--innodb-flush-method=nosync",
                    "--innodb-log-file-size=8M",
                ],
            ),
        };
        home.run(&install, options.iter().copied().chain([&*data, &*temporary]))?;
        if is_mysql() {
            home.keep(ROOT_FILE, MYSQL_ROOT)?;
        }
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut server = Self { daemon: None, home, settings: settings.collect() };
        server.run()?;
        Ok(server)
    }

    /// A setting, for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// From its next start on it takes encrypted connections only, with this certificate.
    ///
    /// # Errors
    /// The system refuses.
    pub fn encrypt(&mut self, certificates: &Certificates) -> anyhow::Result<()> {
        for (setting, name, text) in [
            ("ssl-cert", "server.pem", &certificates.server),
            ("ssl-key", "server.key", &certificates.key),
        ] {
            let file = self.home.keep(name, text)?;
            self.set(setting, &file.display().to_string());
        }
        self.set("require-secure-transport", "ON");
        Ok(())
    }

    /// Starts it, after [`Mariadb::stop`] or [`Mariadb::kill9`].
    ///
    /// # Errors
    /// It does not start; its words are in [`Mariadb::log_text`].
    pub fn run(&mut self) -> anyhow::Result<()> {
        ensure!(self.daemon.is_none(), "it runs");
        let folder = self.home.path();
        let port = self.home.port().to_string();
        let (data, socket, pid) = (folder.join("data"), folder.join("socket"), folder.join("pid"));
        let own = [
            ("datadir", data.display().to_string()),
            ("socket", socket.display().to_string()),
            ("pid-file", pid.display().to_string()),
            ("tmpdir", folder.display().to_string()),
            ("port", port),
            ("bind-address", "127.0.0.1".to_owned()),
            ("skip-name-resolve", "1".to_owned()),
            ("innodb-buffer-pool-size", "16M".to_owned()),
        ];
        let root = folder.join(ROOT_FILE).display().to_string();
        let theirs = match is_mysql() {
            true => vec![("init-file", root), ("mysqlx", "OFF".to_owned())],
            false => vec![("innodb-log-file-size", "8M".to_owned())],
        };
        let mut args = vec!["--no-defaults".to_owned()];
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in own.into_iter().chain(theirs).chain(settings) {
            args.push(format!("--{name}={value}"));
        }
        let server = mysqld().map_or_else(|| program("mariadbd", SERVER_PACKAGE), Ok)?;
        let mut daemon = self.home.spawn(&server, args)?;
        wait_until("the start of mariadbd", PATIENCE, || {
            ensure!(daemon.runs()?, "mariadbd does not start: {}", self.home.log_text());
            Ok(self.sql("", "SELECT 1").is_ok())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Where it is, for a driver, as `root`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as("root", database)
    }

    /// As [`Mariadb::url`], as another user.
    #[must_use]
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{database}", self.home.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.home.port()
    }

    /// A new, empty database: its name.
    ///
    /// # Errors
    /// As [`Mariadb::sql`].
    pub fn new_database(&self) -> anyhow::Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// What `root` does by hand: rows a line, columns with tabs between them.
    ///
    /// # Errors
    /// The server's own.
    pub fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut client = Command::new(program("mariadb", CLIENT_PACKAGE)?);
        client.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=root"]);
        if self.settings.iter().any(|(name, _)| name == "ssl-cert") {
            client.arg("--ssl");
        }
        client.arg(format!("--port={}", self.home.port())).args(["--batch", "--skip-column-names"]);
        client.arg("--binary-as-hex").args(["--execute", sql, database]);
        let output = client.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{sql}: {said}");
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Kills it, without a word.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.daemon.take().context("it does not run")?.kill9()
    }

    /// Ends it cleanly; every connection is ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut daemon = self.daemon.take().context("it does not run")?;
        daemon.signal(Signal::TERM)?;
        daemon.wait()
    }

    /// [`Mariadb::kill9`], and a new start on the same data.
    ///
    /// # Errors
    /// As both.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill9()?;
        self.run()
    }

    /// What it has said, in all its lives.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.home.log_text()
    }
}

fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let mut paths = folders.into_iter().map(|folder| Path::new(folder).join(name));
    match paths.find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("{name} is not installed: it is in {package}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_answers_survives_a_kill_and_stops() {
        let mut server = Mariadb::start(&[("max_connections", "33")]).unwrap();
        let database = server.new_database().unwrap();
        server.sql(&database, "CREATE TABLE t (n INT); INSERT INTO t VALUES (7)").unwrap();
        server.restart().unwrap();
        assert_eq!(server.sql(&database, "SELECT n FROM t").unwrap(), "7");
        assert_eq!(server.sql("", "SELECT @@max_connections").unwrap(), "33");
        server.stop().unwrap();
        assert!(server.sql(&database, "SELECT 1").is_err());
    }
}
