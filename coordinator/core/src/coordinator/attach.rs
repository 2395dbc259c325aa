//! Participants come back: what is pending for them is driven again, and they are remembered.

use super::{Coordinator, Item};
use crate::id::{Gtrid, Owner, ParticipantName, ResourceId};
use crate::record::Record;
use crate::{FrameNumber, Lsn, Millis};
use std::cmp::Ordering;
use std::ops::Bound;

/// Resources remembered of one participant: as many as a hello may declare.
const RESOURCES_MAX: usize = 256;

/// A participant that the log remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KnownParticipant {
    /// What it has declared so far, in order.
    pub resources: Vec<ResourceId>,
    pub(super) home: Lsn,
}

/// How far the driving of a returned participant's branches has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Redrive {
    /// Up to this transaction all were sent.
    after: Option<Gtrid>,
    /// Transactions sent whose answer has not come.
    unanswered: usize,
    /// When one was sent last.
    pub(super) moved_at: Millis,
}

impl Coordinator {
    /// A session has opened. What is pending for it is sent again, as much as the window allows;
    /// the backoff stays as it is.
    pub(super) fn on_attach(
        &mut self,
        now: Millis,
        participant: ParticipantName,
        resources: Vec<ResourceId>,
        seen: &[(Owner, FrameNumber)],
    ) {
        // Told in an earlier life: it must have been there when this one began. Told in a later
        // life: the log, and with it the epoch, went back. Once known, it stays so: the frames
        // written since are other ones.
        self.log_behind |=
            seen.iter().filter(|(owner, _)| owner.log == self.owner.log).any(|(owner, frame)| {
                match owner.epoch.cmp(&self.owner.epoch) {
                    Ordering::Less => *frame > self.frame_at_start,
                    Ordering::Equal => *frame > self.frame,
                    Ordering::Greater => true,
                }
            });
        self.remember_participant(&participant, resources);
        let redrive = Redrive { after: None, unanswered: 0, moved_at: now };
        self.redrives.insert(participant.clone(), redrive);
        if self.started {
            self.redrive(now, &participant);
        }
    }

    /// Its record needs no company: losing it means not to be listed until it comes again.
    fn remember_participant(&mut self, name: &ParticipantName, declared: Vec<ResourceId>) {
        let known = self.participants.get(name);
        if known.is_none() && self.participants.len() >= self.limits.participants_max {
            return;
        }
        let mut resources = known.map_or_else(Vec::new, |known| known.resources.clone());
        resources.extend(declared);
        resources.sort();
        resources.dedup();
        resources.truncate(RESOURCES_MAX);
        let old = known.map(|known| known.home);
        if known.is_some_and(|known| known.resources == resources) {
            return;
        }
        let record = Record::Participant { name: name.clone(), resources: resources.clone() };
        let home = self.append(record, false);
        self.homes.set(Item::Participant(name.clone()), old, home);
        self.participants.insert(name.clone(), KnownParticipant { resources, home });
    }

    /// Sends what is pending for the participant, in the order of the transactions, until the
    /// window is full. Looks at a bounded number of them; the next tick looks on.
    pub(super) fn redrive(&mut self, now: Millis, participant: &ParticipantName) {
        let window = self.limits.redrive_window;
        for _ in 0..self.limits.ticks_max {
            let Some(redrive) = self.redrives.get(participant) else { return };
            if redrive.unanswered >= window {
                return;
            }
            let after = redrive.after.map_or(Bound::Unbounded, Bound::Excluded);
            let concerned = self.concerned.get(participant);
            let next = concerned.and_then(|all| all.range((after, Bound::Unbounded)).next());
            let Some(gtrid) = next.copied() else {
                self.redrives.remove(participant);
                return;
            };
            let sent = self.drive(gtrid, Some(participant));
            if let Some(redrive) = self.redrives.get_mut(participant) {
                redrive.after = Some(gtrid);
                redrive.unanswered += usize::from(sent);
                redrive.moved_at = now;
            }
        }
        self.redrives_cut_short.insert(participant.clone());
    }

    /// Goes on where a redrive has looked at as many transactions as it may.
    pub(super) fn redrive_on(&mut self, now: Millis) {
        for participant in std::mem::take(&mut self.redrives_cut_short) {
            self.redrive(now, &participant);
        }
    }

    /// The participant has answered something: there is room for the next.
    pub(super) fn redrive_answered(&mut self, now: Millis, participant: &ParticipantName) {
        let Some(redrive) = self.redrives.get_mut(participant) else { return };
        redrive.unanswered = redrive.unanswered.saturating_sub(1);
        if self.started {
            self.redrive(now, participant);
        }
    }

    /// Whether a resend has to leave a transaction to the redrive, which has not come to it yet. If
    /// that has not moved for as long as the longest delay, its answers are lost: it moves on.
    pub(super) fn left_to_redrive(
        &mut self,
        now: Millis,
        gtrid: Gtrid,
        participant: &ParticipantName,
    ) -> bool {
        let Some(redrive) = self.redrives.get_mut(participant) else { return false };
        if redrive.after.is_some_and(|after| gtrid <= after) {
            return false;
        }
        if now.since(redrive.moved_at) > self.limits.retry_ms_max {
            redrive.unanswered = 0;
            self.redrive(now, participant);
        }
        true
    }

    /// All that came before this life's first record was durable.
    pub(super) fn redrive_all(&mut self, now: Millis) {
        let attached: Vec<ParticipantName> = self.redrives.keys().cloned().collect();
        for participant in attached {
            self.redrive(now, &participant);
        }
    }

    /// Notes that a transaction in the table has a branch of the participant.
    pub(super) fn concern(&mut self, participant: &ParticipantName, gtrid: Gtrid) {
        match self.concerned.get_mut(participant) {
            Some(all) => {
                all.insert(gtrid);
            }
            None => {
                self.concerned.insert(participant.clone(), [gtrid].into());
            }
        }
    }

    /// The transaction has left the table.
    pub(super) fn concern_ended(&mut self, participant: &ParticipantName, gtrid: &Gtrid) {
        let Some(all) = self.concerned.get_mut(participant) else { return };
        all.remove(gtrid);
        if all.is_empty() {
            self.concerned.remove(participant);
        }
    }
}
