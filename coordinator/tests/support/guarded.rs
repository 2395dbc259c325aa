//! A coordinator that asks who calls, and certificates for everybody around it.

use super::{Said, eventually, run, signal, unanimous};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

/// With an authority and the coordinator's certificate in `ca`, and no log yet.
pub(crate) struct Home(pub(crate) TempDir);

impl Home {
    pub(crate) fn make() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.cert(&["init", home.path("ca").to_str().unwrap()]);
        home.cert(&["server", "--host", "localhost", "--host", "127.0.0.1"]);
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `unanimous cert`, with this authority where one is needed.
    pub(crate) fn cert(&self, args: &[&str]) -> Said {
        let mut command = unanimous(&["cert"]);
        command.args(args);
        if ["server", "client", "participant"].contains(&args[0]) {
            command.arg("--authority").arg(self.path("ca"));
        }
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, Some(0), "{said:?}");
        said
    }

    /// A token in `NAME.token`, let in by a new line of `tokens`.
    pub(crate) fn token(&self, name: &str, role: &str) -> String {
        let file = self.path(&format!("{name}.token"));
        let said =
            self.cert(&["token", name, "--role", role, "--to", file.to_str().unwrap(), "-o", "id"]);
        let tokens = self.path("tokens");
        let lines = std::fs::read_to_string(&tokens).unwrap_or_default() + &said.stdout;
        write_secret(&tokens, &lines);
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// `serve` with the certificate, and what else is asked for.
    pub(crate) fn serve(&self) -> Command {
        let mut command = unanimous(&["serve", "--init", "--data-dir"]);
        command.arg(self.path("data"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--port-file"]);
        command.arg(self.path("ports"));
        for (key, file) in [("CERT", "server.pem"), ("KEY", "server.key"), ("CLIENT_CA", "ca.pem")]
        {
            command.env(format!("UNANIMOUS_TLS_{key}"), self.path("ca").join(file));
        }
        command
    }
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A running one. It ends with this value.
pub(crate) struct Guarded {
    child: Child,
    log: PathBuf,
    pub(crate) sessions: String,
    pub(crate) admin: String,
}

impl Guarded {
    /// Its log lines go to a file of the home's.
    pub(crate) fn start(home: &Home, mut serve: Command) -> Self {
        let log = home.path("serve.log");
        serve.arg("--exit-with-stdin").stdin(std::process::Stdio::piped());
        serve.stderr(std::fs::File::create(&log).unwrap());
        let child = serve.spawn().unwrap();
        let ports = home.path("ports");
        let written = eventually("the port file", || std::fs::read_to_string(&ports).ok());
        let ports: Value = serde_json::from_str(&written).unwrap();
        let url = |name: &str| {
            let address: std::net::SocketAddr = ports[name].as_str().unwrap().parse().unwrap();
            format!("https://localhost:{}", address.port())
        };
        Self { child, log, sessions: url("sessions"), admin: url("admin") }
    }

    /// A command to it, with these options.
    pub(crate) fn ask(&self, args: &[&str], options: &[String]) -> Said {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let addresses = ["--admin-address", &self.admin, "--address", &self.sessions];
        run(&[args, &addresses, &options].concat())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log has these words `times` times.
    pub(crate) fn until_told(&self, words: &str, times: usize) {
        eventually(words, || (self.log().matches(words).count() >= times).then_some(()));
    }

    /// Lets it read its files again. `count`: how often it has done so then.
    pub(crate) fn reload(&self, count: usize) {
        signal(self.child.id(), rustix::process::Signal::HUP);
        self.until_told("are read again", count);
    }

    pub(crate) fn hang_up(&self) {
        signal(self.child.id(), rustix::process::Signal::HUP);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The options for whoever has this certificate.
pub(crate) fn with_cert(home: &Home, name: &str) -> Vec<String> {
    let file = |name: String| home.path("ca").join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file(format!("{name}.pem")), file(format!("{name}.key")));
    ["--ca".into(), file("ca.pem".into()), "--cert".into(), cert, "--key".into(), key].into()
}

/// The options for whoever has this token.
pub(crate) fn with_token(home: &Home, name: &str) -> Vec<String> {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let token = text(home.path(&format!("{name}.token")));
    ["--ca".into(), text(home.path("ca").join("ca.pem")), "--token-file".into(), token].into()
}
