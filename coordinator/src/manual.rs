//! `unanimous completion` and `unanimous man`: made from the same tree of commands as the help.

use crate::cli::Cli;
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output, write_stdout};
use clap::CommandFactory;
use serde_json::json;
use std::path::Path;

const NAME: &str = "unanimous";

/// What a shell has to read, on stdout.
pub(crate) fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    write_stdout(&script)
}

/// A page for each command that is shown, as `unanimous-tx-list.1`.
pub(crate) fn pages(dir: &Path, output: Output) -> Result<(), Failure> {
    if !dir.is_dir() {
        let shown = dir.display();
        let (what, why) =
            (format!("{shown} is no directory"), "pages are written to one that exists");
        let failure = Failure::new(Code::NoSuchDirectory, what, why, format!("mkdir -p {shown}"));
        return Err(failure);
    }
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    collect(&root, NAME, &mut pages)?;
    let mut written = Vec::new();
    for (name, page) in pages {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| {
            let doing = format!("writing {}", path.display());
            Failure::io(&doing, error, format!("ls -la {}", dir.display()))
        })?;
        written.push(path.display().to_string());
    }
    output.show(&Document {
        whole: json!({ "pages": written }),
        items: Some(written.iter().map(|path| json!({ "page": path })).collect()),
        rows: written.iter().map(|path| vec![path.clone()]).collect(),
        ids: written,
        ..Document::default()
    })
}

fn collect(
    command: &clap::Command,
    name: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Failure> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone().display_name(name));
    man.render(&mut page).map_err(|error| Failure::io("making a page", error, "df -h"))?;
    pages.push((name.to_owned(), page));
    let shown = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
    for inner in command.get_subcommands().filter(shown) {
        collect(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}
