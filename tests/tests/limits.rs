//! Bounds that have to fit together across crates.
#![allow(clippy::unwrap_used, reason = "a test")]

use unanimous_core::coordinator::Limits;
use unanimous_core::id::{LogId, Owner};
use unanimous_core::record::{BranchKind, BranchRecord, DETAIL_BYTES_MAX, Evidence};
use unanimous_core::{
    Bqual, BranchResult, Decision, Gtrid, ParticipantName, Record, ResourceId, TransactionName,
};
use unanimous_recovery::codec::encode_record;
use unanimous_recovery::frame::RECORD_BYTES_MAX;

/// The longest record that a transaction within the limits can need: every name, evidence and
/// detail at its bound.
#[test]
fn the_longest_transaction_fits_into_one_record() {
    let owner = Owner {
        log: LogId { cluster: u32::MAX, slot: u16::MAX, incarnation: u32::MAX },
        epoch: u32::MAX,
    };
    let branch = |number: usize| BranchRecord {
        bqual: Bqual::new(u32::MAX, u32::try_from(number).unwrap(), owner),
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
    let record = Record::Heuristic {
        gtrid: Gtrid::new(owner, u64::MAX, 255),
        name: TransactionName::new(&"n".repeat(64)).unwrap(),
        decision: Decision::Rollback,
        branches: (0..Limits::default().branches_max).map(branch).collect(),
    };
    let bytes = encode_record(&record).len();
    assert!(bytes <= RECORD_BYTES_MAX, "{bytes} bytes, {RECORD_BYTES_MAX} are allowed");
}
