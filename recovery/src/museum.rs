//! Seeded bugs that the tests must find. Each is one line at its site.

/// Whether the named bug is switched on: it is listed in `UNANIMOUS_MUSEUM` (comma separated).
#[cfg(not(feature = "museum"))]
#[inline(always)]
#[must_use]
pub const fn bug(_name: &str) -> bool {
    false
}

/// Whether the named bug is switched on: it is listed in `UNANIMOUS_MUSEUM` (comma separated).
#[cfg(feature = "museum")]
#[must_use]
pub fn bug(name: &str) -> bool {
    static LISTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let listed = LISTED.get_or_init(|| std::env::var("UNANIMOUS_MUSEUM").unwrap_or_default());
    listed.split(',').any(|one| one == name)
}
