//! A PostgreSQL server.

use crate::certificates::Certificates;
use crate::daemon::{Daemon, Home, PATIENCE, wait_until};
use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const DEBIAN: &str = "/usr/lib/postgresql";
const PACKAGE: &str = "Debian's package postgresql";

/// A PostgreSQL server with data of its own. Everybody may connect as anybody; the superuser is
/// `postgres`.
#[derive(Debug)]
pub struct Postgres {
    // Before its folder.
    daemon: Mutex<Option<Daemon>>,
    home: Home,
    settings: Mutex<Vec<(String, String)>>,
}

impl Postgres {
    /// Makes and starts one. `settings` are those of postgresql.conf; by itself it has room for 64
    /// prepared transactions.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let home = Home::new()?;
        let data = home.path().join("data");
        let mut args: Vec<PathBuf> = ["--no-sync", "-A", "trust", "-U", "postgres"]
            .into_iter()
            .chain(["-E", "UTF8", "--no-locale", "-D"])
            .map(PathBuf::from)
            .collect();
        args.push(data);
        home.run(&program("initdb")?, args)?;
        let server = Self { daemon: Mutex::default(), home, settings: Mutex::default() };
        server.set("max_prepared_transactions", "64");
        for (name, value) in settings {
            server.set(name, value);
        }
        server.run()?;
        Ok(server)
    }

    /// A setting, for the next start.
    pub fn set(&self, name: &str, value: &str) {
        let mut settings = locked(&self.settings);
        settings.retain(|(known, _)| known != name);
        settings.push((name.to_owned(), value.to_owned()));
    }

    /// From its next start on it takes encrypted connections only, with this certificate.
    ///
    /// # Errors
    /// The system refuses.
    pub fn encrypt(&self, certificates: &Certificates) -> anyhow::Result<()> {
        let who = "hostssl all all 127.0.0.1/32 trust\n";
        for (setting, name, text) in [
            ("ssl_cert_file", "server.pem", certificates.server.as_str()),
            ("ssl_key_file", "server.key", certificates.key.as_str()),
            ("hba_file", "encrypted_hba.conf", who),
        ] {
            self.set(setting, &self.home.keep(name, text)?.display().to_string());
        }
        self.set("ssl", "on");
        Ok(())
    }

    /// At its next start it is a standby, until `pg_promote()`: from then on it is on another
    /// timeline.
    ///
    /// # Errors
    /// The system refuses.
    pub fn demote(&self) -> anyhow::Result<()> {
        let signal = self.home.path().join("data/standby.signal");
        self.home.run(Path::new("/usr/bin/touch"), [signal])
    }

    /// Starts it, after [`Postgres::stop`] or [`Postgres::kill9`].
    ///
    /// # Errors
    /// It does not start; its words are in [`Postgres::log_text`].
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(locked(&self.daemon).is_none(), "it runs");
        let data = self.home.path().join("data");
        let mut args = vec!["-D".to_owned(), data.display().to_string()];
        let port = self.home.port().to_string();
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", ""),
            // In its own folder, so that a kill leaves nothing behind.
            ("dynamic_shared_memory_type", "mmap"),
            ("shared_buffers", "16MB"),
            // Recovery would open and sync each of a thousand files.
            ("recovery_init_sync_method", "syncfs"),
        ];
        let settings = locked(&self.settings).clone();
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.into_iter().chain(settings) {
            args.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let mut daemon = self.home.spawn(&program("postgres")?, args)?;
        let is_ready = program("pg_isready")?;
        wait_until("the start of postgres", PATIENCE, || {
            ensure!(daemon.runs()?, "postgres does not start: {}", self.home.log_text());
            let mut asked = Command::new(&is_ready);
            Ok(asked
                .args(["-q", "-U", "postgres", "-h", "127.0.0.1", "-p", &port])
                .status()?
                .success())
        })?;
        *locked(&self.daemon) = Some(daemon);
        Ok(())
    }

    /// Where it is, for a driver, as the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// As [`Postgres::url`], as another user.
    #[must_use]
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.home.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.home.port()
    }

    /// A new, empty database: its name.
    ///
    /// # Errors
    /// As [`Postgres::sql`].
    pub fn new_database(&self) -> anyhow::Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // The quick way would force a checkpoint.
        self.sql("postgres", &format!("CREATE DATABASE {name} STRATEGY wal_log"))?;
        Ok(name)
    }

    /// What the superuser does by hand: rows a line, columns with `|` between them.
    ///
    /// # Errors
    /// The server's own.
    pub fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(program("psql")?);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = psql.arg(self.url(database)).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{sql}: {said}");
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Kills it and all of its processes, without a word.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill9(&self) -> anyhow::Result<()> {
        self.taken()?.kill9()
    }

    /// Ends it cleanly; every connection is ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&self) -> anyhow::Result<()> {
        let mut daemon = self.taken()?;
        daemon.signal(Signal::INT)?;
        daemon.wait()
    }

    fn taken(&self) -> anyhow::Result<Daemon> {
        locked(&self.daemon).take().context("it does not run")
    }

    /// [`Postgres::kill9`], and a new start on the same data.
    ///
    /// # Errors
    /// As both.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.kill9()?;
        self.run()
    }

    /// What it has said, in all its lives.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.home.log_text()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of PostgreSQL's programs, of the newest version installed.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).with_context(|| format!("needs {PACKAGE}"))?;
    let versions = versions.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found = versions
        .filter_map(|version| version.parse::<u32>().ok())
        .map(|version| (version, Path::new(DEBIAN).join(format!("{version}/bin/{name}"))))
        .filter(|(_, path)| path.exists())
        .max();
    match found {
        Some((_, path)) => Ok(path),
        None => bail!("{name} is not installed: it is in {PACKAGE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_answers_survives_a_kill_and_stops() {
        let server = Postgres::start(&[("max_prepared_transactions", "3")]).unwrap();
        let database = server.new_database().unwrap();
        server.sql(&database, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").unwrap();
        server.restart().unwrap();
        assert_eq!(server.sql(&database, "SELECT n FROM t").unwrap(), "7");
        assert_eq!(server.sql(&database, "SHOW max_prepared_transactions").unwrap(), "3");
        server.stop().unwrap();
        assert!(server.sql(&database, "SELECT 1").is_err());
    }
}
