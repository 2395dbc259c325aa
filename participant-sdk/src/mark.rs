//! What an ended mark says about a transaction.

use unanimous_core::coordinator::EndedMark;
use unanimous_core::{Gtrid, LogId};

/// Whether the mark says that the transaction has ended durably.
pub(crate) fn passes(mark: &EndedMark, gtrid: &Gtrid) -> bool {
    passes_parts(mark.log, (mark.epoch, mark.sequence), &mark.exceptions, gtrid)
}

/// [`passes`], for a mark in another form.
pub(crate) fn passes_parts(
    log: LogId,
    upto: (u32, u64),
    exceptions: &[Gtrid],
    gtrid: &Gtrid,
) -> bool {
    let owner = gtrid.owner();
    owner.log == log && (owner.epoch, gtrid.sequence()) <= upto && !exceptions.contains(gtrid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::Owner;

    #[test]
    fn a_mark_passes_its_own_logs_transactions_up_to_it_but_the_exceptions() {
        let log = LogId { cluster: 1, slot: 2, incarnation: 3 };
        let gtrid = |log, epoch, sequence| Gtrid::new(Owner { log, epoch }, sequence, 0);
        let exceptions = vec![gtrid(log, 4, 9)];
        let mark = EndedMark { log, epoch: 5, sequence: 10, exceptions };
        for (expected, gtrid) in [
            (true, gtrid(log, 5, 10)),
            (true, gtrid(log, 4, u64::MAX)),
            (false, gtrid(log, 4, 9)),
            (false, gtrid(log, 5, 11)),
            (false, gtrid(log, 6, 0)),
            (false, gtrid(LogId { incarnation: 4, ..log }, 5, 1)),
        ] {
            assert_eq!(passes(&mark, &gtrid), expected, "{gtrid}");
        }
    }
}
