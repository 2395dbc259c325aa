//! Mistakes that the compiler finds, and what it says.

/// After a change of the compiler's words: `TRYBUILD=overwrite cargo test -p unanimous-sdk --test
/// misuse`, and read what it has written.
#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/misuse/*.rs");
}
