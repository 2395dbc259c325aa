//! The seats of a theatre in a file of their own: a resource written by hand.
//!
//! The file is a list of lines that only grows. Each begins with the checksum of the rest:
//!
//! ```text
//! 0f66a1c2 kept GTRID.BQUAL 12=ada 13=ada    prepared: it can still be sold and be set free
//! 7be21e0d sold GTRID.BQUAL                  committed
//! 83a2f6b4 free GTRID.BQUAL                  rolled back after it was prepared
//! ```
//! A theatre for longer would write the file anew when it opens it: what is still needed into
//! another file, synced, then renamed, then the directory synced.
//!
//! Three rules make it a resource that money could be trusted to:
//!
//! 1. Durable first, then said. What a call answers is on the disk before it answers.
//! 2. Every call may come at any time and again, for a branch that is over or was never here.
//! 3. Nothing is claimed without proof. Work that is not known here is voted down; a branch that is
//!    not known to be sold was not sold.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Status;
use unanimous_sdk::{
    Branch, BranchId, BranchResult, Done, Evidence, Prepared, Resource, Retry, Vote,
};

/// Seats are numbered from 1.
const SEATS: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Work in memory. It is gone with the process, which is right: nobody has voted for it.
    Chosen,
    /// In the file, prepared.
    Kept,
    /// In the file, for good. A seat is sold once, so that remembering every branch that has sold
    /// one takes bounded room. A resource whose memory grows drops it in `Resource::ended`.
    Sold,
}

#[derive(Debug)]
struct Booking {
    stage: Stage,
    guests: BTreeMap<u32, String>,
}

pub struct Theatre {
    bookings: Mutex<BTreeMap<BranchId, Booking>>,
    file: Arc<Mutex<File>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Theatre {
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path)?;
        // Two processes would sell every seat twice.
        file.try_lock().context("another process has the theatre open")?;
        // The name of a new file must survive a power cut as well as what is in it.
        File::open(path.canonicalize()?.parent().context("no directory")?)?.sync_all()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut bookings = BTreeMap::new();
        let mut whole_bytes = 0;
        for line in text.split_inclusive('\n') {
            let Some(words) = checked(line) else { break };
            apply(&mut bookings, words).with_context(|| format!("the line {words:?}"))?;
            whole_bytes += line.len();
        }
        // A tail without a line's end may be torn: its sync never returned, so nobody was told.
        // Anything else that cannot be read is damage, perhaps to what somebody was told: guessing
        // would be worse than not to open.
        ensure!(!text[whole_bytes..].contains('\n'), "the file is damaged");
        file.set_len(whole_bytes.try_into()?)?;
        file.sync_all()?;
        Ok(Self { bookings: Mutex::new(bookings), file: Arc::new(Mutex::new(file)) })
    }

    /// The work of a call, under its branch.
    pub fn book(&self, branch: &Branch, seat: u32, guest: &str) -> Result<(), Status> {
        if !(1..=SEATS).contains(&seat) || guest.is_empty() || guest.contains(['=', ' ', '\n']) {
            return Err(Status::invalid_argument("no such seat, or no such guest"));
        }
        let mut bookings = locked(&self.bookings);
        if bookings.values().any(|booking| booking.guests.contains_key(&seat)) {
            return Err(Status::already_exists(format!("seat {seat} is taken")));
        }
        match bookings.get_mut(branch.id()) {
            Some(booking) if booking.stage == Stage::Chosen => {
                booking.guests.insert(seat, guest.to_owned());
                Ok(())
            }
            // It was undone while the call was on its way.
            _ => Err(Status::aborted("the transaction is over here")),
        }
    }

    pub fn sold(&self) -> BTreeMap<u32, String> {
        let bookings = locked(&self.bookings);
        let sold = bookings.values().filter(|booking| booking.stage == Stage::Sold);
        sold.flat_map(|booking| booking.guests.clone()).collect()
    }

    fn stage(&self, branch: &BranchId) -> Option<Stage> {
        locked(&self.bookings).get(branch).map(|booking| booking.stage)
    }

    /// Makes a line durable, and only then true. Reading the file does the same in the same order.
    async fn write(&self, words: String) -> Result<(), Retry> {
        let line = format!("{:08x} {words}\n", crc32c::crc32c(words.as_bytes()));
        let file = Arc::clone(&self.file);
        // A sync takes milliseconds, in which the participant answers others.
        let written = tokio::task::spawn_blocking(move || {
            let mut file = locked(&file);
            file.write_all(line.as_bytes())?;
            file.sync_data()
        });
        if !matches!(written.await, Ok(Ok(()))) {
            // Whether the line is on the disk, only reading it again can tell. A second sync would
            // say yes without having written it.
            eprintln!("the theatre's file cannot be written");
            std::process::abort();
        }
        apply(&mut locked(&self.bookings), &words).map_err(Retry::because)
    }
}

/// What a line says, if it is whole.
fn checked(line: &str) -> Option<&str> {
    let (sum, words) = line.strip_suffix('\n')?.split_once(' ')?;
    (u32::from_str_radix(sum, 16) == Ok(crc32c::crc32c(words.as_bytes()))).then_some(words)
}

fn apply(bookings: &mut BTreeMap<BranchId, Booking>, words: &str) -> Result<()> {
    let mut words = words.split(' ');
    let (what, branch) = (words.next(), words.next().context("no branch")?.parse()?);
    match what {
        Some("kept") => {
            let mut booking = Booking { stage: Stage::Kept, guests: BTreeMap::new() };
            for word in words {
                let (seat, guest) = word.split_once('=').context("no guest")?;
                booking.guests.insert(seat.parse()?, guest.to_owned());
            }
            bookings.insert(branch, booking);
        }
        Some("sold") => bookings.get_mut(&branch).context("not kept")?.stage = Stage::Sold,
        Some("free") => drop(bookings.remove(&branch).context("not kept")?),
        _ => bail!("unknown"),
    }
    Ok(())
}

impl Resource for Theatre {
    fn kind(&self) -> &'static str {
        "theatre"
    }

    fn joined(&self, branch: &BranchId) {
        let booking = || Booking { stage: Stage::Chosen, guests: BTreeMap::new() };
        locked(&self.bookings).entry(*branch).or_insert_with(booking);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let kept = match locked(&self.bookings).get(branch) {
            // Rule 3: lost with an earlier life of this process, or never here.
            None => return Ok(Vote::Rollback { reason: "no such booking".to_owned() }),
            // Rule 2: asked again, the same vote.
            Some(booking) if booking.stage == Stage::Kept => None,
            Some(booking) if booking.stage == Stage::Sold => {
                return Ok(Vote::Rollback { reason: "it is over here".to_owned() });
            }
            Some(booking) => {
                let words = booking.guests.iter().map(|(seat, guest)| format!(" {seat}={guest}"));
                Some(words.collect::<String>())
            }
        };
        match kept {
            Some(guests) if guests.is_empty() => {
                locked(&self.bookings).remove(branch);
                return Ok(Vote::ReadOnly);
            }
            // Rule 1.
            Some(guests) => self.write(format!("kept {branch}{guests}")).await?,
            None => {}
        }
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        match self.stage(branch) {
            Some(Stage::Kept) => self.write(format!("sold {branch}")).await?,
            Some(Stage::Sold) => {}
            // Rule 3: neither "done" nor "rolled back" could be proved.
            Some(Stage::Chosen) | None => return Ok(Done::Heuristic(BranchResult::Hazard)),
        }
        Ok(Done::Done)
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        match self.stage(branch) {
            Some(Stage::Kept) => self.write(format!("free {branch}")).await?,
            Some(Stage::Chosen) => drop(locked(&self.bookings).remove(branch)),
            // This process alone has the file: whoever says so contradicts an earlier order, and
            // must learn of it.
            Some(Stage::Sold) => return Ok(Done::Heuristic(BranchResult::Committed)),
            None => {}
        }
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let bookings = locked(&self.bookings);
        let kept = bookings.iter().filter(|(_, booking)| booking.stage == Stage::Kept);
        Ok(kept.map(|(branch, _)| Prepared { branch: *branch, evidence: None }).collect())
    }

    fn votes_early(&self, branch: &BranchId) -> bool {
        locked(&self.bookings).get(branch).is_some_and(|booking| !booking.guests.is_empty())
    }

    fn remembers_committed(&self) -> bool {
        true
    }
}
