//! `unanimous cert`: a private authority, and what it signs.
//!
//! Reading order: `authority` (making and signing), `place` (files that are made once).

mod authority;
mod place;

use crate::cli::{CertCommand, CertPlace, RoleArg};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output, escape_lines};
use authority::{Authority, Subject};
use rustls::pki_types::ServerName;
use serde_json::json;
use std::path::Path;
use std::time::SystemTime;
use unanimous_core::ParticipantName;
use unanimous_server::{NAME_URI, PARTICIPANT_URI, ROLE_URI, Shown, token_line};

/// The longest name in a certificate, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// What a token begins with: whoever looks for lost secrets finds it by that.
const TOKEN_PREFIX: &str = "unanimous_";

/// Does a `cert` command. None of them needs a coordinator.
pub(crate) fn run(command: &CertCommand, output: Output) -> Result<(), Failure> {
    match command {
        CertCommand::Init { dir } => init(dir, output),
        CertCommand::Server { host, place } => server(host, place, output),
        CertCommand::Client { name, role, place } => client(name, role, place, output),
        CertCommand::Participant { name, role, place } => participant(name, role, place, output),
        CertCommand::Token { name, role, ends, to } => {
            token(name, role, ends.as_deref(), to.as_deref(), output)
        }
        CertCommand::Show { file } => show(file, output),
    }
}

fn init(dir: &Path, output: Output) -> Result<(), Failure> {
    let (cert, key) = Authority::init(dir)?;
    let below = format!(
        "\nKeep {} secret: whoever has it can let in anybody. Next:\n\
         \n    unanimous cert server --authority {dir} --host localhost\n",
        key.display(),
        dir = dir.display(),
    );
    made(&[("authority", &cert), ("key", &key)], &below, output)
}

fn server(hosts: &[String], place: &CertPlace, output: Output) -> Result<(), Failure> {
    if let Some(bad) = hosts.iter().find(|host| ServerName::try_from(host.as_str()).is_err()) {
        let what = format!("{bad:?} is no host");
        let why = "it must be a DNS name or an IP address, without a port";
        let next = "unanimous cert server --host localhost --host 127.0.0.1";
        return Err(Failure::new(Code::Usage, what, why, next));
    }
    let subject = Subject { common_name: "unanimous", uris: Vec::new(), hosts };
    let (cert, key) = Authority::open(&place.authority)?.sign("server", &subject, place)?;
    let below = format!(
        "\nIn the coordinator's configuration:\n\
         \n    [tls]\n    cert = \"{}\"\n    key = \"{}\"\n    client_ca = \"{}\"\n",
        cert.display(),
        key.display(),
        place.authority.join(place::CA_CERT).display(),
    );
    made(&[("certificate", &cert), ("key", &key)], &below, output)
}

fn client(name: &str, roles: &[RoleArg], place: &CertPlace, output: Output) -> Result<(), Failure> {
    sign(check_name(name)?, &mut role_uris(roles), place, output)
}

fn participant(
    name: &str,
    roles: &[RoleArg],
    place: &CertPlace,
    output: Output,
) -> Result<(), Failure> {
    let known = ParticipantName::new(name).map_err(|error| bad_name(name, &error.to_string()))?;
    let uris = role_uris(roles).chain([format!("{PARTICIPANT_URI}{known}")]);
    sign(check_name(name)?, &mut { uris }, place, output)
}

fn role_uris(roles: &[RoleArg]) -> impl Iterator<Item = String> {
    roles.iter().map(|role| format!("{ROLE_URI}{}", role.role()))
}

fn sign(
    name: &str,
    uris: &mut dyn Iterator<Item = String>,
    place: &CertPlace,
    output: Output,
) -> Result<(), Failure> {
    let uris = [format!("{NAME_URI}{name}")].into_iter().chain(uris).collect();
    let subject = Subject { common_name: name, uris, hosts: &[] };
    let (cert, key) = Authority::open(&place.authority)?.sign(name, &subject, place)?;
    let below = format!(
        "\nFor commands (programs give the same three files to the SDK):\n\
         \n    export UNANIMOUS_CA={}\n    export UNANIMOUS_CERT={}\n    export UNANIMOUS_KEY={}\n",
        place.authority.join(place::CA_CERT).display(),
        cert.display(),
        key.display(),
    );
    made(&[("certificate", &cert), ("key", &key)], &below, output)
}

fn made(files: &[(&str, &Path)], below: &str, output: Output) -> Result<(), Failure> {
    let shown = |path: &Path| path.display().to_string();
    let whole: serde_json::Map<_, _> =
        files.iter().map(|(what, path)| ((*what).to_owned(), json!(shown(path)))).collect();
    output.show(&Document {
        whole: whole.into(),
        rows: files.iter().map(|(what, path)| vec![(*what).to_owned(), shown(path)]).collect(),
        below: escape_lines(below),
        ids: files.iter().map(|(_, path)| shown(path)).collect(),
        ..Document::default()
    })
}

fn token(
    name: &str,
    roles: &[RoleArg],
    ends: Option<&str>,
    to: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let secret: [u8; 32] = rand::random();
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("{TOKEN_PREFIX}{digits}");
    let roles: Vec<_> = roles.iter().map(|role| role.role()).collect();
    let line = token_line(check_name(name)?, &roles, &token, ends).map_err(|why| {
        let next = format!("unanimous cert token {name} --role reader --ends 2027-01-31");
        Failure::new(Code::Usage, "no such token can be made", why, next)
    })?;
    let mut whole = json!({ "line": line });
    let mut rows = vec![vec!["line".to_owned(), line.clone()]];
    match to {
        Some(path) => place::write_new(path, format!("{token}\n").as_bytes(), place::Kind::Secret)?,
        None => {
            whole["token"] = json!(token);
            rows.push(vec!["token".to_owned(), token]);
        }
    }
    let below =
        "\nAdd the line to the file that tls.tokens_file names. The token is told nowhere else.\n";
    let below = below.to_owned();
    output.show(&Document { whole, rows, below, ids: vec![line], ..Document::default() })
}

fn show(file: &Path, output: Output) -> Result<(), Failure> {
    let shown = unanimous_server::show_certificates(file).map_err(|error| {
        let what = format!("{} cannot be shown", file.display());
        Failure::new(Code::AccessFile, what, error.why, error.next)
    })?;
    let seconds = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let (mut items, mut rows) = (Vec::new(), Vec::new());
    for Shown { name, names, roles, begins, ends } in shown {
        let (begins, ends) = (begins.map(seconds), ends.map(seconds));
        items.push(json!({
            "name": name, "names": names, "roles": roles, "begins": begins, "ends": ends,
        }));
        let or_none = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
        rows.push(vec![name, roles.join(","), or_none(ends), or_none(begins), names.join(" ")]);
    }
    output.show(&Document {
        whole: json!({ "certificates": items }),
        ids: rows.iter().map(|row| row[0].clone()).collect(),
        items: Some(items),
        header: vec!["NAME", "ROLES", "ENDS", "BEGINS", "NAMES"],
        rows,
        wide_columns: vec![3, 4],
        ..Document::default()
    })
}

/// A name is a part of a URI and of two files' names.
fn check_name(name: &str) -> Result<&str, Failure> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known);
    if good && name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    let rule = format!("1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ @ -, first a letter or digit");
    Err(bad_name(name, &rule))
}

fn bad_name(name: &str, rule: &str) -> Failure {
    let next = "unanimous cert client alice --role operator";
    Failure::new(Code::Usage, format!("{name:?} cannot be a name here"), rule, next)
}
