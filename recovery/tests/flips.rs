//! One flipped byte in any file of a log: the undamaged records, or refused with nothing changed,
//! or (after a kill) fewer frames, none of them at or below the witness. `UNANIMOUS_FLIPS` sets the
//! flips per file, default 60; `UNANIMOUS_SEED` the seed. Prints what it counted.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{OPTIONS, append, copy, record, records, tree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use unanimous_recovery::ErrorClass;

const FRAMES: u64 = 120;
const BEYOND: u64 = 40;

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

/// A log of two lives; killed with its last frames unwitnessed, or cleanly stopped.
fn make(dir: &Path, clean: bool) {
    append(OPTIONS.open(dir).unwrap(), FRAMES / 2, |_, _| ()).close().unwrap();
    let writer = append(OPTIONS.open(dir).unwrap(), FRAMES / 2, |_, _| ());
    if clean {
        return writer.close().unwrap();
    }
    drop(writer);
    let opened = OPTIONS.open(dir).unwrap();
    let witness = fs::read(dir.join("witness")).unwrap();
    let writer = append(opened, BEYOND, |_, _| ());
    let image = dir.with_extension("image");
    copy(dir, &image);
    drop(writer);
    fs::remove_dir_all(dir).unwrap();
    fs::rename(image, dir).unwrap();
    fs::write(dir.join("witness"), witness).unwrap();
}

fn flips(clean: bool) {
    let root = tempfile::tempdir().unwrap();
    let original = root.path().join("original");
    make(&original, clean);
    let total = if clean { FRAMES } else { FRAMES + BEYOND };
    let mut rng = Rng(setting("UNANIMOUS_SEED", 0x5eed) | 1);
    let mut counts = BTreeMap::<(String, &str), u64>::new();
    let files: Vec<(PathBuf, Vec<u8>)> =
        tree(&original).into_iter().filter_map(|(path, bytes)| Some((path, bytes?))).collect();
    for (file, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let name = file.strip_prefix(&original).unwrap();
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for flip in 0..setting("UNANIMOUS_FLIPS", 60) {
            let anywhere = flip % 2 == 0;
            let at =
                if anywhere { rng.below(bytes.len()) } else { written[rng.below(written.len())] };
            let bit = 1 << rng.below(8);
            let dir = root.path().join("flipped");
            copy(&original, &dir);
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            fs::write(dir.join(name), flipped).unwrap();
            let before = tree(&dir);
            let what = format!("{} byte {at} bit {bit:#x}", name.display());
            let outcome = match OPTIONS.open(&dir) {
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::Damaged, "{what}: {error}");
                    assert!(tree(&dir) == before, "{what}: changed, {error}");
                    "refused"
                }
                Ok(opened) => {
                    let found = records(&opened);
                    let count = found.len() as u64;
                    let prefix: Vec<_> = (1..=count).map(record).collect();
                    assert!(found == prefix, "{what}: other records than were written");
                    assert_eq!(opened.report().clean, clean, "{what}");
                    if count == total {
                        "undamaged"
                    } else {
                        assert!(!clean && (FRAMES..total).contains(&count), "{what}: {count}");
                        assert_eq!(opened.report().unwitnessed, count - FRAMES, "{what}");
                        "fewer, none below the witness"
                    }
                }
            };
            *counts.entry((name.display().to_string(), outcome)).or_default() += 1;
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    let stop = if clean { "clean stop" } else { "kill" };
    for ((file, outcome), count) in &counts {
        println!("after a {stop}: {file}: {outcome}: {count}");
    }
    assert!(counts.keys().any(|(file, outcome)| file.ends_with("db") && *outcome == "refused"));
}

#[test]
fn s_02_one_flipped_byte_after_a_clean_stop() {
    flips(true);
}

#[test]
fn s_02_one_flipped_byte_after_a_kill() {
    flips(false);
}
