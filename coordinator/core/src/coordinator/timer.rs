//! Deadlines: the time-out of an undecided transaction, and the one retry rule.

use super::{Coordinator, State};
use crate::id::{Gtrid, ParticipantName};
use crate::message::{CallerId, Message, Response, RollbackCause};
use crate::museum::{Bug, on};
use crate::outcome::Decision;
use crate::{Millis, backoff};
use std::collections::BTreeSet;

/// Why a transaction has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TimerKind {
    /// It is rolled back if undecided.
    Timeout,
    /// What is pending is sent again.
    Resend,
    /// A resolved one may go, if nothing needs it.
    Retire,
}

impl Coordinator {
    pub(super) fn on_ticked(&mut self, now: Millis) {
        for _ in 0..self.limits.ticks_max {
            let Some((at, gtrid, kind)) = self.timers.first().copied() else { break };
            if at > now {
                break;
            }
            self.timers.pop_first();
            match kind {
                TimerKind::Timeout => self.on_timeout(now, gtrid),
                TimerKind::Resend => self.on_resend(now, gtrid),
                TimerKind::Retire => self.on_retire(now, gtrid),
            }
        }
        self.redrive_on(now);
        if self.outcomes_check_at.is_some_and(|at| at <= now) {
            self.drop_old_outcomes(now);
        }
    }

    fn on_timeout(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let too_late = match transaction.state {
            State::OnePhase => on(Bug::TimesOutOnePhase),
            State::Deciding | State::Committing => on(Bug::TimesOutAfterDecision),
            _ => false,
        };
        if too_late {
            transaction.state = State::Preparing;
        }
        match transaction.state {
            State::Active | State::MarkedRollback | State::Preparing => {
                self.roll_back(now, gtrid, Some(RollbackCause::TimedOut));
            }
            State::OnePhase
            | State::Deciding
            | State::Committing
            | State::RollingBack
            | State::Heuristic => {}
        }
    }

    fn on_resend(&mut self, now: Millis, gtrid: Gtrid) {
        let rollback_tries_max = self.limits.rollback_tries_max;
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        transaction.next_try_at = None;
        transaction.tries = transaction.tries.saturating_add(1);
        if transaction.state == State::RollingBack && transaction.tries > rollback_tries_max {
            for branch in &mut transaction.branches {
                branch.left_to_ask |= branch.inquires && branch.pending_in(State::RollingBack);
            }
        }
        self.drive_again(now, gtrid);
        self.schedule(now, gtrid);
        self.finish_if_done(now, gtrid);
    }

    /// An operator does not want to wait for the next try.
    pub(super) fn on_retry(&mut self, now: Millis, by: CallerId, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else {
            return self.reply(by, Response::Unknown);
        };
        let branches = if self.started { transaction.pending().count() } else { 0 };
        if self.started {
            self.retry_now(now, gtrid);
        }
        self.reply(by, Response::Retried { branches });
    }

    pub(super) fn retry_now(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        transaction.tries = 0;
        if let Some(at) = transaction.next_try_at.take() {
            self.timers.remove(&(at, gtrid, TimerKind::Resend));
        }
        self.drive(gtrid, None);
        self.schedule(now, gtrid);
    }

    /// To all but participants that have come back, and whose turn for this one has not come.
    fn drive_again(&mut self, now: Millis, gtrid: Gtrid) {
        if self.redrives.is_empty() {
            self.drive(gtrid, None);
            return;
        }
        let Some(transaction) = self.transactions.get(&gtrid) else { return };
        let participants: BTreeSet<ParticipantName> =
            transaction.branches.iter().map(|branch| branch.participant.clone()).collect();
        for participant in participants {
            if !self.left_to_redrive(now, gtrid, &participant) {
                self.drive(gtrid, Some(&participant));
            }
        }
    }

    /// Sets the time of the next try, if anything is pending. Repeated calls keep the earlier time.
    pub(super) fn schedule(&mut self, now: Millis, gtrid: Gtrid) {
        let (seed, min_ms, max_ms) =
            (self.seed, self.limits.retry_ms_min, self.limits.retry_ms_max);
        let forget_tries_max = self.limits.forget_tries_max;
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let forgets = transaction.branches.iter().any(|branch| branch.forget_pending)
            && transaction.tries < forget_tries_max;
        let pending = transaction.pending().next().is_some();
        let gives_up = on(Bug::GivesUp) && transaction.tries > 3;
        if transaction.next_try_at.is_some() || !(pending || forgets) || gives_up {
            return;
        }
        let delay_ms = backoff::delay_ms(seed, gtrid.as_bytes(), transaction.tries, min_ms, max_ms);
        let at = now.plus(delay_ms);
        transaction.next_try_at = Some(at);
        self.timers.insert((at, gtrid, TimerKind::Resend));
    }

    pub(super) fn cancel_timers(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        self.timers.remove(&(transaction.timeout_at, gtrid, TimerKind::Timeout));
        if let Some(at) = transaction.next_try_at.take() {
            self.timers.remove(&(at, gtrid, TimerKind::Resend));
        }
    }

    /// Sends the present state's message to each branch whose answer is awaited, and forgets that
    /// are due. Whether there was anything to send.
    pub(super) fn drive(&mut self, gtrid: Gtrid, only: Option<&ParticipantName>) -> bool {
        debug_assert!(self.started, "nothing is sent before this life's first record is durable");
        let queued = self.actions.len();
        let Some(transaction) = self.transactions.get(&gtrid) else { return false };
        let state = transaction.state;
        let pending: Vec<_> = transaction
            .pending()
            .filter(|branch| only.is_none_or(|only| branch.participant == *only))
            .cloned()
            .collect();
        for branch in pending {
            let message = match state {
                State::Preparing => Message::Prepare,
                State::OnePhase => Message::CommitOnePhase,
                State::Committing => Message::Decide {
                    decision: Decision::Commit,
                    frame: self.frame,
                    evidence: branch.evidence.clone(),
                },
                State::RollingBack => Message::Decide {
                    decision: Decision::Rollback,
                    frame: self.frame,
                    evidence: None,
                },
                State::Active | State::MarkedRollback | State::Deciding | State::Heuristic => {
                    continue;
                }
            };
            self.send(gtrid, &branch, message);
        }
        self.send_forgets(gtrid, only);
        self.actions.len() > queued
    }
}
