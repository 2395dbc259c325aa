//! What is bounded, over a long time and at the edges (reliability.md, catalogue 3.6 and 3.7).

#![allow(clippy::unwrap_used, reason = "a test")]

mod script;

use script::{Script, limits};
use unanimous_core::coordinator::{Limits, State};
use unanimous_core::message::Wait;

const DAY_MS: u64 = 24 * 3_600_000;

/// O-04: a participant that is silent in phase two for a day is asked ever more rarely, and what is
/// remembered of it does not grow.
#[test]
fn o_04_a_participant_silent_for_a_day() {
    /// Between two tries, after the backoff.
    const GAP_MS_MIN: u64 = 30_000;
    let mut s = Script::with_limits("", Limits::default());
    s.begin().enlist(1).enlist(2).commit(Some(2), Wait::Decided);
    s.votes_commit(1).votes_commit(2).flushed().done(2);
    let decided_at = s.now.0;
    let (mut sent_at, mut bytes) = (Vec::new(), 0);
    while s.now.0 < decided_at + DAY_MS {
        s.take_text();
        s.next_deadline();
        assert!(s.lines("send") <= 1 && s.lines("log") == 0, "{}", s.take_text());
        if s.lines("send p1 commit") == 1 {
            sent_at.push(s.now.0);
        }
        if sent_at.len() == 100 {
            bytes = format!("{:?}", s.coordinator).len();
        }
    }
    let gaps = || sent_at.windows(2).map(|pair| pair[1] - pair[0]);
    let backed_off = gaps().position(|gap| gap >= GAP_MS_MIN).unwrap();
    assert!(backed_off < 20, "{backed_off} tries before the longest delay");
    assert_eq!(gaps().skip(backed_off).find(|gap| *gap < GAP_MS_MIN), None);
    assert!(sent_at.len() > 1_000, "it is asked all day: {}", sent_at.len());
    let grown = format!("{:?}", s.coordinator).len().abs_diff(bytes);
    assert!(grown < 64, "{grown} bytes more, for numbers have got longer digits");
    s.done(1).flushed();
    assert_eq!(s.state(), "forgotten");
}

/// O-07: a branch beyond the limit is refused, and the transaction is as good as before.
#[test]
fn o_07_a_branch_beyond_the_limit_is_refused() {
    let branches_max = 3;
    let mut s = Script::with_limits("", Limits { branches_max, ..limits() });
    s.begin().enlist(1).enlist(2).enlist(3);
    let before = s.coordinator.canonical(s.now);
    s.enlist(4);
    assert!(s.take_text().ends_with("not enlisted: TooManyBranches\n"));
    assert_eq!(s.coordinator.canonical(s.now), before);
    s.enlist(3).commit(Some(3), Wait::Decided);
    s.votes_commit(1).votes_commit(2).votes_commit(3).flushed();
    assert_eq!(s.state(), format!("{:?}", State::Committing));
}
