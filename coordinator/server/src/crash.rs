//! Where the crash sweep can kill a serving coordinator. Without the feature `crash-points` all of
//! it is nothing.

use std::io;
use std::task::Poll;

/// The names in this crate, in the order in which a transaction passes them. `*.after_send` is
/// passed once the message was handed to the operating system.
pub const CRASH_POINTS: &[&str] = &[
    "serve.begin.before_reply",
    "serve.enlist.before_reply",
    "serve.commit.requested",
    "serve.prepare.before_send",
    "serve.prepare.after_send",
    "serve.vote.received",
    "serve.decided.before_append",
    "serve.decided.durable",
    "serve.reply.before_send",
    "serve.reply.after_send",
    "serve.commit.before_send",
    "serve.commit.after_send",
    "serve.rollback.after_send",
    "serve.ack.received",
    "serve.end.before_append",
    "serve.compact.before_append",
    "serve.compact.before_drop",
];

#[cfg(feature = "crash-points")]
static QUEUED: std::sync::Mutex<Vec<&str>> = std::sync::Mutex::new(Vec::new());

/// The message just queued passes this point when it has been written.
#[cfg(feature = "crash-points")]
pub(crate) fn after_write(name: &'static str) {
    QUEUED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name);
}

/// The message just queued passes this point when it has been written.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn after_write(_name: &'static str) {}

/// A connection has written: what was queued before has gone out with it, or goes out right after.
#[cfg(feature = "crash-points")]
pub(crate) fn written(result: &Poll<io::Result<usize>>) {
    if !matches!(result, Poll::Ready(Ok(1..))) {
        return;
    }
    let names =
        std::mem::take(&mut *QUEUED.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    names.into_iter().for_each(unanimous_recovery::crash_point);
}

/// A connection has written: what was queued before has gone out with it, or goes out right after.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn written(_result: &Poll<io::Result<usize>>) {}

#[cfg(test)]
mod tests {
    use super::CRASH_POINTS;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    #[test]
    fn the_list_names_exactly_the_places_in_the_sources() {
        let mut used = BTreeSet::new();
        let mut paths = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for call in [concat!("crash_point", "(\""), concat!("after_write", "(\"")] {
                for part in text.split(call).skip(1) {
                    used.insert(part.split('"').next().unwrap().to_owned());
                }
            }
        }
        let listed: BTreeSet<_> = CRASH_POINTS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, listed);
        assert_eq!(listed.len(), CRASH_POINTS.len());
    }
}
