//! How Unanimous is tried with what ships: real processes, sessions and logs.
//!
//! [`real`] starts real processes for the experiments in `src/bin`; [`golden`] holds today's code
//! to what releases have left. Crash runs of the real binary and end-to-end tests are in `tests/`;
//! the simulator over the pure cores is a crate of its own, `unanimous-sim`.

pub mod golden;
pub mod real;
