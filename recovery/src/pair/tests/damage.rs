//! One directory damaged at random, between runs and while the log is written: it always opens,
//! with every record. `UNANIMOUS_DAMAGE` sets the rounds, default 40; `UNANIMOUS_SEED` the seed.

use super::*;
use std::os::unix::fs::FileExt;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Flips some written bytes in one file of a directory; gives its name.
fn flip(dir: &Path, rng: &mut Rng) -> String {
    let files: Vec<(PathBuf, Vec<u8>)> = tree(dir)
        .into_iter()
        .filter_map(|(path, bytes)| Some((path, bytes?)))
        .filter(|(path, _)| !path.to_string_lossy().contains(KEPT_PREFIX))
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .collect();
    let (path, bytes) = &files[rng.below(files.len())];
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let file = fs::File::options().write(true).open(path).unwrap();
    for _ in 0..=rng.below(8) {
        let at = written[rng.below(written.len())];
        file.write_all_at(&[bytes[at] ^ (1 << rng.below(8))], at as u64).unwrap();
    }
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
#[allow(clippy::print_stdout)]
fn a_damaged_directory_never_stops_the_log_and_never_changes_it() {
    let rounds = setting("UNANIMOUS_DAMAGE", 40);
    let mut rng = Rng(setting("UNANIMOUS_SEED", 0x5eed) | 1);
    let root = tempfile::tempdir().unwrap();
    let dirs = pair(root.path());
    append(COORDINATOR.open_pair(&dirs[0], &dirs[1]).unwrap(), 0..10).close().unwrap();
    let (mut count, mut rebuilt, mut damaged) = (10, 0, None);
    for round in 0..rounds {
        let (side, running, clean) = (rng.below(2), rng.below(4) == 0, rng.below(2) == 0);
        if damaged.is_none() {
            damaged = Some((side, flip(&dirs[side], &mut rng)));
        }
        let what = format!("round {round}: {damaged:?}");
        let opened = PAIRED.open_pair(&dirs[0], &dirs[1]);
        let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(records(&opened) == (0..count).map(record).collect::<Vec<_>>(), "{what}");
        for (index, report) in opened.report().directories.iter().enumerate() {
            let anew = report.state == Rebuilt;
            assert_eq!(anew, !report.detail.is_empty(), "{what}: {report:?}");
            assert!(!anew || damaged.as_ref().is_some_and(|(side, _)| *side == index), "{what}");
            rebuilt += u64::from(anew);
        }
        let writer = append(opened, count..count + 4);
        count += 4;
        damaged = running.then(|| (side, flip(&dirs[side], &mut rng)));
        if clean {
            writer.close().unwrap();
        }
    }
    println!("{rounds} times damaged, {rebuilt} times made anew, {count} records");
    assert!(rebuilt > rounds / 4, "{rebuilt} of {rounds} times made anew");
}
