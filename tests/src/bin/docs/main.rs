//! `docs`: runs what README.md and the pages say, as a reader would.
//!
//! Every fenced block is run, compiled elsewhere and compared, or declared to be a picture; a block
//! that nobody checks is a failure. Each page has a directory, an environment and (where the system
//! allows it) a network of its own, so that the addresses of the page are free.
//!
//! Exit code 0: everything was as the pages say; 1: it was not; 2: wrong usage.
//!
//! Reading order: `page` (what a page is made of), `shell` (where its commands run), `expect` (what
//! they must print), `blocks` (the other blocks), `prose` (links, and commands inside sentences),
//! `wire` (the page that is made from the descriptors).
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod blocks;
mod expect;
mod page;
mod prose;
mod run;
mod shell;
mod wire;

use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs every command of README.md, docs/ and examples/, and checks every other block.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only pages whose path contains this.
    #[arg(value_name = "PAGE")]
    pages: Vec<String>,
    /// Leave out what builds the project once more: blocks marked `docs: build`.
    #[arg(long)]
    quick: bool,
    /// Write the pages that are made from the sources, instead of comparing them.
    #[arg(long)]
    bless: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match check(&arguments) {
        Ok(tally) => {
            println!("{} commands, {} failed", tally.commands, tally.failed);
            ExitCode::from(u8::from(tally.failed > 0))
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// What was checked, and what was not as it should be.
#[derive(Debug, Default)]
struct Tally {
    /// Commands of console blocks that were run.
    commands: usize,
    /// Other blocks, links and commands inside sentences.
    others: usize,
    failed: usize,
    /// What was not run, with the reason.
    not_run: Vec<String>,
}

impl Tally {
    /// Tells of a failure at a place.
    fn fail(&mut self, place: &str, what: &str) {
        self.failed += 1;
        eprintln!("{place}: {}", what.replace('\n', "\n  "));
    }
}

fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let root = root();
    let mut tally = Tally::default();
    let page = root.join(wire::PAGE);
    if arguments.bless {
        std::fs::write(page, wire::page()?)?;
        eprintln!("written: {}", wire::PAGE);
        return Ok(tally);
    }
    if std::fs::read_to_string(page).unwrap_or_default() != wire::page()? {
        tally.fail(wire::PAGE, "is not what the .proto files say\nnext: ./tests/run docs --bless");
    }
    let world = shell::World::find(&root)?;
    let wanted = |path: &str| {
        arguments.pages.is_empty() || arguments.pages.iter().any(|part| path.contains(part))
    };
    for path in page::paths(&root)?.iter().filter(|path| wanted(path)) {
        let begun = std::time::Instant::now();
        let (commands, failed) = (tally.commands, tally.failed);
        let page = page::Page::read(&root, path)?;
        run::page(&page, &world, arguments.quick, &mut tally)?;
        blocks::check(&page, &world, &mut tally)?;
        prose::check(&page, &world, &mut tally)?;
        let (commands, failed) = (tally.commands - commands, tally.failed - failed);
        if commands + failed > 0 {
            let elapsed = begun.elapsed().as_secs_f64();
            eprintln!("{path}: {commands} commands, {failed} failed, {elapsed:.1} s");
        }
    }
    eprintln!("{} other blocks, links, paths and commands in sentences", tally.others);
    for line in &tally.not_run {
        eprintln!("not run: {line}");
    }
    Ok(tally)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}
