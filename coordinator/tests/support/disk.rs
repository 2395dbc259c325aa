//! A disk below a coordinator whose syncs do not return while a test wants so, by a shim between
//! the process and the system (`tests/shim/disk.c`).

use super::{Served, eventually};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Fields of the shim's `struct control`, by their place.
const HOLD_SYNCS: u64 = 0;
const HELD_SYNCS: u64 = 3;

pub(crate) struct Disk(File);

impl Disk {
    /// A coordinator on such a disk.
    pub(crate) fn start() -> (Served, Self) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("control");
        std::fs::write(&path, [0; 64]).unwrap();
        let control = File::options().read(true).write(true).open(&path).unwrap();
        let shim = home.path().join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shim/disk.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).arg("-ldl");
        assert!(compile.status().unwrap().success());
        let data = super::data_dir(&home);
        let variables =
            [("LD_PRELOAD", shim), ("DISK_SHIM_CONTROL", path), ("DISK_SHIM_DIR", data)];
        (Served::start_in(home, &[], &variables), Self(control))
    }

    pub(crate) fn hold(&self) {
        self.0.write_all_at(&1_i32.to_ne_bytes(), 4 * HOLD_SYNCS).unwrap();
    }

    pub(crate) fn release(&self) {
        self.0.write_all_at(&0_i32.to_ne_bytes(), 4 * HOLD_SYNCS).unwrap();
    }

    /// Until a sync waits.
    pub(crate) fn until_held(&self) {
        eventually("a sync that waits", || {
            let mut held = [0; 4];
            self.0.read_exact_at(&mut held, 4 * HELD_SYNCS).unwrap();
            (i32::from_ne_bytes(held) > 0).then_some(())
        });
    }
}
