//! Fuzzing targets: everything that reads bytes from outside, as functions of bytes.
//!
//! A target asserts more than that nothing panics: what is read says the same when it is written
//! again. `tests/corpus.rs` runs each on the inputs in `corpus/<target>/`, whole and damaged, in
//! every test run.
//!
//! To add a target: a function here, a line in `TARGETS`, a folder of inputs that mean something.
//! An input that a target fails on goes into that folder, and stays.
#![cfg(feature = "targets")]

use unanimous_core::record::OutcomeRecord;
use unanimous_core::{
    Bqual, BranchId, Gtrid, InstanceId, Labels, ParticipantName, Record, ResourceId,
    TransactionName,
};
use unanimous_recovery::codec::{decode_record, encode_record};
use unanimous_recovery::frame::Frame;
use unanimous_sdk::fuzzing as sdk;
use unanimous_server::fuzzing;

/// A target: whether the bytes have a meaning. It panics if they mean two things.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", frame),
    ("record", record),
    ("ids", ids),
    ("names", names),
    ("filter", filter),
    ("participate", fuzzing::participate),
    ("transact", fuzzing::transact),
    ("call", fuzzing::call),
    ("order", sdk::order),
    ("told", sdk::told),
    ("headers", sdk::headers),
    ("accounts", sdk::accounts),
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// A frame of the log, as it stands, and with the checksum that its bytes should have: nobody
/// guesses one.
fn frame(bytes: &[u8]) -> bool {
    let summed = [bytes, &crc32c::crc32c(bytes).to_le_bytes()[..]].concat();
    let read = [bytes, &summed[..]].map(|bytes| {
        Frame::decode(bytes).is_ok_and(|frame| {
            assert_eq!(frame.encode(), bytes, "a frame is written otherwise");
            true
        })
    });
    read.contains(&true)
}

/// A record of the log. bincode reads some numbers in more forms than it writes.
fn record(bytes: &[u8]) -> bool {
    decode_record(bytes).is_ok_and(|record| {
        let written = encode_record(&record);
        // An outcome that was not packed is packed, if it can be, which alone takes more bytes.
        let shorter = written.len() <= bytes.len();
        let repacked = matches!(record, Record::CarriedOutcomes { .. });
        assert!(shorter || repacked, "{record:?} is written longer than it was");
        let again = decode_record(&written).map(sorted);
        assert_eq!(again, Ok(sorted(record)), "a record is another one");
        true
    })
}

/// No log has two outcomes of one transaction; bytes may, and packing changes their order.
fn sorted(mut record: Record) -> Record {
    if let Record::CarriedOutcomes { committed } = &mut record {
        let whole =
            |one: &OutcomeRecord| (one.gtrid, one.branches.clone(), one.unforgotten.clone());
        committed.sort_by_cached_key(whole);
    }
    record
}

/// Identifiers, as bytes and as text.
fn ids(bytes: &[u8]) -> bool {
    let mut known = false;
    if let Ok(gtrid) = Gtrid::from_bytes(bytes) {
        assert_eq!(gtrid.as_bytes()[..], *bytes);
        assert_eq!(gtrid.to_string().parse(), Ok(gtrid));
        assert_eq!(Gtrid::new(gtrid.owner(), gtrid.sequence(), gtrid.kind()), gtrid);
        known = true;
    }
    if let Ok(bqual) = Bqual::from_bytes(bytes) {
        assert_eq!(bqual.as_bytes()[..], *bytes);
        assert_eq!(bqual.to_string().parse(), Ok(bqual));
        known = true;
    }
    known |= InstanceId::from_bytes(bytes).is_some_and(|instance| instance.0[..] == *bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return known };
    let printed = [
        text.parse().map(|id: Gtrid| id.to_string()),
        text.parse().map(|id: Bqual| id.to_string()),
        text.parse().map(|id: BranchId| id.to_string()),
    ];
    for printed in printed.into_iter().flatten() {
        assert_eq!(printed, text.to_ascii_lowercase(), "an id is printed otherwise");
        known = true;
    }
    known
}

/// Names and labels.
fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let known = [
        TransactionName::new(text).map(|name| name.to_string()),
        ParticipantName::new(text).map(|name| name.to_string()),
        ResourceId::new(text).map(|name| name.to_string()),
    ];
    let mut any = false;
    for name in known.into_iter().flatten() {
        assert_eq!(name, text);
        any = true;
    }
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    any | Labels::new(pairs).is_ok_and(|labels| {
        let again = Labels::new(labels.iter());
        assert_eq!(again, Ok(labels.clone()));
        assert!(labels.iter().all(|(key, value)| labels.value(key) == Some(value)));
        !labels.is_empty()
    })
}

/// A filter of a list.
fn filter(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| fuzzing::filter(text).is_some())
}
