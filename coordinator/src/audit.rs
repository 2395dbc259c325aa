//! `unanimous audit`: what operators did, what they were refused, and whether that is still what
//! was written.

mod chain;

use crate::cli::{AuditCommand, AuditListArgs, Format, Global, IdArg, VerifyArgs};
use crate::codes::Code;
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, canonical_json, from_canonical_json};
use crate::output::{grouped, talk, write_stdout};
use crate::runtime;
use crate::tx::{enum_word, short_id};
use chain::{Break, Chain};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};
use unanimous_proto::v1;

pub(crate) use chain::Head;

/// The most entries that the coordinator gives at once.
const PAGE_MAX: u32 = 1_000;

/// Does an `audit` command.
pub(crate) fn run(command: &AuditCommand, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(args, global, output),
        AuditCommand::Export { file } => export(file.as_deref(), global),
        AuditCommand::Verify(args) => verify(args, global, output),
    }
}

/// Entries in pages, the oldest first.
struct Pages<'a> {
    admin: connect::Admin,
    address: &'a str,
    request: v1::ListAuditRequest,
    more: bool,
}

impl<'a> Pages<'a> {
    /// `gtrid` is a full id, or empty for all.
    async fn open(global: &'a Global, gtrid: String) -> Result<Self, Failure> {
        let address = global.admin_address.as_str();
        let admin = connect::admin(global).await?;
        let request = v1::ListAuditRequest { page_size: PAGE_MAX, after: 0, gtrid };
        Ok(Self { admin, address, request, more: true })
    }

    /// `None` after the last one.
    async fn next(&mut self) -> Result<Option<v1::ListAuditResponse>, Failure> {
        if !self.more {
            return Ok(None);
        }
        let page = self.admin.list_audit(self.request.clone()).await;
        let page = page
            .map_err(|status| Failure::from_status(&status, self.address, "listing the audit"))?;
        let page = page.into_inner();
        let last = page.entries.last().map(|entry| entry.number);
        self.more = page.more && last.is_some();
        self.request.after = last.unwrap_or(self.request.after);
        Ok(Some(page))
    }
}

/// All entries about a transaction, the oldest first.
pub(crate) async fn about(global: &Global, gtrid: &str) -> Result<Vec<v1::AuditEntry>, Failure> {
    let mut pages = Pages::open(global, gtrid.to_owned()).await?;
    let mut entries = Vec::new();
    while let Some(page) = pages.next().await? {
        entries.extend(page.entries);
    }
    Ok(entries)
}

fn list(args: &AuditListArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let (listed, matching) = runtime()?.block_on(newest(args, global))?;
    let whole = canonical_json("ListAuditResponse", &listed)?;
    output.show(&Document {
        items: whole["entries"].as_array().cloned(),
        whole,
        header: HEADER.to_vec(),
        rows: listed.entries.iter().map(|entry| row(entry, output)).collect(),
        wide_columns: (HEADER.len() - WIDE..HEADER.len()).collect(),
        ids: listed.entries.iter().map(|entry| entry.number.to_string()).collect(),
        ..Document::default()
    })?;
    if matches!(output.format(), Format::Table | Format::Wide) {
        let shown = listed.entries.len() as u64;
        talk(match matching > shown {
            true => format!("the newest {} of {} shown", grouped(shown), grouped(matching)),
            false => format!("{} shown.", grouped(shown)),
        });
    }
    Ok(())
}

/// The last entries that were asked for, and how many there are.
async fn newest(
    args: &AuditListArgs,
    global: &Global,
) -> Result<(v1::ListAuditResponse, u64), Failure> {
    let gtrid = args.id.as_ref().and_then(IdArg::full);
    let mut pages = Pages::open(global, gtrid.map(|id| id.to_string()).unwrap_or_default()).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    if args.id.is_none() {
        // Numbers have no gap, so the total tells where the last ones begin.
        let first = v1::ListAuditRequest { page_size: 1, ..v1::ListAuditRequest::default() };
        let first = pages.admin.list_audit(first).await;
        let first = first.map_err(|status| {
            Failure::from_status(&status, &global.admin_address, "listing the audit")
        })?;
        pages.request.after = first.into_inner().total.saturating_sub(args.limit.into());
    }
    let mut listed = v1::ListAuditResponse::default();
    let mut left_out = pages.request.after;
    while let Some(page) = pages.next().await? {
        listed.total = page.total;
        let ends = |entry: &v1::AuditEntry| {
            args.id.as_ref().is_none_or(|id| entry.gtrid.ends_with(id.digits()))
        };
        listed.entries.extend(page.entries.into_iter().filter(ends));
        let over = listed.entries.len().saturating_sub(limit);
        listed.entries.drain(..over);
        left_out += over as u64;
    }
    unambiguous(args.id.as_ref(), &listed.entries)?;
    let matching = left_out + listed.entries.len() as u64;
    Ok((listed, matching))
}

/// The end of an id names one transaction or none.
fn unambiguous(id: Option<&IdArg>, entries: &[v1::AuditEntry]) -> Result<(), Failure> {
    let Some(first) = id.and_then(|_| entries.first()) else { return Ok(()) };
    match entries.iter().find(|entry| entry.gtrid != first.gtrid) {
        None => Ok(()),
        Some(other) => {
            let what = format!("several transactions end with {}", short_id(&first.gtrid));
            let why = format!("{} and {} do", first.gtrid, other.gtrid);
            let next = format!("unanimous audit list --id {}", first.gtrid);
            Err(Failure::new(Code::AmbiguousId, what, why, next))
        }
    }
}

/// Columns of a list; the last ones only `wide`.
const HEADER: [&str; 12] = [
    "ENTRY",
    "WHEN",
    "WHO",
    "ACT",
    "RESULT",
    "TRANSACTION",
    "REASON",
    "FROM",
    "BRANCH",
    "BEFORE",
    "AFTER",
    "EVIDENCE",
];
/// See [`HEADER`].
const WIDE: usize = 5;

fn row(entry: &v1::AuditEntry, output: Output) -> Vec<String> {
    vec![
        entry.number.to_string(),
        output.at(written_at(entry)),
        entry.who.clone(),
        act_words(entry),
        result_words(entry),
        short_id(&entry.gtrid).to_owned(),
        entry.reason.clone(),
        entry.from.clone(),
        entry.bqual.get(..16).unwrap_or(&entry.bqual).to_owned(),
        entry.before.clone(),
        entry.after.clone(),
        entry.evidence.clone(),
    ]
}

/// By the coordinator's clock.
pub(crate) fn written_at(entry: &v1::AuditEntry) -> SystemTime {
    let since = Duration::from_millis(entry.at_ms);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What was done, and for an assertion how the branch has ended.
pub(crate) fn act_words(entry: &v1::AuditEntry) -> String {
    let act = crate::force::verb(entry.kind());
    match entry.end() {
        v1::BranchEnd::Unspecified => act.to_owned(),
        end => format!("{act} {}", enum_word(end.as_str_name(), "BRANCH_END_")),
    }
}

/// What came of it, and of which entry it speaks.
pub(crate) fn result_words(entry: &v1::AuditEntry) -> String {
    let word = enum_word(entry.result().as_str_name(), "AUDIT_RESULT_").to_lowercase();
    match entry.concerns {
        0 => word,
        other => format!("{word} (see {other})"),
    }
}

/// Never over a file that somebody has written.
fn export(file: Option<&Path>, global: &Global) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        let next = "unanimous audit export, to see it on stdout";
        Failure::io(&format!("writing {}", path.display()), error, next)
            .or("unanimous audit export ANOTHER_FILE")
    };
    let mut made = match file {
        Some(path) => {
            Some((path, BufWriter::new(File::create_new(path).map_err(|e| failed(path, e))?)))
        }
        None => None,
    };
    let written = runtime()?.block_on(async {
        let mut pages = Pages::open(global, String::new()).await?;
        let mut count = 0_u64;
        while let Some(page) = pages.next().await? {
            let mut lines = String::new();
            for entry in &page.entries {
                lines += &format!("{}\n", canonical_json("AuditEntry", entry)?);
            }
            count += page.entries.len() as u64;
            match &mut made {
                Some((path, file)) => {
                    file.write_all(lines.as_bytes()).map_err(|error| failed(path, error))?;
                }
                None => write_stdout(lines.as_bytes())?,
            }
        }
        Ok::<_, Failure>(count)
    });
    if let (Err(_), Some((path, _))) = (&written, &made) {
        // Half an export would be taken for the whole of a shorter audit.
        let _ = std::fs::remove_file(path);
    }
    let count = written?;
    if let Some((path, file)) = made {
        let whole = file.into_inner().map_err(|error| error.into_error());
        whole.and_then(|file| file.sync_all()).map_err(|error| failed(path, error))?;
        talk(format!("{} entries are in {}", grouped(count), path.display()));
    }
    Ok(())
}

fn verify(args: &VerifyArgs, global: &Global, output: Output) -> Result<(), Failure> {
    let mut chain = Chain::new(args.expect);
    match &args.file {
        Some(path) => verify_file(path, &mut chain)?,
        None => runtime()?.block_on(async {
            let mut pages = Pages::open(global, String::new()).await?;
            while let Some(page) = pages.next().await? {
                let entries = page.entries.iter();
                entries.clone().try_for_each(|entry| chain.push(entry)).map_err(broken)?;
            }
            Ok::<_, Failure>(())
        })?,
    }
    let head = chain.end().map_err(broken)?;
    let count = grouped(head.number);
    output.show(&Document {
        whole: json!({ "entries": head.number, "unbroken": true, "head": head.to_string() }),
        rows: vec![
            vec!["audit".to_owned(), format!("{count} entries, unbroken")],
            vec!["head".to_owned(), head.to_string()],
        ],
        ids: vec![head.to_string()],
        ..Document::default()
    })
}

fn verify_file(path: &Path, chain: &mut Chain) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let next = "unanimous audit verify, for the coordinator's own";
        Failure::io(&format!("reading {}", path.display()), error, next)
    };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?).split(b'\n');
    for number in 1_u64.. {
        let Some(line) = lines.next() else { break };
        let line = line.map_err(failed)?;
        let entry: v1::AuditEntry = from_canonical_json("AuditEntry", &line).map_err(|error| {
            let what = format!("line {number} of {} is no entry", path.display());
            let next = "unanimous audit export ANOTHER_FILE";
            Failure::new(Code::AuditBroken, what, error, next)
        })?;
        chain.push(&entry).map_err(broken)?;
    }
    Ok(())
}

fn broken(broken: Break) -> Failure {
    let why = match broken {
        Break::Changed { .. } | Break::ChangedNumber { .. } => {
            "its hash is not that of what stands in it"
        }
        Break::Missing { .. } => "entries have numbers without a gap",
        Break::NotFollowing { .. } => "it names another entry as the one before it",
        Break::NotNoted { .. } => "its hash is another one: it was written anew",
        Break::Cut { .. } => "the audit ends before it",
    };
    let next = "unanimous audit verify, for the coordinator's own audit, if this is a file";
    Failure::new(Code::AuditBroken, broken.to_string(), why, next)
        .or("unanimous audit export ANOTHER_FILE, and compare it with older ones")
}
