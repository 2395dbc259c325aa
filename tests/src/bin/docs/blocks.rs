//! The blocks that are not run: each is compared with what is, or checked by the command that reads
//! such files.

use crate::Tally;
use crate::page::{Block, Mark, Page};
use crate::shell::World;
use std::path::Path;

/// Checks every block that is not a console.
pub(crate) fn check(page: &Page, world: &World, tally: &mut Tally) -> anyhow::Result<()> {
    for block in page.blocks.iter().filter(|block| block.language != "console") {
        tally.others += 1;
        if let Err(wrong) = check_block(block, world)? {
            tally.fail(&page.place(block.line), &wrong);
        }
    }
    Ok(())
}

fn check_block(block: &Block, world: &World) -> anyhow::Result<Result<(), String>> {
    let Block { language, lines, .. } = block;
    match (language.as_str(), block.marks.as_slice()) {
        ("text", [Mark::Picture]) => Ok(Ok(())),
        ("text", [Mark::Tree]) => Ok(tree(lines, &world.root)),
        ("proto", []) => excerpt_of_protos(lines, &world.root),
        ("toml", []) => check_settings(lines, world),
        (_, [Mark::From(path)]) => Ok(excerpt_of(lines, &world.root, path)),
        (language, marks) => Ok(Err(format!(
            "nothing checks a block of {language:?} with the marks {marks:?}\n\
             console: is run; toml: is given to `config check`; proto: stands in proto/\n\
             any other: <!-- docs: from PATH --> above it, or ```text and <!-- docs: picture -->"
        ))),
    }
}

fn tree(lines: &[String], root: &Path) -> Result<(), String> {
    let names = lines.iter().filter(|line| !line.starts_with(' '));
    let mut names = names.filter_map(|line| line.split_whitespace().next());
    match names.find(|name| !root.join(name).exists()) {
        Some(name) => Err(format!("there is no {name}")),
        None => Ok(()),
    }
}

fn check_settings(lines: &[String], world: &World) -> anyhow::Result<Result<(), String>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines.join("\n"))?;
    let path = file.path().display().to_string();
    let output = world.unanimous(&["config", "check", &path])?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(if output.status.success() { Ok(()) } else { Err(said.trim_end().to_owned()) })
}

fn excerpt_of_protos(lines: &[String], root: &Path) -> anyhow::Result<Result<(), String>> {
    for entry in std::fs::read_dir(root.join("proto/unanimous/v1"))? {
        if stands_in(lines, &std::fs::read_to_string(entry?.path())?) {
            return Ok(Ok(()));
        }
    }
    Ok(Err("these lines stand in no file of proto/unanimous/v1".to_owned()))
}

fn excerpt_of(lines: &[String], root: &Path, path: &str) -> Result<(), String> {
    match std::fs::read_to_string(root.join(path)) {
        Err(error) => Err(format!("{path}: {error}")),
        Ok(text) if stands_in(lines, &text) => Ok(()),
        Ok(_) => Err(format!("these lines do not stand in {path}, one after the other")),
    }
}

/// Whether the lines stand in the text, one after the other, further to the right or not.
fn stands_in(lines: &[String], text: &str) -> bool {
    let all: Vec<&str> = text.lines().collect();
    let wanted = to_the_left(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    !wanted.is_empty() && all.windows(wanted.len()).any(|part| to_the_left(part) == wanted)
}

/// Without the spaces that all lines begin with.
fn to_the_left<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let indents = lines.iter().filter(|line| !line.trim().is_empty());
    let indent = indents.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| line.get(indent..).unwrap_or("")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_stands_word_for_word() {
        let text = "fn a() {\n    if x {\n        y();\n\n        z();\n    }\n}\n";
        let is = |excerpt: &str| {
            let lines: Vec<String> = excerpt.lines().map(ToOwned::to_owned).collect();
            stands_in(&lines, text)
        };
        assert!(is("if x {\n    y();\n\n    z();\n}"));
        assert!(is("y();"));
        assert!(!is("if x {\n    y();\n    z();\n}"), "a line is missing");
        assert!(!is("if x {\ny();"), "the shape differs");
        assert!(!is("y()"), "half a line");
        assert!(!is(""), "nothing");
    }
}
