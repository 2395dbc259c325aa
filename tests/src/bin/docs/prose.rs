//! Sentences: links lead somewhere, and the commands, options and settings in them exist.

use crate::Tally;
use crate::page::Page;
use crate::shell::World;
use std::collections::BTreeSet;

/// What begins so is a path of the project.
const FOLDERS: [&str; 8] = [
    "./tests/run",
    "coordinator/",
    "docs/",
    "examples/",
    "participant-sdk/",
    "proto/",
    "recovery/",
    "tests/",
];

/// Checks the page's sentences.
pub(crate) fn check(page: &Page, world: &World, tally: &mut Tally) -> anyhow::Result<()> {
    for (line, text) in &page.prose {
        for target in links(text) {
            tally.others += 1;
            if let Err(wrong) = check_link(page, world, target) {
                tally.fail(&page.place(*line), &wrong);
            }
        }
        // A line that is set off is a command to copy.
        let set_off = text.strip_prefix("    ").into_iter();
        for code in inline_code(text).chain(set_off) {
            let checked = if code.starts_with("unanimous ") {
                check_command(world, code)?
            } else if FOLDERS.iter().any(|folder| code.starts_with(folder)) {
                check_path(world, code)
            } else {
                continue;
            };
            tally.others += 1;
            if let Err(wrong) = checked {
                tally.fail(&page.place(*line), &format!("`{code}`: {wrong}"));
            }
        }
    }
    Ok(())
}

/// What `[words](target)` leads to.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// What stands between single backticks.
fn inline_code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn check_link(page: &Page, world: &World, target: &str) -> Result<(), String> {
    if target.starts_with("https://") {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let here = world.root.join(&page.path);
    let path = match file {
        "" => here,
        file => here.parent().map(|folder| folder.join(file)).unwrap_or_default(),
    };
    if path.is_dir() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{target}: {error}"))?;
    let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor_of);
    if anchor.is_empty() || headings.any(|heading| heading == anchor) {
        return Ok(());
    }
    Err(format!("{target}: no heading there has this name"))
}

/// A file, a folder, or `./tests/run` with a word that it knows.
fn check_path(world: &World, code: &str) -> Result<(), String> {
    let (path, word) = code.split_once(' ').unwrap_or((code, ""));
    if !world.root.join(path).exists() {
        return Err("there is no such file or folder".to_owned());
    }
    let script = std::fs::read_to_string(world.root.join("tests/run")).unwrap_or_default();
    let word = word.split(' ').next().unwrap_or(word);
    if word.is_empty() || script.lines().any(|line| line.starts_with(&format!("{word})"))) {
        return Ok(());
    }
    Err(format!("tests/run knows no {word}"))
}

/// As GitHub and others make it from a heading.
fn anchor_of(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Every word up to the first value is a command, every option one of its own.
fn check_command(world: &World, code: &str) -> anyhow::Result<Result<(), String>> {
    let words: Vec<&str> = code.split_whitespace().skip(1).collect();
    let mut path: Vec<&str> = Vec::new();
    let mut help = help_of(world, &path)?;
    for word in &words {
        if word.starts_with('-') {
            break;
        }
        let commands = commands_of(&help);
        if commands.contains(*word) {
            path.push(word);
            help = help_of(world, &path)?;
        } else if commands.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase()) {
            break;
        } else {
            return Ok(Err(format!("there is no command {word:?}")));
        }
    }
    let known: BTreeSet<&str> = help.split([' ', '\n', ',', '[', ']', '=', '.']).collect();
    let options = words.iter().filter(|word| word.starts_with('-'));
    let mut names = options.map(|word| word.split('=').next().unwrap_or(word));
    Ok(match names.find(|name| !known.contains(*name)) {
        Some(name) => Err(format!("there is no option {name}")),
        None => Ok(()),
    })
}

fn help_of(world: &World, path: &[&str]) -> anyhow::Result<String> {
    let output = world.unanimous(&[path, &["--help"]].concat())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn commands_of(help: &str) -> BTreeSet<&str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_code_and_anchors_are_found() {
        let text = "See [a](b.md#c) and `unanimous x`, [d](#e), `f`.";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c", "#e"]);
        assert_eq!(inline_code(text).collect::<Vec<_>>(), ["unanimous x", "f"]);
        assert_eq!(anchor_of("## Who may be told \"rolled back\""), "who-may-be-told-rolled-back");
    }

    #[test]
    fn commands_are_read_from_the_help() {
        let help = "Usage: x\n\nCommands:\n  list  All\n  help  This\n\nOptions:\n  -h\n";
        assert_eq!(commands_of(help).into_iter().collect::<Vec<_>>(), ["help", "list"]);
    }
}
