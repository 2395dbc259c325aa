//! Every key, once: its name, its place, what happens at its limit. `config init` is this table.

use super::field::Field;
use crate::cli::LogFormat;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use unanimous_server::Config;

/// Everything that can be said to `serve` in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where clients and participants connect.
    pub(crate) listen: SocketAddr,
    /// Where operators connect.
    pub(crate) admin_listen: SocketAddr,
    /// Addresses that other machines reach are allowed.
    pub(crate) insecure: bool,
    /// The certificate with which the coordinator proves itself.
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key.
    pub(crate) tls_key: Option<PathBuf>,
    /// Who signs callers' certificates.
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// What callers' certificates allow, if they do not say so themselves.
    pub(crate) tls_roles_file: Option<PathBuf>,
    /// Tokens that are taken instead of certificates.
    pub(crate) tls_tokens_file: Option<PathBuf>,
    /// Where the log is. `serve` needs one.
    pub(crate) data_dir: Option<PathBuf>,
    /// Where a second copy of the log is, if there is one.
    pub(crate) second_dir: Option<PathBuf>,
    /// What the log's file systems must have free for new work, in bytes.
    pub(crate) free_bytes_min: u64,
    /// What is held back in each directory for finishing when its file system is full, in bytes.
    pub(crate) reserve_bytes: u64,
    /// The cluster of a log that is made.
    pub(crate) cluster: u32,
    /// The coordinator's slot of a log that is made.
    pub(crate) slot: u16,
    /// Form of the log lines.
    pub(crate) log_format: LogFormat,
    /// Which log lines.
    pub(crate) log_level: String,
    /// The server's own, except its version and data directory, which `serve` fills in.
    pub(crate) server: Config,
}

impl Default for Settings {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            listen: local(7450),
            admin_listen: local(7451),
            insecure: false,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls_roles_file: None,
            tls_tokens_file: None,
            data_dir: None,
            second_dir: None,
            free_bytes_min: 64 << 20,
            reserve_bytes: 16 << 20,
            cluster: 0,
            slot: 0,
            log_format: LogFormat::Human,
            log_level: "info".to_owned(),
            server: Config::default(),
        }
    }
}

/// One key.
pub(crate) struct Key {
    /// The table it is in.
    pub(super) section: &'static str,
    /// Its name there: the field's, without the section and `_ms`, as the value says its unit.
    pub(super) name: &'static str,
    /// The option of `serve` for it, if there is one.
    pub(super) flag: Option<&'static str>,
    /// What it bounds, and what happens at the bound.
    pub(super) reason: &'static str,
    /// An example for a key without a default.
    pub(super) example: Option<&'static str>,
    /// The field of [`Settings`], with a dot before each name.
    pub(super) path: &'static str,
    /// The place of that field.
    pub(super) field: fn(&mut Settings) -> Field<'_>,
}

impl Key {
    /// Section and name.
    pub(crate) fn full(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The variable for it: named after the option if there is one, otherwise after the key.
    pub(crate) fn variable(&self) -> String {
        match self.flag {
            Some(flag) => format!("UNANIMOUS_{}", flag.replace('-', "_").to_uppercase()),
            None => self.systematic_variable(),
        }
    }

    /// What the variable would be if there were no options.
    pub(super) fn systematic_variable(&self) -> String {
        format!("UNANIMOUS_{}_{}", self.section, self.name).to_uppercase()
    }

    /// The option, or nothing.
    pub(crate) fn option(&self) -> String {
        self.flag.map(|flag| format!("--{flag}")).unwrap_or_default()
    }

    /// The value in `settings`, as a file has it.
    pub(super) fn value(&self, settings: &Settings) -> Value {
        (self.field)(&mut settings.clone()).show()
    }
}

macro_rules! field {
    (switch, $at:expr) => {
        Field::Switch($at)
    };
    (address, $at:expr) => {
        Field::Address($at)
    };
    (path, $at:expr) => {
        Field::Path($at)
    };
    (directives, $at:expr) => {
        Field::Directives($at)
    };
    (form, $at:expr) => {
        Field::Form($at)
    };
    (count, $at:expr) => {
        Field::Count { at: $at, least: 1 }
    };
    (count_or_0, $at:expr) => {
        Field::Count { at: $at, least: 0 }
    };
    (bytes, $at:expr) => {
        Field::Bytes { at: $at, least: 1 }
    };
    (bytes_or_0, $at:expr) => {
        Field::Bytes { at: $at, least: 0 }
    };
    (duration, $at:expr) => {
        Field::Duration { at: $at, least: 1 }
    };
    (duration_or_0, $at:expr) => {
        Field::Duration { at: $at, least: 0 }
    };
}

macro_rules! flag {
    () => {
        None
    };
    ($flag:literal) => {
        Some($flag)
    };
}

/// A line: `section.name (--option) = kind path_in_settings (example): "reason";`
macro_rules! keys {
    ($(
        $section:ident.$name:ident $((--$flag:literal))? =
        $kind:ident $($path:ident).+ $((as $example:literal))? : $reason:literal;
    )+) => {
        &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            flag: flag!($($flag)?),
            reason: $reason,
            example: flag!($($example)?),
            path: concat!($(".", stringify!($path)),+),
            field: |settings| field!($kind, &mut settings.$($path).+),
        }),+]
    };
}

/// Every key, those of a section together, in the order of `config init`.
pub(crate) static KEYS: &[Key] = keys! {
    listen.sessions (--"listen") = address listen:
        "Where clients and participants connect.";
    listen.admin (--"admin-listen") = address admin_listen:
        "Where operators connect.";
    listen.insecure (--"insecure") = switch insecure:
        "Whether addresses that other machines reach are allowed without TLS: whoever connects \
         may do everything. If false, such an address is refused.";

    listen.reflection = switch server.reflection:
        "Whether both ports tell their services and messages (gRPC reflection), for tools such as \
         grpcurl that call them without the .proto files.";

    tls.cert = path tls_cert (as "/etc/unanimous/server.pem"):
        "The coordinator's certificate, and those between it and its authority (PEM). With it both \
         ports speak TLS only, and only callers that are known are let in. unanimous cert makes \
         one. All files of this section are read again after SIGHUP; a bad one changes nothing.";
    tls.key = path tls_key (as "/etc/unanimous/server.key"):
        "The private key of tls.cert (PEM, not encrypted). A file that everybody can read is \
         refused.";
    tls.client_ca = path tls_client_ca (as "/etc/unanimous/ca.pem"):
        "The authorities whose certificates callers may show (PEM). What a caller may do is in its \
         certificate, unless tls.roles_file is given. Without it tokens are all that is taken.";
    tls.roles_file = path tls_roles_file (as "/etc/unanimous/roles"):
        "What certificates allow, for authorities that do not write roles into them. Lines of a \
         name and its roles: a URI or DNS name in the certificate, or sha256: and its digest; \
         then client, participant:NAME, reader, operator, admin. What a certificate says itself \
         counts no longer.";
    tls.tokens_file = path tls_tokens_file (as "/etc/unanimous/tokens"):
        "Tokens that are taken instead of a certificate: lines of a name, roles with commas \
         between, the SHA-256 of the token, and the time at which it ends, if it does. unanimous \
         cert token makes one. A file that everybody can read is refused.";

    log.data_dir (--"data-dir") = path data_dir (as "/var/lib/unanimous"):
        "Where the log is. serve needs it from the file, the environment or the command line. A \
         relative path starts at the directory in which serve is started.";
    log.second_dir (--"second-dir") = path second_dir (as "/mnt/other-disk/unanimous"):
        "Where a second copy of the log is, best on another disk. Both are written at once, and a \
         start with one missing has to be allowed with --degraded. Without this key there is one \
         log.";
    log.free_bytes_min = bytes_or_0 free_bytes_min:
        "What the log's file system must have free for new work. Below it Begin is refused; what \
         has begun is finished.";
    log.reserve_bytes = bytes_or_0 reserve_bytes:
        "Space held back in the log's directory, and given up when its file system is full, so \
         that decided transactions can be finished.";
    log.cluster (--"cluster") = count_or_0 cluster:
        "The cluster's number, used when a log is made.";
    log.slot (--"slot") = count_or_0 slot:
        "This coordinator's number in the cluster, used when a log is made.";
    log.queue_bytes_max = bytes server.log_queue_bytes_max:
        "Record bytes that wait for the log. At the limit Begin is refused with LOG_BUSY, and a \
         commit waits before its participants prepare; what is prepared is finished.";
    log.bytes_compact = bytes server.log_bytes_compact:
        "Bytes of frames above which the log is compacted, unless what is live is more than half \
         of them; then twice that.";
    log.slow = duration server.log_slow_ms:
        "While the oldest record has been waiting for the disk for this long, Begin is refused \
         with LOG_SLOW. Nothing that was handed to the log is given up.";

    operators.second_person = switch server.second_person:
        "Whether an operator's act has an effect only when a second person has approved it. \
         Without certificates or tokens nobody can tell two persons apart, and nothing is \
         approved.";

    limits.transactions_max = count server.limits.transactions_max:
        "Transactions that are not finished. At the limit Begin is refused with a retry hint.";
    limits.branches_max = count server.limits.branches_max:
        "Branches of one transaction. At the limit Enlist is refused. All branches have to fit one \
         log record.";
    limits.outcomes_max = count server.limits.outcomes_max:
        "Outcomes remembered for whoever asks again. Beyond it the oldest are dropped, and asking \
         for one of them is answered with unknown.";
    limits.exceptions_max = count_or_0 server.limits.exceptions_max:
        "Unfinished transactions named in the mark that tells participants what they may forget. \
         With more of them the mark stays behind, and participants remember longer.";
    limits.connections_max = count server.connections_max:
        "TCP connections to the session port. At the limit no more are accepted; they wait in the \
         system's queue.";
    limits.streams_per_connection_max = count server.streams_per_connection_max:
        "gRPC calls and streams open on one connection. At the limit the peer waits.";
    limits.sessions_max = count server.sessions_max:
        "Sessions of participants and clients together. At the limit a new one is told Goodbye \
         OVERLOADED, or Closing.";
    limits.calls_per_client_max = count server.calls_per_client_max:
        "Calls of one client session without an answer. At the limit a call is refused with \
         TOO_MANY_CALLS.";
    limits.calls_max = count server.calls_max:
        "Calls of all clients without an answer. At the limit a call is refused with \
         TOO_MANY_CALLS.";
    limits.participants_max = count server.limits.participants_max:
        "Participants that the log remembers, so that they are listed while they are away. Further \
         ones are served, and listed only while they are connected.";
    limits.orphans_max = count server.orphans_max:
        "Branches listed that participants hold prepared and no record explains. Further ones are \
         only counted.";
    limits.audit_max = count server.limits.audit_max:
        "Entries of the audit, which are kept for ever. At the limit operators' acts are refused \
         with AUDIT_FULL; refused calls are not recorded any more from nine tenths on.";
    limits.redrive_window = count server.limits.redrive_window:
        "Transactions sent again at once to a participant that has come back; each further one \
         follows with an answer.";
    limits.ticks_max = count server.limits.ticks_max:
        "Timers handled in one go, and transactions looked at when a participant comes back. The \
         rest waits until other work has had its turn.";
    limits.message_bytes_max = bytes server.message_bytes_max:
        "Length of one message. A longer one ends its session, or fails its call with \
         OUT_OF_RANGE.";

    queues.events_queue = count server.events_queue:
        "Messages of all sessions that wait for the coordinator. At the limit sessions are not \
         read until there is room.";
    queues.session_queue = count server.session_queue:
        "Messages that wait to be written to one session. At the limit those to a participant are \
         dropped and sent again later; a client, which does not read, is disconnected.";
    queues.queries_queue = count server.queries_queue:
        "Questions of operators that wait for the coordinator. At the limit the next one waits.";

    timeouts.timeout_default = duration server.limits.timeout_ms_default:
        "Time-out of a transaction that asks for none; then it is rolled back.";
    timeouts.timeout_max = duration server.limits.timeout_ms_max:
        "The longest time-out of a transaction. Begin with a longer one is refused.";
    timeouts.outcome_retention = duration server.limits.outcome_retention_ms:
        "How long an outcome is remembered at most for whoever asks again. Then asking for it is \
         answered with unknown.";
    timeouts.stuck_after = duration server.limits.stuck_after_ms:
        "A transaction that has waited this long in phase two is shown as stuck.";
    timeouts.hello_max = duration server.hello_ms_max:
        "How long a session may take to say hello, and a connection to begin to speak HTTP/2; then \
         it is ended.";
    timeouts.keepalive = duration server.keepalive_ms:
        "A connection that is silent this long is asked for a sign of life.";
    timeouts.keepalive_timeout = duration server.keepalive_timeout_ms:
        "How long the sign of life may take; then the connection is closed.";
    timeouts.drain = duration_or_0 server.drain_ms:
        "How long a graceful stop waits for transactions that can still end. The next start \
         finishes the others.";

    retries.retry_min = duration server.limits.retry_ms_min:
        "First delay before a message is sent again; it doubles with every try.";
    retries.retry_max = duration server.limits.retry_ms_max:
        "Longest delay before a message is sent again.";
    retries.rollback_tries_max = count server.limits.rollback_tries_max:
        "How often a rollback is sent to a participant that asks for itself; then it is left to \
         ask.";
    retries.forget_tries_max = count server.limits.forget_tries_max:
        "How often a forget is sent. A participant that still reports its heuristic result gets \
         another one.";
    retries.holder_tries = count server.limits.holder_tries:
        "How often a one-phase commit is sent to the process that holds the work; then another \
         process of the same participant is asked what became of it.";

    process.log_level (--"log-level") = directives log_level:
        "Which log lines are written to stderr: error, warn, info, debug, trace, or directives as \
         \"info,unanimous_server=debug\".";
    process.log_format (--"log-format") = form log_format:
        "Form of the log lines: \"human\", or \"json\" for an object a line.";
};

/// The sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_fields() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            let full = key.full();
            for name in [full.clone(), key.variable(), key.path.to_owned()] {
                assert!(seen.insert(name), "{full}");
            }
            let field = key.path.rsplit('.').next().unwrap().replace("_ms", "");
            let field = field.strip_prefix(&format!("{}_", key.section)).unwrap_or(&field);
            let listens = key.section == "listen" && key.name != "insecure";
            assert!(listens || field == key.name, "{full} is field {field}");
            assert!(key.reason.ends_with('.'), "{full}");
        }
        let mut sections = sections();
        sections.sort_unstable();
        sections.dedup();
        assert_eq!(sections.len(), super::sections().len(), "sections are not in one piece");
    }

    /// Whatever the server has can be set.
    #[test]
    fn every_field_of_the_server_has_a_key() {
        let shown = format!("{:#?}", Config::default());
        let mut fields = 0;
        for line in shown.lines().filter(|line| line.ends_with(',')) {
            let Some((name, _)) = line.trim().split_once(": ") else { continue };
            let prefix = if line.starts_with("        ") { ".server.limits." } else { ".server." };
            // Filled in by `serve`.
            if !["version", "data_dir"].contains(&name) {
                let path = format!("{prefix}{name}");
                assert!(KEYS.iter().any(|key| key.path == path), "{path} has no key");
                fields += 1;
            }
        }
        assert!(fields > 20, "{shown}");
    }

    /// No two keys share a place, and each changes what it names.
    #[test]
    fn every_key_changes_its_own_field_only() {
        for key in KEYS {
            let (mut settings, default) = (Settings::default(), Settings::default());
            (key.field)(&mut settings).set(&another_value(key)).unwrap();
            let changed = KEYS.iter().filter(|key| key.value(&settings) != key.value(&default));
            let changed: Vec<_> = changed.map(Key::full).collect();
            assert_eq!(changed, [key.full()]);
        }
    }

    fn another_value(key: &Key) -> super::super::field::Given {
        let word = match (key.field)(&mut Settings::default()) {
            Field::Switch(_) => "true",
            Field::Count { .. } => "77",
            Field::Bytes { .. } => "77KiB",
            Field::Duration { .. } => "77s",
            Field::Address(_) => "127.0.0.1:77",
            Field::Path(_) => "/seventy/seven",
            Field::Directives(_) => "debug",
            Field::Form(_) => "json",
        };
        super::super::field::Given::Word(word.into())
    }
}
