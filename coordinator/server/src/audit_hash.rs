//! What chains the audit's entries: anybody can compute it again from what `ListAudit` gives.

use sha2::{Digest, Sha256};
use unanimous_proto::v1;

/// The hash of an entry, over its fields 1 to 16 (`AuditEntry.hash` in `admin.proto` is the
/// definition). Its own `hash` is not looked at.
///
/// Every field is preceded by its length, so that no two entries have the same bytes.
pub fn audit_hash(entry: &v1::AuditEntry) -> [u8; 32] {
    let v1::AuditEntry {
        number,
        at_ms,
        who,
        from,
        kind,
        result,
        gtrid,
        bqual,
        end,
        before,
        after,
        plan,
        reason,
        evidence,
        concerns,
        previous,
        hash: _,
    } = entry;
    let mut fields = Fields(Sha256::new());
    fields.number(*number);
    fields.number(*at_ms);
    fields.bytes(who.as_bytes());
    fields.bytes(from.as_bytes());
    fields.word(*kind);
    fields.word(*result);
    fields.bytes(gtrid.as_bytes());
    fields.bytes(bqual.as_bytes());
    fields.word(*end);
    for text in [before, after, plan, reason, evidence] {
        fields.bytes(text.as_bytes());
    }
    fields.number(*concerns);
    fields.bytes(previous);
    fields.0.finalize().into()
}

struct Fields(Sha256);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    /// An enum's number, one that this version does not know included.
    fn word(&mut self, word: i32) {
        self.0.update(i64::from(word).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> v1::AuditEntry {
        v1::AuditEntry {
            number: 17,
            at_ms: 1_795_291_200_123,
            who: "ops-anna".into(),
            from: "192.0.2.7:41822".into(),
            kind: v1::ActKind::Assert.into(),
            result: v1::AuditResult::Done.into(),
            gtrid: "01".repeat(24),
            bqual: "a5".repeat(24),
            end: v1::BranchEnd::RolledBack.into(),
            before: "COMMITTING".into(),
            after: "HEURISTIC, HEURISTIC MIXED".into(),
            plan: "bank-a DONE\nbank-b PREPARED -> HEURISTIC ROLLBACK".into(),
            reason: "bank-b lost its disk, INC-4411".into(),
            evidence: "löschte die Zeile".into(),
            concerns: 16,
            previous: vec![0x5a; 32],
            hash: vec![],
        }
    }

    fn hex(hash: [u8; 32]) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed by another program from the definition in `admin.proto`. A change of it breaks
    /// every audit that was ever exported.
    #[test]
    fn the_hash_is_the_one_that_was_written_down() {
        let known = "760ba045e57d10717fb34d1b264e1bcbd50089e44c4bbda393b378012da30e60";
        assert_eq!(hex(audit_hash(&entry())), known);
        let empty = "38723a2e5e8a17aa7950dc008209944e898f69a7bd10a23c839d341e935fd5ca";
        assert_eq!(hex(audit_hash(&v1::AuditEntry::default())), empty);
    }

    #[test]
    fn what_is_moved_from_a_field_to_its_neighbour_is_seen() {
        let (mut one, mut other) = (entry(), entry());
        (one.reason, one.evidence) = ("ab".into(), "c".into());
        (other.reason, other.evidence) = ("a".into(), "bc".into());
        assert_ne!(audit_hash(&one), audit_hash(&other));
    }
}
