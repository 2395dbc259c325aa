//! Named places at which a process can be made to kill itself, for the crash sweep.
//!
//! Without the feature `crash-points` a call is nothing at all.

/// The names in this crate, in the order in which a life of a log passes them.
pub const CRASH_POINTS: &[&str] = &[
    "init.marked",
    "init.stored",
    "init.witnessed",
    "init.identified",
    "init.done",
    "open.copied",
    "open.verified",
    "open.synced",
    "open.before_switch",
    "open.half",
    "open.switched",
    "open.identified",
    "open.cleaned",
    "pair.first_done",
    "pair.marked",
    "pair.set_aside",
    "pair.rebuilt",
    "pair.rejoined",
    "pair.alone_marked",
    "log.before_append",
    "log.after_insert",
    "log.after_flush",
    "log.after_sync",
    "log.after_told",
    "volume.made",
    "volume.named",
    "drop.before",
    "drop.start_stored",
    "drop.renamed",
    "drop.done",
    "witness.before",
    "witness.after",
    "close.stored",
    "close.half",
    "close.done",
];

/// Kills the own process (SIGKILL) if `UNANIMOUS_CRASH_POINT` is `name` or `name:n` and this is the
/// n-th pass. With `UNANIMOUS_CRASH_SIGNAL=TERM` it is asked to stop instead, and goes on.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn crash_point(_name: &'static str) {}

/// Kills the own process (SIGKILL) if `UNANIMOUS_CRASH_POINT` is `name` or `name:n` and this is the
/// n-th pass. With `UNANIMOUS_CRASH_SIGNAL=TERM` it is asked to stop instead, and goes on.
#[cfg(feature = "crash-points")]
pub fn crash_point(name: &'static str) {
    use rustix::process::Signal;
    use std::collections::BTreeMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("UNANIMOUS_CRASH_POINT").ok()?;
        match text.rsplit_once(':') {
            Some((name, pass)) => Some((name.to_owned(), pass.parse().ok()?)),
            None => Some((text, 1)),
        }
    });
    let pass = {
        let mut passes = PASSES.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = passes.entry(name).or_insert(0);
        *pass += 1;
        *pass
    };
    if wanted.as_ref().is_some_and(|(want, at)| want == name && *at == pass) {
        let asked = std::env::var_os("UNANIMOUS_CRASH_SIGNAL").is_some_and(|name| name == "TERM");
        let signal = if asked { Signal::TERM } else { Signal::KILL };
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        if asked {
            return;
        }
        loop {
            std::thread::park();
        }
    }
}

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
                paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for part in text.split(concat!("crash_point", "(\"")).skip(1) {
                used.insert(part.split('"').next().unwrap().to_owned());
            }
        }
        let listed: BTreeSet<_> = CRASH_POINTS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, listed);
        assert_eq!(listed.len(), CRASH_POINTS.len());
    }
}
