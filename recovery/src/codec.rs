//! Bytes of one record. The only file that knows bincode.
//!
//! A record is one tag byte of our own table, then the fields in bincode 2's standard
//! configuration. A tag's fields never change: a new shape is a new tag.

use crate::frame::RECORD_BYTES_MAX;
use crate::packed::Packed;
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unanimous_core::Record;

/// Tags of core records in format 1. Reserved are 7 to 9: Intent, Abort, Prepared; and 11 to 14:
/// Branch, Begin, Lease, Nested.
mod tag {
    pub(super) const BOOT: u8 = 1;
    pub(super) const COMMIT: u8 = 2;
    pub(super) const HEURISTIC: u8 = 3;
    pub(super) const MATCHED: u8 = 4;
    pub(super) const END: u8 = 5;
    pub(super) const OUTCOME_FLOOR: u8 = 6;
    pub(super) const OPERATOR_ACT: u8 = 10;
    pub(super) const CARRIED: u8 = 15;
    pub(super) const CARRIED_OUTCOMES: u8 = 16;
    pub(super) const FORGOTTEN: u8 = 17;
    pub(super) const PARTICIPANT: u8 = 18;
    pub(super) const LABELLED: u8 = 19;
    pub(super) const FORCED: u8 = 20;
}

/// bincode counts decoded sizes, at most 8 times the encoded ones (a u64 of one byte).
const DECODED_BYTES_MAX: usize = 8 * RECORD_BYTES_MAX;
type Config = Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Why bytes are not a record, or a value has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside the record.
    #[error("the record is cut off")]
    Truncated,
    /// The record is whole, and more follows.
    #[error("{0} bytes follow the record")]
    TrailingBytes(usize),
    /// A kind of record this version does not know: the log is of a newer version.
    #[error("the record has tag {0}, which only a newer version knows")]
    UnknownTag(u8),
    /// The bytes do not fit the kind of record.
    #[error("the record's fields cannot be read: {0}")]
    Malformed(String),
}

/// The bytes of a core record.
///
/// # Panics
/// Never: these types have a bincode form for every value.
#[must_use]
pub fn encode_record(record: &Record) -> Vec<u8> {
    let fields = |tag: u8, fields: Result<Vec<u8>, CodecError>| {
        let mut bytes = vec![tag];
        bytes.extend(fields.expect("every core record has a bincode form"));
        bytes
    };
    match record {
        Record::Boot { epoch } => fields(tag::BOOT, encode(epoch)),
        Record::Commit { gtrid, name, branches } => {
            fields(tag::COMMIT, encode(&(gtrid, name, branches)))
        }
        Record::Heuristic { gtrid, name, decision, branches } => {
            fields(tag::HEURISTIC, encode(&(gtrid, name, decision, branches)))
        }
        Record::Matched { gtrid, bqual, result } => {
            fields(tag::MATCHED, encode(&(gtrid, bqual, result)))
        }
        Record::End { gtrid } => fields(tag::END, encode(gtrid)),
        Record::OutcomeFloor { epoch, sequence } => {
            fields(tag::OUTCOME_FLOOR, encode(&(epoch, sequence)))
        }
        Record::Carried { gtrid, name, decision, heuristic, branches, matched } => {
            fields(tag::CARRIED, encode(&(gtrid, name, decision, heuristic, branches, matched)))
        }
        Record::CarriedOutcomes { committed } => {
            fields(tag::CARRIED_OUTCOMES, encode(&Packed::pack(committed)))
        }
        Record::Forgotten { gtrid, bqual } => fields(tag::FORGOTTEN, encode(&(gtrid, bqual))),
        Record::Participant { name, resources } => {
            fields(tag::PARTICIPANT, encode(&(name, resources)))
        }
        Record::Labelled { gtrid, labels } => fields(tag::LABELLED, encode(&(gtrid, labels))),
        Record::Forced { gtrid, name, decision, branches, matched, asserted, resolved } => {
            let state = (gtrid, name, decision, branches, matched, asserted, resolved);
            fields(tag::FORCED, encode(&state))
        }
        Record::OperatorAct { entry } => fields(tag::OPERATOR_ACT, encode(entry)),
    }
}

/// Reads a core record.
///
/// # Errors
/// Cut off, trailing bytes, fields that do not fit, or a tag of a newer version. Never panics.
pub fn decode_record(bytes: &[u8]) -> Result<Record, CodecError> {
    let (&kind, fields) = bytes.split_first().ok_or(CodecError::Truncated)?;
    Ok(match kind {
        tag::BOOT => Record::Boot { epoch: decode(fields)? },
        tag::COMMIT => {
            let (gtrid, name, branches) = decode(fields)?;
            Record::Commit { gtrid, name, branches }
        }
        tag::HEURISTIC => {
            let (gtrid, name, decision, branches) = decode(fields)?;
            Record::Heuristic { gtrid, name, decision, branches }
        }
        tag::MATCHED => {
            let (gtrid, bqual, result) = decode(fields)?;
            Record::Matched { gtrid, bqual, result }
        }
        tag::END => Record::End { gtrid: decode(fields)? },
        tag::OUTCOME_FLOOR => {
            let (epoch, sequence) = decode(fields)?;
            Record::OutcomeFloor { epoch, sequence }
        }
        tag::CARRIED => {
            let (gtrid, name, decision, heuristic, branches, matched) = decode(fields)?;
            Record::Carried { gtrid, name, decision, heuristic, branches, matched }
        }
        tag::CARRIED_OUTCOMES => {
            let committed = decode::<Packed>(fields)?.unpack();
            let bad = || CodecError::Malformed("an outcome names no branch of its own".to_owned());
            Record::CarriedOutcomes { committed: committed.ok_or_else(bad)? }
        }
        tag::FORGOTTEN => {
            let (gtrid, bqual) = decode(fields)?;
            Record::Forgotten { gtrid, bqual }
        }
        tag::PARTICIPANT => {
            let (name, resources) = decode(fields)?;
            Record::Participant { name, resources }
        }
        tag::LABELLED => {
            let (gtrid, labels) = decode(fields)?;
            Record::Labelled { gtrid, labels }
        }
        tag::FORCED => {
            let (gtrid, name, decision, branches, matched, asserted, resolved) = decode(fields)?;
            Record::Forced { gtrid, name, decision, branches, matched, asserted, resolved }
        }
        tag::OPERATOR_ACT => Record::OperatorAct { entry: Box::new(decode(fields)?) },
        unknown => return Err(CodecError::UnknownTag(unknown)),
    })
}

/// The bytes of another crate's record, which brings its own tag.
///
/// # Errors
/// A value that serde cannot describe in bincode, such as a sequence of unknown length.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, CONFIG)
        .map_err(|error| CodecError::Malformed(error.to_string()))
}

/// Reads another crate's record. Allocates no more than [`RECORD_BYTES_MAX`] justifies.
///
/// # Errors
/// Cut off, trailing bytes, or fields that do not fit. Never panics on any bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(CodecError::TrailingBytes(bytes.len() - used)),
        Err(DecodeError::UnexpectedEnd { .. }) => Err(CodecError::Truncated),
        Err(error) => Err(CodecError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unanimous_core::record::{BranchKind, BranchRecord, Evidence, OutcomeRecord};
    use unanimous_core::{
        AuditEntry, AuditKind, AuditResult, Bqual, BranchResult, Decision, Gtrid, Labels, LogId,
        Owner, ParticipantName, ResourceId, TransactionName,
    };

    fn records() -> Vec<(&'static str, Record)> {
        let log = LogId { cluster: 1, slot: 2, incarnation: 0xdead_beef };
        let owner = Owner { log, epoch: 1_790_000_000 };
        let gtrid = Gtrid::new(owner, 300, 0);
        let bqual = Bqual::new(7, 1, owner);
        let name = TransactionName::new("Überweisung").unwrap();
        let branch = BranchRecord {
            bqual,
            participant: ParticipantName::new("bank-a").unwrap(),
            resource: ResourceId::new("accounts/1").unwrap(),
            kind: BranchKind::TwoPhase,
            inquires: true,
            evidence: Some(Evidence { kind: "xid".into(), data: vec![0, 255] }),
            result: None,
            detail: String::new(),
        };
        let ended = BranchRecord {
            result: Some(BranchResult::Hazard),
            evidence: None,
            inquires: false,
            detail: "gone".into(),
            ..branch.clone()
        };
        let branches = vec![branch, ended];
        let result = BranchResult::RolledBack;
        let participant = branches[0].participant.clone();
        let resources = vec![branches[0].resource.clone()];
        let labels = Labels::new([("order", "4711"), ("customer", "Müller")]).unwrap();
        let outcome =
            OutcomeRecord { gtrid, branches: vec![bqual, bqual], unforgotten: vec![bqual] };
        let carried = Record::Carried {
            gtrid,
            name: name.clone(),
            decision: Decision::Rollback,
            heuristic: true,
            branches: branches.clone(),
            matched: vec![bqual],
        };
        let forced = Record::Forced {
            gtrid,
            name: name.clone(),
            decision: Decision::Commit,
            branches: branches.clone(),
            matched: Vec::new(),
            asserted: vec![bqual],
            resolved: true,
        };
        vec![
            ("boot", Record::Boot { epoch: u32::MAX }),
            ("commit", Record::Commit { gtrid, name: name.clone(), branches: branches.clone() }),
            ("heuristic", Record::Heuristic { gtrid, name, decision: Decision::Commit, branches }),
            ("matched", Record::Matched { gtrid, bqual, result }),
            ("end", Record::End { gtrid }),
            ("outcome_floor", Record::OutcomeFloor { epoch: 250, sequence: u64::MAX }),
            ("carried", carried),
            ("carried_outcomes", Record::CarriedOutcomes { committed: vec![outcome] }),
            ("forgotten", Record::Forgotten { gtrid, bqual }),
            ("participant", Record::Participant { name: participant, resources }),
            ("labelled", Record::Labelled { gtrid, labels }),
            ("forced", forced),
            ("operator_act", Record::OperatorAct { entry: Box::new(entry(gtrid, bqual)) }),
        ]
    }

    fn entry(gtrid: Gtrid, bqual: Bqual) -> AuditEntry {
        AuditEntry {
            number: 1,
            at_ms: 1_790_000_000_000,
            who: "alice".into(),
            from: "192.0.2.7:4711".into(),
            kind: AuditKind::Assert,
            result: AuditResult::Done,
            gtrid: Some(gtrid),
            bqual: Some(bqual),
            end: Some(BranchResult::Committed),
            before: "COMMITTING".into(),
            after: "HEURISTIC".into(),
            plan: "bank-b PREPARED -> COMMITTED".into(),
            reason: "INC-4411".into(),
            evidence: "row 17 is there".into(),
            concerns: 0,
            previous: [0; 32],
            hash: [255; 32],
        }
    }

    /// The committed files are what a released version wrote. `UNANIMOUS_BLESS=1` writes those of a
    /// new record kind.
    #[test]
    fn records_of_format_1_read_and_write_as_committed() {
        for (name, record) in records() {
            let path = format!("{}/testdata/record-v1-{name}.bin", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UNANIMOUS_BLESS").is_some()
                && !std::path::Path::new(&path).exists()
            {
                std::fs::write(&path, encode_record(&record)).unwrap();
            }
            let golden = std::fs::read(&path).unwrap();
            assert_eq!(decode_record(&golden).as_ref(), Ok(&record), "{name}");
            assert_eq!(encode_record(&record), golden, "{name}");
        }
    }

    #[test]
    fn cut_off_longer_and_newer_records_are_told_apart() {
        for (name, record) in records() {
            let bytes = encode_record(&record);
            for end in 0..bytes.len() {
                assert_eq!(
                    decode_record(&bytes[..end]),
                    Err(CodecError::Truncated),
                    "{name} {end}"
                );
            }
            for more in [1, 2, 40] {
                let longer = [&bytes[..], &[0; 40][..more]].concat();
                assert_eq!(decode_record(&longer), Err(CodecError::TrailingBytes(more)), "{name}");
            }
        }
        for unknown in [0, 7, 14, 21, 255] {
            assert_eq!(decode_record(&[unknown, 1]), Err(CodecError::UnknownTag(unknown)));
        }
    }

    #[test]
    fn a_length_out_of_thin_air_is_refused_before_it_is_allocated() {
        let huge = [253, 0, 0, 0, 0, 0, 0, 0, 1];
        assert!(decode::<String>(&huge).is_err());
        assert!(decode::<Vec<u64>>(&huge).is_err());
    }

    /// Each takes eight bytes when it is decoded, and one in the record.
    #[test]
    fn the_longest_record_of_the_smallest_numbers_is_read() {
        let numbers = vec![1_u64; RECORD_BYTES_MAX - 3];
        let bytes = encode(&numbers).unwrap();
        assert_eq!(bytes.len(), RECORD_BYTES_MAX);
        assert!(decode::<Vec<u64>>(&bytes) == Ok(numbers));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(record) = decode_record(&bytes) {
                prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
            }
        }
    }
}
