//! What bounds the server. Every bound says what happens at it.

use std::path::PathBuf;
use std::time::Duration;
use unanimous_core::Limits;
use unanimous_core::record::DETAIL_BYTES_MAX;
use unanimous_recovery::frame::RECORD_BYTES_MAX;

/// The most one branch adds to a record: its id (again where it decided alone, and where an
/// operator has said how it ended), names, evidence and words at their longest, and their lengths.
const BRANCH_RECORD_BYTES_MAX: usize = 3 * 24 + 65 + 130 + 2 + 296 + 2 + DETAIL_BYTES_MAX + 3;
/// What a record holds besides its branches: gtrid, name, decision, tag, count.
const RECORD_HEAD_BYTES_MAX: usize = 128;
/// Below this a hello with its in-doubt list would not fit.
const MESSAGE_BYTES_MIN: usize = 128 << 10;
/// gRPC's length prefix and the wire's `Welcome.message_bytes_max` have 32 bits; ours stay far
/// below.
const MESSAGE_BYTES_LIMIT: usize = 64 << 20;

/// The server's configuration. [`Config::default`] is fit for production on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's own limits and times.
    pub limits: Limits,
    /// TCP connections to the session port. At the limit no more are accepted; they wait in the
    /// system's queue.
    pub connections_max: usize,
    /// gRPC calls and streams open on one connection. At the limit the peer's HTTP/2 stack waits.
    pub streams_per_connection_max: u32,
    /// Sessions of participants and clients together, those that have not said hello included. At
    /// the limit a new one is told Goodbye OVERLOADED, or Closing.
    pub sessions_max: usize,
    /// How long a session may take to say hello, and a connection to begin to speak HTTP/2, in
    /// milliseconds; then it is ended.
    pub hello_ms_max: u64,
    /// Messages from all sessions that wait for the driver. At the limit a session is not read
    /// until there is room.
    pub events_queue: usize,
    /// Messages that wait to be written to one session. At the limit messages to a participant are
    /// dropped (the coordinator sends again), and a client, which does not read, is disconnected.
    pub session_queue: usize,
    /// Calls of one client session without an answer. At the limit a call is refused with
    /// TOO_MANY_CALLS.
    pub calls_per_client_max: usize,
    /// Calls of all clients without an answer, those of clients that are gone included: each has a
    /// place until its transaction ends. At the limit a call is refused with TOO_MANY_CALLS.
    pub calls_max: usize,
    /// Length of one message, in bytes. A longer one ends its session, or fails its call with
    /// OUT_OF_RANGE.
    pub message_bytes_max: usize,
    /// Record bytes that wait for the log. At the limit Begin is refused with LOG_BUSY, and a
    /// commit waits before its participants prepare; what is prepared is finished.
    pub log_queue_bytes_max: u64,
    /// Bytes of frames above which the log is compacted, unless what was live after the last
    /// compaction is more than half of them: then twice that. A compaction moves what is live to
    /// the end of the log, a bounded step at a time, and drops what lies before.
    pub log_bytes_compact: u64,
    /// While the oldest record has been waiting for the disk for this long, in milliseconds, Begin
    /// is refused with LOG_SLOW. Nothing that was handed to the log is given up.
    pub log_slow_ms: u64,
    /// An operator's act has its effect only when a second person has approved it.
    pub second_person: bool,
    /// Branches that no record explains and that are listed for the operator. At the limit further
    /// ones are only counted.
    pub orphans_max: usize,
    /// Admin queries that wait for the driver. At the limit an admin call waits.
    pub queries_queue: usize,
    /// A connection that is silent this long is asked for a sign of life, in milliseconds.
    pub keepalive_ms: u64,
    /// How long the sign of life may take, in milliseconds; then the connection is closed.
    pub keepalive_timeout_ms: u64,
    /// How long a graceful stop waits for transactions that can still end, in milliseconds. The
    /// others are finished by the next start.
    pub drain_ms: u64,
    /// Whether both ports tell their services and messages (gRPC reflection), for tools that call
    /// them without the .proto files.
    pub reflection: bool,
    /// For status: the version of the binary.
    pub version: String,
    /// For status: where the log is.
    pub data_dir: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            connections_max: 4_096,
            streams_per_connection_max: 4_096,
            sessions_max: 2_048,
            hello_ms_max: 10_000,
            events_queue: 8_192,
            session_queue: 16_384,
            calls_per_client_max: 8_192,
            calls_max: 400_000,
            message_bytes_max: 4 << 20,
            log_queue_bytes_max: 64 << 20,
            log_bytes_compact: 3 << 20,
            log_slow_ms: 1_000,
            second_person: false,
            orphans_max: 1_000,
            queries_queue: 64,
            keepalive_ms: 10_000,
            keepalive_timeout_ms: 10_000,
            drain_ms: 10_000,
            reflection: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_dir: PathBuf::new(),
        }
    }
}

/// Which key of a [`Config`] is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {rule}")]
pub struct ConfigError {
    /// The field's name.
    pub key: &'static str,
    /// The rule it breaks.
    pub rule: String,
}

impl Config {
    /// Checks what one field demands of another.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, rule: String| Err(ConfigError { key, rule });
        let positive = [
            ("limits.transactions_max", self.limits.transactions_max),
            ("limits.branches_max", self.limits.branches_max),
            ("connections_max", self.connections_max),
            ("sessions_max", self.sessions_max),
            ("events_queue", self.events_queue),
            ("calls_per_client_max", self.calls_per_client_max),
            ("calls_max", self.calls_max),
            ("limits.audit_max", self.limits.audit_max),
            ("limits.participants_max", self.limits.participants_max),
            ("limits.outcomes_max", self.limits.outcomes_max),
            ("limits.redrive_window", self.limits.redrive_window),
            ("limits.ticks_max", self.limits.ticks_max),
            ("queries_queue", self.queries_queue),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return fail(key, "must be at least 1".to_owned());
        }
        let branches_max = (RECORD_BYTES_MAX - RECORD_HEAD_BYTES_MAX) / BRANCH_RECORD_BYTES_MAX;
        if self.limits.branches_max > branches_max {
            let rule = format!("at most {branches_max}: a decision has to fit one log record");
            return fail("limits.branches_max", rule);
        }
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_LIMIT).contains(&self.message_bytes_max) {
            let rule = format!("must be from {MESSAGE_BYTES_MIN} to {MESSAGE_BYTES_LIMIT}");
            return fail("message_bytes_max", rule);
        }
        // So much can be answered before the client's connection has its turn: all that is queued,
        // and by one group of the log all its open calls. A client that reads must not be taken for
        // one that does not.
        let burst_max = self.events_queue.saturating_add(self.calls_per_client_max);
        if self.session_queue < burst_max {
            let rule = format!("at least events_queue + calls_per_client_max, {burst_max}");
            return fail("session_queue", rule);
        }
        if self.keepalive_ms == 0 || self.keepalive_timeout_ms == 0 {
            return fail("keepalive_ms", "must be at least 1".to_owned());
        }
        Ok(())
    }

    pub(crate) fn hello_max(&self) -> Duration {
        Duration::from_millis(self.hello_ms_max)
    }

    pub(crate) fn message_bytes_wire(&self) -> u32 {
        u32::try_from(self.message_bytes_max).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::record::{BranchKind, BranchRecord, Evidence};
    use unanimous_core::*;
    use unanimous_recovery::codec;

    #[test]
    fn the_default_is_valid_and_each_bad_field_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().map_err(|error| error.key)
        };
        assert_eq!(with(|c| c.events_queue = 0), Err("events_queue"));
        assert_eq!(with(|c| c.limits.branches_max = 1_000), Err("limits.branches_max"));
        assert_eq!(with(|c| c.message_bytes_max = 1), Err("message_bytes_max"));
        assert_eq!(with(|c| c.session_queue = c.events_queue), Err("session_queue"));
        assert_eq!(with(|c| c.keepalive_ms = 0), Err("keepalive_ms"));
    }

    /// The longest decision fits the log: otherwise one hostile transaction would end the process.
    #[test]
    fn the_longest_record_is_not_longer_than_the_log_takes() {
        let config = Config::default();
        let owner = Owner {
            log: LogId { cluster: u32::MAX, slot: u16::MAX, incarnation: u32::MAX },
            epoch: u32::MAX,
        };
        let gtrid = Gtrid::new(owner, u64::MAX, u8::MAX);
        let branch = BranchRecord {
            bqual: Bqual::new(u32::MAX, u32::MAX, owner),
            participant: ParticipantName::new(&"p".repeat(64)).unwrap(),
            resource: ResourceId::new(&"r".repeat(128)).unwrap(),
            kind: BranchKind::TwoPhase,
            inquires: true,
            evidence: Some(Evidence {
                kind: "k".repeat(Evidence::KIND_BYTES_MAX),
                data: vec![255; Evidence::DATA_BYTES_MAX],
            }),
            result: Some(BranchResult::Hazard),
            detail: "d".repeat(DETAIL_BYTES_MAX),
        };
        let record = Record::Carried {
            gtrid,
            name: TransactionName::new(&"n".repeat(64)).unwrap(),
            decision: Decision::Commit,
            heuristic: true,
            matched: vec![branch.bqual; config.limits.branches_max],
            branches: vec![branch; config.limits.branches_max],
        };
        let bytes = codec::encode_record(&record).len();
        assert!(bytes <= RECORD_BYTES_MAX, "{bytes}");
    }
}
