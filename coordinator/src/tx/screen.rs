//! A terminal on which lines are drawn again in the place of the old ones.

use crate::cli::Format;
use crate::errors::Failure;
use crate::output::write_stdout;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal, Read, stdin, stdout};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const CLEAR_BELOW: &str = "\u{1b}[J";
/// Keys that wait to be looked at.
const KEYS_MAX: usize = 16;

/// Gives the terminal back as it was when it is dropped.
pub(super) struct Screen {
    drawn: usize,
    before: Option<Termios>,
    keys: Option<mpsc::Receiver<u8>>,
    signals: Vec<Signal>,
}

impl Screen {
    /// Whether there is a terminal that can move its cursor, and data for people on it.
    pub(super) fn fits(format: Format) -> bool {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        matches!(format, Format::Table | Format::Wide) && stdout().is_terminal() && !dumb
    }

    pub(super) fn open() -> Result<Self, Failure> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = kinds.into_iter().map(signal).collect::<Result<_, _>>();
        let signals =
            signals.map_err(|error| Failure::io("catching signals", error, "ulimit -a"))?;
        // Keys come at once and are not shown. Ctrl-C stays a signal.
        let before = stdin().is_terminal().then(|| tcgetattr(stdin()).ok()).flatten();
        let keys = before.as_ref().and_then(|before| {
            let mut at_once = before.clone();
            at_once.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(stdin(), OptionalActions::Now, &at_once).ok().map(|()| keys())
        });
        let screen = Self { drawn: 0, before, keys, signals };
        write_stdout(HIDE_CURSOR.as_bytes())?;
        Ok(screen)
    }

    /// In the place of what was drawn before. Lines and columns for which there is no room are left
    /// out.
    pub(super) fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, rows) = size.map_or((80, 24), |size| (size.ws_col, size.ws_row));
        let lines = fitted(lines, columns.into(), rows.into());
        let up = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        write_stdout(format!("\r{up}{CLEAR_BELOW}{}\n", lines.join("\n")).as_bytes())
    }

    /// Waits for the end of the pause; true: for q or a signal.
    pub(super) async fn asked_to_stop(&mut self, pause: impl Future<Output = ()>) -> bool {
        tokio::pin!(pause);
        loop {
            let keys = &mut self.keys;
            let key = async {
                match keys {
                    Some(keys) => keys.recv().await,
                    None => std::future::pending().await,
                }
            };
            let signals = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            tokio::select! {
                () = &mut pause => return false,
                _ = futures_util::future::select_all(signals) => return true,
                key = key => match key {
                    Some(b'q' | b'Q') => return true,
                    Some(_) => {}
                    None => self.keys = None,
                },
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
        let _ = write_stdout(SHOW_CURSOR.as_bytes());
    }
}

/// A thread of its own: nothing can wait for a terminal's keys without one. It ends with the
/// process.
fn keys() -> mpsc::Receiver<u8> {
    let (pressed, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        let mut key = [0];
        while matches!(stdin().lock().read(&mut key), Ok(1))
            && pressed.blocking_send(key[0]).is_ok()
        {}
    });
    keys
}

/// At most one less than there are rows: the cursor stands below. What is left out is counted.
fn fitted(lines: &[String], columns: usize, rows: usize) -> Vec<String> {
    let fit = rows.saturating_sub(1).max(1);
    let mut lines: Vec<String> = if lines.len() <= fit {
        lines.to_vec()
    } else {
        let kept = fit - 1;
        let more = format!("... {} more lines", lines.len() - kept);
        lines[..kept].iter().cloned().chain([more]).collect()
    };
    for line in &mut lines {
        *line = line.chars().take(columns).collect();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::fitted;

    #[test]
    fn what_has_no_room_is_counted() {
        let lines: Vec<String> = (0..5).map(|n| format!("line {n}")).collect();
        assert_eq!(fitted(&lines, 80, 6), lines);
        assert_eq!(fitted(&lines, 80, 4), ["line 0", "line 1", "... 3 more lines"]);
        assert_eq!(fitted(&lines, 3, 6)[0], "lin");
        assert_eq!(fitted(&lines, 80, 0), ["... 5 more lines"]);
    }
}
