//! Looking at a stopped log without changing it: everything happens on a scratch copy in the
//! temporary directory.

use crate::chain;
use crate::codec::{self, CodecError};
use crate::damage::{At, Finding, Found, OpenError};
use crate::files::{self, Scratch};
use crate::frame::Frame;
use crate::home::{DirLock, check_log_is_there, check_witness_id, log_dir};
use crate::identity::{self, Identity, LogKind, Place};
use crate::open::{StoredRecord, stored_records};
use crate::volumes::Volumes;
use crate::witness::Witness;
use std::path::Path;
use unanimous_core::{FrameNumber, LogId, Lsn};

/// What a good log is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Whose log.
    pub kind: LogKind,
    /// The log's identity.
    pub id: LogId,
    /// The last stop was clean.
    pub clean: bool,
    /// The directory is where it was made; otherwise `serve` asks for `--moved` or `--copied`.
    pub in_place: bool,
    /// The number of the last open.
    pub generation: u64,
    /// Frames in the log.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// The highest frame; 0 in a log without any.
    pub last_frame: FrameNumber,
    /// The LSN that the next record would have.
    pub next_lsn: Lsn,
    /// Frames beyond the witness.
    pub unwitnessed: u64,
}

/// Makes the check that `serve` makes, and for a coordinator's log decodes every record. Writes
/// nothing into `dir`.
///
/// # Errors
/// As [`crate::OpenOptions::open`], except that a moved or copied directory is only reported.
pub fn verify(dir: &Path, kind: LogKind) -> Result<VerifyReport, OpenError> {
    inspect(dir, Some(kind), |frame| match kind {
        LogKind::Coordinator => check_records(&frame),
        LogKind::Accounts => Ok(()),
    })
}

/// All records of a good log, of any kind. Writes nothing into `dir`.
///
/// # Errors
/// As [`verify`].
pub fn read_records(dir: &Path) -> Result<Vec<StoredRecord>, OpenError> {
    match read_records_lenient(dir) {
        (records, None) => Ok(records),
        (_, Some(error)) => Err(error),
    }
}

/// The records up to the first damage, and then the damage. Writes nothing into `dir`. For people
/// only: what comes before the damage may be an older state of the log.
#[must_use]
pub fn read_records_lenient(dir: &Path) -> (Vec<StoredRecord>, Option<OpenError>) {
    let mut records = Vec::new();
    let checked = inspect(dir, None, |frame| {
        records.extend(stored_records(frame));
        Ok(())
    });
    (records, checked.err())
}

fn inspect(
    dir: &Path,
    kind: Option<LogKind>,
    take: impl FnMut(Frame) -> Result<(), Finding>,
) -> Result<VerifyReport, OpenError> {
    inspect_below(&std::env::temp_dir(), dir, kind, take)
}

fn inspect_below(
    temp: &Path,
    dir: &Path,
    kind: Option<LogKind>,
    take: impl FnMut(Frame) -> Result<(), Finding>,
) -> Result<VerifyReport, OpenError> {
    let nothing = |found| Finding::new(found, At::Directory, "").refuse(dir);
    let lock = match DirLock::take(dir, false) {
        Err(OpenError::Io { kind: std::io::ErrorKind::NotFound, .. }) => {
            return Err(nothing(Found::NothingThere));
        }
        taken => taken?,
    };
    if !dir.join(identity::FILE).exists() {
        let empty = files::entries(dir)?.is_empty();
        return Err(nothing(if empty { Found::NothingThere } else { Found::IdentityMissing }));
    }
    let identity = Identity::read(dir)?;
    if let Some(kind) = kind {
        identity.check_kind(dir, kind)?;
    }
    let witness = Witness::read(dir)?;
    let in_place = identity.place == Place::of(dir)?;
    check_witness_id(dir, &identity, &witness, !in_place)?;
    let log = log_dir(dir, witness.generation);
    check_log_is_there(dir, &log)?;
    let name = u64::from_le_bytes(files::random()?);
    let copy = Scratch::new(temp.join(format!("unanimous-verify-{name:016x}")));
    files::copy_store(&log, copy.dir())?;
    drop(lock);
    let store = Volumes::open(copy.dir()).map_err(|error| chain::store_error(&log, error))?;
    let checked = chain::check(dir, &store, &witness, take)?;
    Ok(VerifyReport {
        kind: identity.kind,
        id: identity.id,
        clean: witness.clean,
        in_place,
        generation: witness.generation,
        frames: checked.chain.frames(),
        records: checked.chain.records,
        last_frame: FrameNumber(checked.chain.last_frame()),
        next_lsn: Lsn(checked.chain.next_lsn),
        unwitnessed: checked.unwitnessed,
    })
}

fn check_records(frame: &Frame) -> Result<(), Finding> {
    for (record, lsn) in frame.records.iter().zip(frame.first_lsn..) {
        if let Err(error) = codec::decode_record(record) {
            let found = match error {
                CodecError::UnknownTag(_) => Found::RecordNewer,
                _ => Found::RecordBad,
            };
            let detail = format!("LSN {lsn}: {error}");
            return Err(Finding::new(found, At::Frame(frame.number), detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{COORDINATOR, append, edit_witness, killed, log_of, tree};

    #[test]
    fn b_11_a_check_changes_nothing_and_leaves_nothing_behind() {
        let (root, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = root.path().join("log");
        log_of(&dir, 5);
        let before = tree(&dir);
        let good = inspect_below(temp.path(), &dir, None, |_| Ok(())).unwrap();
        assert_eq!((good.frames, good.records, good.clean, good.in_place), (5, 5, true, true));
        std::fs::write(dir.join("log-00000001/volume-00000001/conf"), [7; 40]).unwrap();
        let damaged = tree(&dir);
        assert!(inspect_below(temp.path(), &dir, None, |_| Ok(())).is_err());
        assert_eq!(tree(&dir), damaged);
        assert_ne!(before, damaged);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_log_in_use_is_refused_and_a_copy_of_it_is_not() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        let opened = COORDINATOR.open(&dir).unwrap();
        assert_eq!(verify(&dir, LogKind::Coordinator), Err(OpenError::InUse(dir.clone())));
        let writer = append(opened, 0..3);
        let copy = killed(&dir, &root.path().join("copy"));
        let report = inspect(&copy, Some(LogKind::Coordinator), |_| Ok(())).unwrap();
        assert_eq!((report.records, report.in_place, report.clean), (3, false, false));
        writer.close().unwrap();
    }

    #[test]
    fn records_come_up_to_the_damage_and_core_records_are_decoded() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        log_of(&dir, 4);
        assert_eq!(read_records(&dir).unwrap().len(), 4);
        let error = verify(&dir, LogKind::Coordinator).unwrap_err();
        assert_eq!(error.found(), Some(Found::RecordNewer), "{error}");
        let error = verify(&dir, LogKind::Accounts).unwrap_err();
        assert_eq!(error.found(), Some(Found::IdentityForeign), "{error}");
        crate::testing::edit_store(&dir, |store| store.remove_frame(3));
        let (records, error) = read_records_lenient(&dir);
        assert_eq!(records.len(), 2);
        assert_eq!(error.and_then(|error| error.found()), Some(Found::FrameMissing));
    }

    /// `--copied` may be interrupted between the witness and the identity; in its own place a log
    /// has its own witness.
    #[test]
    fn another_incarnations_witness_is_damage_where_the_log_was_made_and_elsewhere_not() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("log");
        log_of(&dir, 0);
        edit_witness(&dir, |witness| witness.id.incarnation ^= 1);
        let error = inspect(&dir, None, |_| Ok(())).unwrap_err();
        assert_eq!(error.found(), Some(Found::WitnessForeign), "{error}");
        let identity = Identity::read(&dir).unwrap();
        Identity { place: Place::of(root.path()).unwrap(), ..identity }.write(&dir).unwrap();
        let report = inspect(&dir, None, |_| Ok(())).unwrap();
        assert_eq!((report.in_place, report.records), (false, 0));
    }
}
