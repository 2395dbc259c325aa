//! How Unanimous is tried: a deterministic simulator over the cores that ship, and the invariants
//! it asserts.
//!
//! [`sim`] drives coordinators, participants and clients over simulated network, clock and disks
//! from one seed; [`invariants`] watches every step. [`real`] starts real processes for the
//! experiments in `src/bin`; [`golden`] holds today's code to what releases have left. Crash runs
//! of the real binary and end-to-end tests are in `tests/`.

pub mod golden;
pub mod invariants;
pub mod real;
pub mod sim;
