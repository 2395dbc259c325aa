//! What stands between a real process and the system, from `tests/shim`.

use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `tests/shim/NAME.c` to `NAME.so` in `dir`, for `LD_PRELOAD`.
///
/// # Errors
/// There is no `cc`, or it refuses.
pub fn compile(name: &str, dir: &Path) -> anyhow::Result<PathBuf> {
    let shim = dir.join(format!("{name}.so"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim");
    let source = sources.join(format!("{name}.c"));
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
    let compiled = command.args([&shim, &source]).arg("-ldl").status();
    ensure!(compiled.context("running cc")?.success(), "cc does not compile {}", source.display());
    Ok(shim)
}
