//! The name of a branch as the server knows it: gtrid and bqual in their 24 bytes each, and a
//! format id that is ours alone.

use std::fmt;
use unanimous_core::{Bqual, BranchId, Gtrid};

/// "UNAN": what tells our branches from those of other transaction managers.
const FORMAT_ID: u32 = 0x554e_414e;
/// Bytes of a gtrid, and of a bqual.
const PART_LEN: usize = 24;

/// A branch's name as it stands in a statement.
#[derive(Clone, Copy)]
pub(super) struct Xid<'a>(pub(super) &'a BranchId);

impl fmt::Display for Xid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X'{}',X'{}',{FORMAT_ID}", self.0.gtrid, self.0.bqual)
    }
}

/// A row of `XA RECOVER`, as its text came: format id, length of the gtrid, length of the bqual,
/// and both without anything in between. They are any bytes, of anybody.
pub(super) type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

/// The branch of a row; `None`: it is not ours.
pub(super) fn branch((format_id, gtrid_len, bqual_len, data): &Row) -> Option<BranchId> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let part_len = u64::try_from(PART_LEN).ok();
    let ours = number(format_id) == Some(u64::from(FORMAT_ID))
        && number(gtrid_len) == part_len
        && number(bqual_len) == part_len
        && data.len() == 2 * PART_LEN;
    if !ours {
        return None;
    }
    let (gtrid, bqual) = data.split_at(PART_LEN);
    Some(BranchId { gtrid: Gtrid::from_bytes(gtrid).ok()?, bqual: Bqual::from_bytes(bqual).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{LogId, Owner};

    fn id() -> BranchId {
        let log = LogId { cluster: 0xff00_27fe, slot: 0x5c00, incarnation: u32::MAX };
        let owner = Owner { log, epoch: 0x0a0d_0027 };
        BranchId { gtrid: Gtrid::new(owner, u64::MAX, 0), bqual: Bqual::new(9, 0xc3_28, owner) }
    }

    fn row(format_id: &str, gtrid_len: &str, bqual_len: &str, data: &[u8]) -> Row {
        (format_id.into(), gtrid_len.into(), bqual_len.into(), data.to_vec())
    }

    #[test]
    fn a_statement_has_the_bytes_as_digits() {
        let text = Xid(&id()).to_string();
        assert_eq!(text.len(), 2 * (48 + 3) + 2 + 10);
        assert!(
            text.starts_with("X'01ff0027fe5c00ffffffff0a0d0027ffffffffffffffff00',X'"),
            "{text}"
        );
        assert!(text.ends_with("',1431191886"), "{text}");
    }

    /// D-26.
    #[test]
    fn a_row_is_read_by_its_lengths_and_only_our_own() {
        let id = id();
        let whole = [id.gtrid.as_bytes().as_slice(), id.bqual.as_bytes()].concat();
        let ours = FORMAT_ID.to_string();
        assert_eq!(branch(&row(&ours, "24", "24", &whole)), Some(id));
        let mut version = whole.clone();
        version[0] = 2;
        for (foreign, why) in [
            (row("1", "24", "24", &whole), "another's format"),
            (row("-1", "24", "24", &whole), "a negative one"),
            (row("18446744073709551615", "24", "24", &whole), "the largest"),
            (row(&ours, "23", "25", &whole), "cut elsewhere"),
            (row(&ours, "24", "24", &whole[1..]), "too short"),
            (row(&ours, "24", "24", &version), "a gtrid of another version"),
            (row(&ours, "", "", b""), "empty"),
            (row("\u{fffd}", "x", "24", &whole), "no numbers"),
        ] {
            assert_eq!(branch(&foreign), None, "{why}");
        }
    }
}
