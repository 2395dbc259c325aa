//! What a page is made of: fenced blocks, with the marks above them.
//!
//! A mark is a comment that readers do not see, on lines directly above a block:
//!
//! ```text
//! <!-- docs: from PATH -->         the block stands in this file, word for word
//! <!-- docs: picture -->           a drawing: nothing to check
//! <!-- docs: tree -->              each line that is not indented begins with a file or folder
//! <!-- docs: eventually -->        each command is repeated until it prints this
//! <!-- docs: goes on -->           runs in a terminal of its own until the page ends, or until
//!                                  another one that goes on is started: then Ctrl-C is pressed
//! <!-- docs: after Ctrl-C -->      pressed where something goes on
//! <!-- docs: build -->             runs in the repository and builds it; left out by --quick
//! <!-- docs: not run: REASON -->   must not run here
//! ```

use anyhow::{Context as _, bail, ensure};
use std::path::Path;

/// A file of Markdown.
#[derive(Debug)]
pub(crate) struct Page {
    /// From the root.
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// Lines outside of blocks, with their numbers.
    pub(crate) prose: Vec<(usize, String)>,
}

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Of the opening fence.
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) marks: Vec<Mark>,
    pub(crate) lines: Vec<String>,
}

/// How a block is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    From(String),
    Picture,
    Tree,
    Eventually,
    GoesOn,
    AfterCtrlC,
    Build,
    NotRun(String),
}

/// A command of a console block, and what it must print.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
}

/// Every page, by its path from the root.
pub(crate) fn paths(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = vec!["README.md".to_owned()];
    let mut folders = vec![root.join("docs"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    found[1..].sort();
    Ok(found)
}

impl Page {
    pub(crate) fn read(root: &Path, path: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &str, text: &str) -> anyhow::Result<Self> {
        let mut page = Self { path: path.to_owned(), blocks: Vec::new(), prose: Vec::new() };
        let mut marks = Vec::new();
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        while let Some((number, line)) = lines.next() {
            if let Some(mark) = mark_of(line) {
                marks.push(mark.with_context(|| format!("{path}:{number}"))?);
            } else if let Some(language) = line.strip_prefix("```") {
                let mut block = Block {
                    line: number,
                    language: language.to_owned(),
                    marks: std::mem::take(&mut marks),
                    lines: Vec::new(),
                };
                loop {
                    let (_, line) = lines
                        .next()
                        .with_context(|| format!("{path}:{number}: the block has no end"))?;
                    if line == "```" {
                        break;
                    }
                    block.lines.push(line.to_owned());
                }
                page.blocks.push(block);
            } else {
                ensure!(marks.is_empty(), "{path}:{number}: a mark stands directly above a block");
                ensure!(
                    !line.trim_start().starts_with("```"),
                    "{path}:{number}: a block that is indented is not checked"
                );
                page.prose.push((number, line.to_owned()));
            }
        }
        Ok(page)
    }

    /// For people.
    pub(crate) fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

fn mark_of(line: &str) -> Option<anyhow::Result<Mark>> {
    let words = line.strip_prefix("<!-- docs: ")?.strip_suffix(" -->")?;
    Some(match words.split_once(' ') {
        None if words == "picture" => Ok(Mark::Picture),
        None if words == "tree" => Ok(Mark::Tree),
        None if words == "eventually" => Ok(Mark::Eventually),
        None if words == "build" => Ok(Mark::Build),
        Some(("goes", "on")) => Ok(Mark::GoesOn),
        Some(("after", "Ctrl-C")) => Ok(Mark::AfterCtrlC),
        Some(("from", path)) => Ok(Mark::From(path.to_owned())),
        Some(("not", rest)) if rest.strip_prefix("run: ").is_some_and(|why| !why.is_empty()) => {
            Ok(Mark::NotRun(rest["run: ".len()..].to_owned()))
        }
        _ => Err(anyhow::anyhow!("not a mark: {words}")),
    })
}

impl Block {
    pub(crate) fn has(&self, mark: &Mark) -> bool {
        self.marks.contains(mark)
    }

    /// The commands of a console block.
    pub(crate) fn steps(&self) -> anyhow::Result<Vec<Step>> {
        let mut steps: Vec<Step> = Vec::new();
        let mut open = false;
        for (line, text) in (self.line + 1..).zip(&self.lines) {
            if let Some(command) = text.strip_prefix("$ ") {
                open = command.ends_with('\\');
                steps.push(Step { line, command: command.to_owned(), expected: Vec::new() });
            } else if let Some(step) = steps.last_mut() {
                match text.strip_prefix("> ").filter(|_| open) {
                    Some(more) => {
                        step.command += &format!("\n{more}");
                        open = more.ends_with('\\');
                    }
                    None => step.expected.push(text.clone()),
                }
            } else {
                bail!("line {line}: output without a command ('$ ' before it)");
            }
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PAGE: &str = "# A\n<!-- docs: eventually -->\n```console\n$ a \\\n> b\nout\n$ c\n```\n";

    #[test]
    fn a_page_is_its_blocks_and_its_prose() {
        let page = Page::parse("a.md", PAGE).unwrap();
        assert_eq!(page.prose, [(1, "# A".to_owned())]);
        assert!(page.blocks[0].has(&Mark::Eventually));
        let steps = page.blocks[0].steps().unwrap();
        assert_eq!(steps[0].command, "a \\\nb");
        assert_eq!(steps[0].expected, ["out"]);
        assert_eq!(steps[1].command, "c");
        assert_eq!((steps[0].line, steps[1].line), (4, 7));
    }

    #[test]
    fn what_would_not_be_checked_is_refused() {
        for (bad, why) in [
            ("<!-- docs: eventualy -->\n```console\n```\n", "not a mark"),
            ("<!-- docs: not run: -->\n```console\n```\n", "not a mark"),
            ("<!-- docs: picture -->\nwords\n", "directly above"),
            ("- item\n  ```console\n  $ true\n  ```\n", "indented"),
            ("```console\n$ true\n", "no end"),
        ] {
            let error = format!("{:#}", Page::parse("a.md", bad).unwrap_err());
            assert!(error.contains(why), "{bad}: {error}");
        }
        let page = Page::parse("a.md", "```console\nout\n```\n").unwrap();
        assert!(page.blocks[0].steps().is_err());
    }
}
