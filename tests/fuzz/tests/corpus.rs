//! Every committed input, through its target.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use unanimous_fuzz::TARGETS;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder(target)).unwrap();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_input_means_one_thing() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        let meant = inputs.iter().filter(|bytes| target(bytes)).count();
        assert!(meant >= 3, "{name}: of {} inputs {meant} mean something", inputs.len());
        assert!(inputs.iter().all(|bytes| bytes.len() <= 4_096), "{name}: an input is large");
    }
}

/// Cut off anywhere, or with a bit turned: no panic, and still one meaning.
#[test]
fn what_is_left_of_an_input_means_one_thing() {
    for (name, target) in TARGETS {
        for bytes in inputs(name) {
            for end in 0..bytes.len().min(512) {
                target(&bytes[..end]);
                let mut turned = bytes.clone();
                turned[end] ^= 1 << (end % 8);
                target(&turned);
            }
        }
    }
}
