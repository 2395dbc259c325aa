//! What is said to the server, word by word. One string is one message: an error in it skips the
//! rest of it.

use super::evidence::Xact;
use super::session::Backend;
use unanimous_core::BranchId;

/// What our rows of `pg_prepared_xacts` begin with: the layout's version.
const PREFIX: &str = "u1.";

/// The name of a branch at the server (section 2 of the contract): 100 bytes, in which nothing has
/// to be quoted.
pub(super) fn gid(branch: &BranchId) -> String {
    format!("{PREFIX}{branch}")
}

/// The branch of a name, if it is one of ours, byte for byte.
pub(super) fn branch_of(gid: &str) -> Option<BranchId> {
    let branch = gid.strip_prefix(PREFIX)?.parse().ok()?;
    (self::gid(&branch) == gid).then_some(branch)
}

/// Begins the branch's block and marks it. `SET TRANSACTION` may still follow: nothing is read.
/// Outside of blocks a connection only reads ([`introduction`]), so the block says that it writes,
/// unless it may not.
pub(super) fn begin(gid: &str, access: Access) -> String {
    let access = match access {
        Access::Writes => " READ WRITE",
        Access::Reads => "",
    };
    format!("BEGIN{access}; SET LOCAL unanimous.branch = '{gid}'")
}

/// What blocks may do by the settings of the server, the database and the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Writes,
    Reads,
}

/// A warning that is not sent would be taken for a success.
const WARN: &str = "CASE pg_catalog.current_setting('client_min_messages') WHEN 'error' \
     THEN pg_catalog.set_config('client_min_messages', 'warning', false) END";

/// An ordinary commit waits for the disk, and for the standbys, only as far as this says.
const SYNCHRONOUS: &str = "pg_catalog.set_config('synchronous_commit', CASE \
     pg_catalog.current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' \
     ELSE 'on' END, true)";

/// A block whose client's machine is gone keeps its locks until the server notices: half a minute
/// instead of two hours.
const PATIENCE: &str = "pg_catalog.set_config('tcp_keepalives_idle', '15', false), \
     pg_catalog.set_config('tcp_keepalives_interval', '5', false), \
     pg_catalog.set_config('tcp_keepalives_count', '3', false), \
     pg_catalog.set_config('tcp_user_timeout', '30000', false)";

/// A statement outside of a block changes nothing: work may be on its way when the server refuses
/// the block that it belongs to.
const READS: &str = "pg_catalog.set_config('default_transaction_read_only', 'on', false)";

/// The setting that [`READS`] makes.
const READ_ONLY: &str = "pg_catalog.current_setting('default_transaction_read_only')";

/// The first message of a connection: who the server is, who we are there, and the guard of
/// [`prepare`], planned once. Its row: process, when it was started, system identifier, whether
/// blocks only read by themselves, the current WAL file's name. Its timeline stays for as long as
/// the connection does: only the end of a recovery changes it, and in one the name is null.
pub(super) fn introduction() -> String {
    format!(
        "PREPARE unanimous_guard(text, int) AS SELECT \
         1/(coalesce(pg_catalog.current_setting('unanimous.branch', true), '') = $1 \
         AND pg_catalog.pg_backend_pid() = $2 \
         AND pg_catalog.current_setting('unanimous.role', true) = current_user)::int, \
         pg_catalog.pg_current_xact_id_if_assigned()::text, {READ_ONLY}, {WARN}; \
         SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint, \
         c.system_identifier, {READ_ONLY}, CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
         THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END, {READS}, {WARN}, \
         pg_catalog.set_config('unanimous.role', current_user, false), {PATIENCE} \
         FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_control_system() c \
         WHERE a.pid = pg_catalog.pg_backend_pid()"
    )
}

/// The guard fails unless the block is the branch's own and sound, on the backend that it was begun
/// on: not failed, not ended by the work's own COMMIT, not moved elsewhere by a pooling proxy; and
/// not in another role, which alone could finish what it has prepared. Without it PREPARE
/// TRANSACTION in a failed block "succeeds", and rolls back.
///
/// Its row: the guard, the transaction's id if it has changed anything, whether the connection
/// still only reads outside of blocks. Whether the standbys were waited for is told from here on.
pub(super) fn prepare(gid: &str, backend: Backend) -> String {
    let pid = backend.pid;
    format!("EXECUTE unanimous_guard('{gid}', {pid}); PREPARE TRANSACTION '{gid}'")
}

pub(super) fn commit_prepared(gid: &str) -> String {
    format!("COMMIT PREPARED '{gid}'")
}

pub(super) fn rollback_prepared(gid: &str) -> String {
    format!("ROLLBACK PREPARED '{gid}'")
}

/// Ends exactly this server process, and says whether it was still there.
pub(super) fn terminate(backend: Backend) -> String {
    let Backend { pid, started_us } = backend;
    format!(
        "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
         WHERE pid = {pid} AND (extract(epoch FROM backend_start) * 1000000)::bigint = {started_us}"
    )
}

/// Writes something that only a standby which has everything before it can have. Not waiting for
/// the standbys here would be said with the same warning.
pub(super) fn barrier() -> String {
    format!("SELECT {SYNCHRONOUS}, pg_catalog.pg_logical_emit_message(true, 'unanimous', '')")
}

/// Where the server is, and what it knows of a transaction: its row is system identifier, WAL file,
/// status.
pub(super) fn status(xid: u64) -> String {
    format!(
        "SELECT c.system_identifier, \
         pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), \
         pg_catalog.pg_xact_status('{xid}'::xid8) FROM pg_catalog.pg_control_system() c"
    )
}

/// The prepared branches of this database, ours and others'; one alone with its `gid`.
pub(super) fn prepared(gid: Option<&str>) -> String {
    let one = gid.map_or(String::new(), |gid| format!(" AND p.gid = '{gid}'"));
    format!(
        "SELECT p.gid, p.transaction::text, p.owner, \
         greatest(0, (extract(epoch FROM now() - p.prepared))::bigint), \
         pg_catalog.age(p.transaction), \
         pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, \
         c.system_identifier, pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) \
         FROM pg_catalog.pg_prepared_xacts p, pg_catalog.pg_control_system() c \
         WHERE p.database = pg_catalog.current_database(){one} ORDER BY p.prepared"
    )
}

/// Who has prepared a branch, in which database, and who asks: for an error that a person mends.
pub(super) fn whose(gid: &str) -> String {
    format!(
        "SELECT p.owner, p.database, current_user, pg_catalog.current_database() \
         FROM pg_catalog.pg_prepared_xacts p WHERE p.gid = '{gid}'"
    )
}

/// What was decided alone, by the branch's name, in the first schema that the role has for tables.
/// `xact` is the branch's transaction, with which it is looked up how it has ended.
pub(super) const ALONE: &str = "CREATE TABLE IF NOT EXISTS unanimous_alone (\
     gid text PRIMARY KEY, committed boolean NOT NULL, xact text NOT NULL, why text NOT NULL, \
     decided_at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// Who asks, and whether the table is one that survives a crash; null: it is not there.
pub(super) const ALONE_KIND: &str = "SELECT current_user, (SELECT c.relpersistence = 'p' \
     FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass('unanimous_alone'))";

/// A row if there may be records of ours: in a table that the role may not read there are none.
pub(super) const ALONE_SEEN: &str = "SELECT 1 FROM pg_catalog.pg_class c \
     WHERE c.oid = pg_catalog.to_regclass('unanimous_alone') \
     AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";

/// Everything that is done with the table, to no row: what is missing is said at the start.
pub(super) const ALONE_TRIED: &str = "INSERT INTO unanimous_alone (gid, committed, xact, why) \
     SELECT '', true, '', '' WHERE false ON CONFLICT (gid) DO NOTHING; \
     SELECT gid, committed, xact, why, decided_at FROM unanimous_alone WHERE false; \
     DELETE FROM unanimous_alone WHERE false";

/// So many records at a time, the oldest first: the others are read when these are forgotten.
const ALONE_MAX: usize = 1_000;

/// The records of branches that are not prepared. A record is older than the end of its branch, so
/// one that is seen here without its branch is of a branch that has ended.
pub(super) fn ended_alone() -> String {
    format!(
        "SELECT a.gid, a.committed, a.xact, a.why FROM unanimous_alone a WHERE NOT EXISTS \
         (SELECT FROM pg_catalog.pg_prepared_xacts p WHERE p.gid = a.gid) \
         ORDER BY a.decided_at LIMIT {ALONE_MAX}"
    )
}

pub(super) fn alone(gid: &str) -> String {
    format!("SELECT a.gid, a.committed, a.xact, a.why FROM unanimous_alone a WHERE a.gid = '{gid}'")
}

/// The first record counts, whoever comes later. Its second row is what is on record.
pub(super) fn put_alone(gid: &str, committed: bool, xact: Xact, why: &str) -> String {
    format!(
        "INSERT INTO unanimous_alone (gid, committed, xact, why) \
         VALUES ('{gid}', {committed}, '{xact}', {}) ON CONFLICT (gid) DO NOTHING; {}",
        literal(why),
        alone(gid)
    )
}

pub(super) fn drop_alone(gid: &str) -> String {
    format!("DELETE FROM unanimous_alone WHERE gid = '{gid}'")
}

/// Statements that write, outside of a branch and all or none: the message is their block. It ends
/// where PREPARE TRANSACTION does, on the disk and at the standbys. Its first row says nothing.
pub(super) fn writing(sql: &str, access: Access) -> String {
    let access = match access {
        Access::Writes => "SET TRANSACTION READ WRITE; ",
        Access::Reads => "",
    };
    format!("{access}SELECT {SYNCHRONOUS}; {sql}")
}

/// Text as a string of SQL, however `standard_conforming_strings` is set.
fn literal(text: &str) -> String {
    let text = text.replace('\0', "").replace('\\', r"\\").replace('\'', "''");
    format!("E'{text}'")
}

/// The server's version, for a check that says what is missing instead of failing on it.
pub(super) const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num'), \
     pg_catalog.current_setting('server_version')";

/// Settings and states, by name, and how many of our functions the role may not call.
pub(super) const SETTINGS: &str = "SELECT \
     pg_catalog.current_setting('max_prepared_transactions'), \
     pg_catalog.current_setting('fsync'), \
     pg_catalog.current_setting('full_page_writes'), \
     pg_catalog.current_setting('synchronous_commit'), \
     pg_catalog.pg_is_in_recovery()::text, \
     pg_catalog.pg_backend_pid(), \
     (SELECT string_agg(f.name, ', ') FROM (VALUES \
         ('pg_catalog.pg_control_system()'), \
         ('pg_catalog.pg_current_wal_lsn()'), \
         ('pg_catalog.pg_walfile_name(pg_lsn)'), \
         ('pg_catalog.pg_xact_status(xid8)'), \
         ('pg_catalog.pg_logical_emit_message(boolean, text, text)')) AS f (name) \
      WHERE NOT pg_catalog.has_function_privilege(f.name, 'EXECUTE')), \
     current_user";

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, Gtrid, LogId, Owner};

    fn branch() -> BranchId {
        let log = LogId { cluster: 0xC1, slot: 2, incarnation: 0xABCD };
        let owner = Owner { log, epoch: 7 };
        BranchId { gtrid: Gtrid::new(owner, 9, 0), bqual: Bqual::new(3, 4, owner) }
    }

    #[test]
    fn d_17_a_name_is_ours_byte_for_byte_or_not_at_all() {
        let ours = gid(&branch());
        assert_eq!(ours.len(), 100);
        assert_eq!(branch_of(&ours), Some(branch()));
        let foreign = [
            ours.to_uppercase(),
            ours.replacen("u1.", "u2.", 1),
            ours.replacen("u1.", "", 1),
            ours[..99].to_owned(),
            format!("{ours}0"),
            format!("{ours}.x"),
            ours.replace("abcd", "ABCD"),
            "u1.".to_owned(),
            String::new(),
            "transaction of somebody else's".to_owned(),
        ];
        for gid in foreign {
            assert_eq!(branch_of(&gid), None, "{gid}");
        }
    }

    #[test]
    fn a_block_is_marked_before_it_reads_anything_and_guarded_in_the_message_that_ends_it() {
        let backend = Backend { pid: 42, started_us: 1 };
        let expected = "BEGIN READ WRITE; SET LOCAL unanimous.branch = 'g'";
        assert_eq!(begin("g", Access::Writes), expected);
        assert_eq!(begin("g", Access::Reads), "BEGIN; SET LOCAL unanimous.branch = 'g'");
        let expected = "EXECUTE unanimous_guard('g', 42); PREPARE TRANSACTION 'g'";
        assert_eq!(prepare("g", backend), expected);
    }
    #[test]
    fn words_become_a_string_of_sql_and_nothing_else() {
        assert_eq!(literal("no word for 5 s"), "E'no word for 5 s'");
        assert_eq!(literal(r"a \' b\0'; --".replace(r"\0", "\0").as_str()), r"E'a \\'' b''; --'");
        let xact = Xact { system: 7, timeline: 1, xid: 9 };
        let put = put_alone("g", false, xact, "it's");
        assert!(put.contains("VALUES ('g', false, '7.1.9', E'it''s') ON CONFLICT"), "{put}");
    }

    #[test]
    fn what_is_written_beside_branches_waits_for_the_disk() {
        let written = writing("DELETE FROM t", Access::Writes);
        assert!(written.starts_with("SET TRANSACTION READ WRITE; SELECT "), "{written}");
        assert!(written.contains("'synchronous_commit'"), "{written}");
        let written = writing("DELETE FROM t", Access::Reads);
        assert!(!written.contains("READ WRITE"), "{written}");
    }
}
