//! A command line that cannot be understood, told in the three lines of every other error.

use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{talk, write_stdout};
use clap::error::ErrorKind;

/// Shows help that was asked for, and makes a failure of everything else.
pub(crate) fn explain(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let coloured = stdout_colour();
            let text = if coloured { text.ansi().to_string() } else { text.to_string() };
            write_stdout(text.as_bytes())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            talk(&text);
            Err(Failure::new(
                Code::Usage,
                "a command is missing",
                "nothing is done without one",
                "unanimous help",
            ))
        }
        _ => Err(from_text(&text.to_string())),
    }
}

fn stdout_colour() -> bool {
    use std::io::IsTerminal;
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stdout().is_terminal()
}

/// clap's paragraphs: what is wrong, tips, the usage, how to get help.
fn from_text(text: &str) -> Failure {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    });
    let what = paragraphs.next().unwrap_or_default().join(" ");
    let (mut why, mut command) = (Vec::new(), "unanimous".to_owned());
    for paragraph in paragraphs {
        let line = paragraph.join(" ");
        if let Some(usage) = line.strip_prefix("Usage: ") {
            // The words before the first placeholder or option name the command.
            let words = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-']));
            command = words.collect::<Vec<_>>().join(" ");
            why.push(format!("usage: {usage}"));
        } else if !line.starts_with("For more information") {
            why.push(line);
        }
    }
    if why.is_empty() {
        why.push("the command line cannot be understood".to_owned());
    }
    Failure::new(Code::Usage, what, why.join("\n"), format!("{command} --help"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::cli::Cli;
    use clap::Parser;

    fn told(args: &[&str]) -> String {
        let error = Cli::try_parse_from(args).unwrap_err();
        super::explain(&error).unwrap_err().lines(false)
    }

    #[test]
    fn usage_errors_have_three_lines() {
        assert_eq!(
            told(&["unanimous", "tx", "describe", "zz"]),
            "error[USAGE]: invalid value 'zz' for '<ID>': an id has only hexadecimal digits\n  \
             why:  the command line cannot be understood\n  \
             next: unanimous --help\n        or unanimous explain USAGE\n"
        );
        let unknown = told(&["unanimous", "tx", "list", "--limt", "3"]);
        assert!(unknown.starts_with("error[USAGE]: unexpected argument '--limt' found\n"));
        assert!(unknown.contains("'--limit'"), "{unknown}");
        assert!(unknown.contains("  next: unanimous tx list --help\n"), "{unknown}");
    }
}
