//! The bug museum in real processes: the bug named by `UNANIMOUS_MUSEUM`.

use unanimous_core::museum::Bug;

/// Whether this is the bug of this process.
#[cfg(not(feature = "museum"))]
#[inline(always)]
#[must_use]
pub const fn bug(_bug: Bug) -> bool {
    false
}

/// Whether this is the bug of this process.
#[cfg(feature = "museum")]
#[must_use]
pub fn bug(bug: Bug) -> bool {
    static READ: std::sync::Once = std::sync::Once::new();
    READ.call_once(|| {
        let named = std::env::var("UNANIMOUS_MUSEUM").ok().and_then(|name| name.parse().ok());
        if named.is_some() {
            unanimous_core::museum::switch_on(named);
        }
    });
    unanimous_core::museum::on(bug)
}
