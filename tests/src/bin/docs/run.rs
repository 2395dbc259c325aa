//! Runs the console blocks of a page, from its top to its end, in one shell.

use crate::Tally;
use crate::expect::compare;
use crate::page::{Block, Mark, Page, Step};
use crate::shell::{Shell, World};
use std::path::Path;
use std::time::{Duration, Instant};

/// A command of a page takes no longer.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// A build from nothing, on a slow machine.
const BUILD_MAX: Duration = Duration::from_secs(1_800);
/// What is said to come comes within this time.
const EVENTUALLY_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Runs what the page shows.
pub(crate) fn page(
    page: &Page,
    world: &World,
    quick: bool,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let blocks: Vec<&Block> =
        page.blocks.iter().filter(|block| block.language == "console").collect();
    if blocks.is_empty() {
        return Ok(());
    }
    let mut shell = Shell::start(world)?;
    for block in blocks {
        let steps = block.steps().map_err(|error| error.context(page.place(block.line)))?;
        let build = block.has(&Mark::Build);
        let why = block.marks.iter().find_map(|mark| match mark {
            Mark::NotRun(why) => Some(why.as_str()),
            Mark::Build if quick => Some("--quick builds nothing"),
            _ => None,
        });
        if let Some(why) = why {
            for step in steps {
                let place = page.place(step.line);
                tally.not_run.push(format!("{place}: {} ({why})", step.command));
            }
            continue;
        }
        if block.has(&Mark::AfterCtrlC)
            && let Err(error) = shell.press_ctrl_c()
        {
            tally.fail(&page.place(block.line), &format!("{error:#}"));
        }
        let here = if build { format!("cd {}", world.root.display()) } else { "true".to_owned() };
        shell.run(&format!("pushd . >/dev/null; {here}"), COMMAND_MAX)?;
        for step in &steps {
            tally.commands += 1;
            if let Err(wrong) = self::step(&mut shell, block, step, build) {
                let place = page.place(wrong.line.unwrap_or(step.line));
                tally.fail(&place, &format!("$ {}\n{}", step.command, wrong.text));
                if wrong.hangs {
                    tally.fail(&page.place(step.line), "the rest of the page was not run");
                    return Ok(());
                }
            }
        }
        shell.run("popd >/dev/null", COMMAND_MAX)?;
    }
    Ok(())
}

/// What was not as the page says.
struct Wrong {
    line: Option<usize>,
    text: String,
    /// The shell cannot go on.
    hangs: bool,
}

fn step(shell: &mut Shell, block: &Block, step: &Step, build: bool) -> Result<(), Wrong> {
    let hangs =
        |error: anyhow::Error| Wrong { line: None, text: format!("{error:#}"), hangs: true };
    let at_most = if build { BUILD_MAX } else { COMMAND_MAX };
    if block.has(&Mark::GoesOn) {
        let file = shell.go_on(&step.command).map_err(hangs)?;
        return said_so_far(step, &file, if build { BUILD_MAX } else { EVENTUALLY_MAX });
    }
    let started = Instant::now();
    loop {
        let said = shell.run(&step.command, at_most).map_err(hangs)?;
        let judged = judge(step, &said.lines, Some(said.code));
        let again = block.has(&Mark::Eventually) && started.elapsed() < EVENTUALLY_MAX;
        if judged.is_ok() || !again {
            return judged;
        }
        std::thread::sleep(LOOK);
    }
}

/// What goes on is waited for until it has said what the page shows.
fn said_so_far(step: &Step, file: &Path, at_most: Duration) -> Result<(), Wrong> {
    if step.expected.is_empty() {
        let text = "what goes on has to show when it is ready".to_owned();
        return Err(Wrong { line: None, text, hangs: false });
    }
    let started = Instant::now();
    loop {
        let said = std::fs::read(file).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<String> = said.lines().map(ToOwned::to_owned).collect();
        let judged = judge(step, &lines, None);
        if judged.is_ok() || started.elapsed() >= at_most {
            return judged;
        }
        std::thread::sleep(LOOK);
    }
}

/// A command fails if, and only if, the page shows its error.
fn judge(step: &Step, lines: &[String], code: Option<i32>) -> Result<(), Wrong> {
    let wrong = |line, text: String| Err(Wrong { line, text, hangs: false });
    if let Err(at) = compare(&step.expected, lines) {
        let expected = step.expected.get(at).map_or("nothing more", String::as_str);
        let found = if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") };
        // The command's own lines are before its output.
        let line = step.line + step.command.lines().count() + at;
        return wrong(Some(line), format!("expected: {expected}\nfound:\n{found}"));
    }
    // Ours, and those of the examples' `main`.
    let error = |line: &String| line.starts_with("error[") || line.starts_with("Error: ");
    let fails = step.expected.iter().any(error);
    match code {
        Some(code) if (code != 0) != fails => {
            let words = if fails { "an error" } else { "exit code 0" };
            wrong(None, format!("expected: {words}\nfound: exit code {code}\n{}", lines.join("\n")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(expected: &str) -> Step {
        let expected = expected.lines().map(ToOwned::to_owned).collect();
        Step { line: 10, command: "a \\\nb".to_owned(), expected }
    }

    #[test]
    fn a_failure_is_named_by_its_line() {
        let found = ["one".to_owned(), "three".to_owned()];
        let Err(wrong) = judge(&shown("one\ntwo"), &found, Some(0)) else { panic!("it matched") };
        assert_eq!(wrong.line, Some(13));
        assert!(wrong.text.contains("expected: two") && wrong.text.contains("three"));
    }

    #[test]
    fn a_command_fails_if_and_only_if_the_page_shows_it() {
        let error = ["error[A]: b".to_owned()];
        assert!(judge(&shown("error[A]: b"), &error, Some(4)).is_ok());
        assert!(judge(&shown("error[A]: b"), &error, Some(0)).is_err());
        assert!(judge(&shown(""), &[], Some(0)).is_ok());
        assert!(judge(&shown(""), &[], Some(1)).is_err());
    }
}
