//! The marker table: a row for each branch that committed and whose transaction has not ended yet,
//! and one that names the table ([`super::evidence`]).

use super::evidence::NAME_LEN;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::{BranchId, Gtrid, Owner};

/// The gtrid of the row that names the table: no transaction has it, for every one begins with its
/// version.
const NAMING: [u8; 24] = [0; 24];
/// Rows that are read, and deleted in one transaction.
pub(super) const BATCH_MAX: usize = 200;

/// A marker table by its quoted name, and the statements that are made to it.
#[derive(Clone, Debug)]
pub(super) struct Markers {
    /// The database's quoted name with a dot, or nothing.
    database: String,
    table: String,
}

/// A row: gtrid, bqual.
pub(super) type Marker = (Vec<u8>, Vec<u8>);

impl Markers {
    /// `name`: a table of the database, or a database and a table with a dot between them.
    pub(super) fn new(database: Option<&str>, name: &str) -> Self {
        let (database, name) = match name.split_once('.') {
            Some((database, name)) => (Some(database), name),
            None => (database, name),
        };
        let database = database.map(|database| quoted(database) + ".").unwrap_or_default();
        Self { table: format!("{database}{}", quoted(name)), database }
    }

    /// Another table of the same database.
    pub(super) fn beside(&self, name: &str) -> String {
        format!("{}{}", self.database, quoted(name))
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    pub(super) fn create(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (gtrid BINARY(24) NOT NULL, bqual BINARY(24) NOT NULL, \
             created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
             PRIMARY KEY (gtrid, bqual)) ENGINE=InnoDB",
            self.table
        )
    }

    pub(super) fn insert(&self, branch: &BranchId) -> String {
        let BranchId { gtrid, bqual } = branch;
        format!("INSERT INTO {} (gtrid, bqual) VALUES (X'{gtrid}', X'{bqual}')", self.table)
    }

    /// Names the table.
    pub(super) fn name(&self, name: &[u8; NAME_LEN]) -> String {
        let (naming, name) = (hex(&NAMING), hex(name));
        format!("INSERT INTO {} (gtrid, bqual) VALUES (X'{naming}', X'{name}')", self.table)
    }

    /// Writes a row and undoes it. Rows that are deleted in the end were not undone. `own`: of
    /// whoever tries; several who write the same row would be each other's deadlock.
    pub(super) fn try_out(&self, own: &[u8; NAME_LEN]) -> String {
        let (table, naming, own) = (&self.table, hex(&NAMING), hex(own));
        format!(
            "START TRANSACTION; INSERT INTO {table} (gtrid, bqual) VALUES (X'{naming}', X'{own}'); \
             ROLLBACK; DELETE FROM {table} WHERE gtrid = X'{naming}' AND bqual = X'{own}'"
        )
    }

    /// The markers of a branch's transaction, and the row that names the table.
    pub(super) fn look(&self, branch: &BranchId) -> String {
        let (gtrid, naming) = (branch.gtrid, hex(&NAMING));
        format!("SELECT gtrid, bqual FROM {} WHERE gtrid IN (X'{gtrid}', X'{naming}')", self.table)
    }

    /// The row that names the table.
    pub(super) fn look_for_name(&self) -> String {
        format!("SELECT gtrid, bqual FROM {} WHERE gtrid = X'{}'", self.table, hex(&NAMING))
    }

    /// Markers that the coordinator no longer needs, up to [`BATCH_MAX`]. Reads without locks:
    /// those of branches that are still prepared are not seen, and not waited for.
    ///
    /// `alone`: the table of branches that end alone, if there is one. What it says of a branch and
    /// is not done is judged by the marker, which an operator's word may have passed meanwhile.
    pub(super) fn ended(&self, mark: &EndedMark, alone: Option<&str>) -> String {
        let of = |epoch, sequence, kind| Gtrid::new(Owner { log: mark.log, epoch }, sequence, kind);
        let (first, last) = (of(0, 0, 0), of(mark.epoch, mark.sequence, u8::MAX));
        let exceptions = mark.exceptions.iter().map(|gtrid| format!("X'{gtrid}'"));
        let exceptions = exceptions.collect::<Vec<_>>().join(",");
        let mut but = match &*exceptions {
            "" => String::new(),
            listed => format!(" AND gtrid NOT IN ({listed})"),
        };
        if let Some(alone) = alone {
            but += &format!(
                " AND (gtrid, bqual) NOT IN (SELECT gtrid, bqual FROM {alone} WHERE NOT done)"
            );
        }
        format!(
            "SELECT gtrid, bqual FROM {} WHERE gtrid BETWEEN X'{first}' AND X'{last}'{but} \
             LIMIT {BATCH_MAX}",
            self.table
        )
    }

    /// Deletes these markers in one transaction: each by its whole key, which locks nothing else.
    pub(super) fn delete(&self, markers: &[Marker]) -> String {
        let mut text = "START TRANSACTION; ".to_owned();
        for (gtrid, bqual) in markers {
            text += &format!(
                "DELETE FROM {} WHERE gtrid = X'{}' AND bqual = X'{}'; ",
                self.table,
                hex(gtrid),
                hex(bqual)
            );
        }
        text + "COMMIT"
    }
}

/// Whether the row is the branch's marker.
pub(super) fn is_of((gtrid, bqual): &Marker, branch: &BranchId) -> bool {
    gtrid == branch.gtrid.as_bytes() && bqual == branch.bqual.as_bytes()
}

/// The table's name, if the row is the one that tells it.
pub(super) fn naming((gtrid, bqual): &Marker) -> Option<[u8; NAME_LEN]> {
    (*gtrid == NAMING).then(|| bqual.as_slice().try_into().ok()).flatten()
}

fn quoted(part: &str) -> String {
    format!("`{}`", part.replace('`', "``"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, LogId};

    const LOG: LogId = LogId { cluster: 1, slot: 2, incarnation: 3 };

    fn gtrid(epoch: u32, sequence: u64) -> Gtrid {
        Gtrid::new(Owner { log: LOG, epoch }, sequence, 0)
    }

    #[test]
    fn a_tables_name_cannot_leave_its_quotes() {
        for (database, name, table) in [
            (Some("shop"), "markers", "`shop`.`markers`"),
            (Some("shop"), "other.markers", "`other`.`markers`"),
            (None, "markers", "`markers`"),
            (Some("s`; DROP"), "m`", "`s``; DROP`.`m```"),
        ] {
            assert_eq!(Markers::new(database, name).table(), table);
        }
    }

    #[test]
    fn rows_are_told_apart_by_their_bytes() {
        let bqual = |number| Bqual::new(1, number, Owner { log: LOG, epoch: 4 });
        let branch = BranchId { gtrid: gtrid(4, 5), bqual: bqual(1) };
        let row = |gtrid: &[u8], bqual: &[u8]| (gtrid.to_vec(), bqual.to_vec());
        let (own, other) = (branch.bqual.as_bytes(), bqual(2));
        assert!(is_of(&row(branch.gtrid.as_bytes(), own), &branch));
        assert!(!is_of(&row(branch.gtrid.as_bytes(), other.as_bytes()), &branch));
        assert!(!is_of(&row(gtrid(4, 6).as_bytes(), own), &branch));
        assert_eq!(naming(&row(&NAMING, &[7; 24])), Some([7; 24]));
        assert_eq!(naming(&row(&NAMING, &[7; 23])), None);
        assert_eq!(naming(&row(branch.gtrid.as_bytes(), own)), None);
    }

    #[test]
    fn what_has_ended_is_one_logs_range_without_the_exceptions() {
        let markers = Markers::new(None, "m");
        let mark = EndedMark {
            log: LOG,
            epoch: 9,
            sequence: 0x10,
            exceptions: vec![gtrid(9, 1), gtrid(8, 2)],
        };
        let log = "0100000001000200000003";
        assert_eq!(
            markers.ended(&mark, None),
            format!(
                "SELECT gtrid, bqual FROM `m` WHERE gtrid \
                 BETWEEN X'{log}00000000000000000000000000' AND X'{log}000000090000000000000010ff' \
                 AND gtrid NOT IN (X'{log}00000009000000000000000100',\
                 X'{log}00000008000000000000000200') LIMIT 200"
            )
        );
        let none = EndedMark { exceptions: Vec::new(), ..mark };
        assert!(markers.ended(&none, None).ends_with("10ff' LIMIT 200"));
        let but = "10ff' AND (gtrid, bqual) NOT IN (SELECT gtrid, bqual FROM `a` WHERE NOT done) \
                   LIMIT 200";
        assert!(markers.ended(&none, Some("`a`")).ends_with(but));
    }
}
