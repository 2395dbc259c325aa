//! The open-ended run of one target, guided by coverage. `./tests/run fuzz` builds and runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use unanimous_fuzz::{TARGETS, Target};

/// libFuzzer reads the command line itself.
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("UNANIMOUS_FUZZ").unwrap_or_default();
    unanimous_fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        panic!("UNANIMOUS_FUZZ is {name:?}, and not one of {}", names.join(", "))
    })
});

fuzz_target!(|bytes: &[u8]| {
    TARGET(bytes);
});
