//! The steps of a participant at which a test can make the process kill itself.

/// Their names, in the order in which a branch passes them; those of the log's compaction lie
/// between any two of its steps.
pub const CRASH_POINTS: &[&str] = &[
    "participant.recover.listed",
    "participant.join.enlisted",
    "participant.prepare.received",
    "participant.prepare.durable",
    "participant.vote.before_send",
    "participant.vote.after_send",
    "participant.commit.received",
    "participant.commit.durable",
    "participant.compact.begun",
    "participant.compact.piece",
    "participant.compact.ended",
    "participant.compact.durable",
    "participant.compact.dropped",
    "participant.ack.before_send",
    "participant.ack.after_send",
];

/// A place from [`CRASH_POINTS`]. Nothing at all without the embedded resource.
#[inline(always)]
pub(crate) fn crash_point(name: &'static str) {
    #[cfg(feature = "embedded-resource")]
    unanimous_recovery::crash_point(name);
    #[cfg(not(feature = "embedded-resource"))]
    let _ = name;
}

#[cfg(test)]
mod tests {
    use super::CRASH_POINTS;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn collect(dir: &Path, used: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, used);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for part in text.split(concat!("crash_point", "(\"")).skip(1) {
                used.insert(part.split('"').next().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn the_list_names_exactly_the_places_in_the_sources() {
        let mut used = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        let listed: BTreeSet<_> = CRASH_POINTS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, listed);
    }
}
