//! The command line as data: commands, options and their help.

mod acts;

pub(crate) use acts::{ApproveArgs, AuditCommand, AuditListArgs, CheckArgs, EndArg, ForceArgs};
pub(crate) use acts::{ForceCommand, OrphanCommand, ResolveArgs, VerifyArgs};
mod cert;
mod credentials;

pub(crate) use cert::{CertCommand, CertPlace, RoleArg};
pub(crate) use credentials::CredentialArgs;

use crate::errors::Exit;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use unanimous_core::Gtrid;
use unanimous_core::participant::HeuristicPolicy;

/// A two-phase commit transaction coordinator with a durable recovery log.
#[derive(Debug, Parser)]
#[command(name = "unanimous", version, after_help = "Example: unanimous dev")]
#[command(after_long_help = format!("Example: unanimous dev\n\n{}", Exit::help()))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Where the coordinator answers operators
    #[arg(
        long,
        global = true,
        value_name = "URL",
        hide_env_values = true,
        env = "UNANIMOUS_ADMIN_ADDRESS"
    )]
    #[arg(default_value = Self::ADMIN_ADDRESS)]
    pub(crate) admin_address: String,
    /// Where the coordinator answers clients and participants
    #[arg(
        long,
        global = true,
        value_name = "URL",
        hide_env_values = true,
        env = "UNANIMOUS_ADDRESS"
    )]
    #[arg(default_value = "http://127.0.0.1:7450")]
    pub(crate) address: String,
    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,
    /// Form of the data on stdout
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// How moments are shown
    #[arg(long, global = true, value_enum, default_value_t = TimeStyle::Relative)]
    pub(crate) time: TimeStyle,
}

impl Global {
    /// Where operators ask who give no address.
    pub(crate) const ADMIN_ADDRESS: &str = "http://127.0.0.1:7451";
}

/// Forms of the data on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For people with wide screens
    Wide,
    /// One JSON value
    Json,
    /// A JSON value a line
    Jsonl,
    /// YAML
    Yaml,
    /// Full ids only, one a line
    Id,
}

/// How moments are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeStyle {
    /// "4m12s ago"
    Relative,
    /// In this machine's time zone
    Local,
    /// In UTC
    Utc,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a coordinator
    #[command(after_help = "Example: unanimous serve --data-dir /var/lib/unanimous --init")]
    Serve(ServeArgs),
    /// Try it: a coordinator and two demo banks on a throw-away directory, under load
    #[command(after_help = "Example: unanimous dev --run-for 60s --chaos -o json")]
    #[command(args_conflicts_with_subcommands = true)]
    Dev(DevArgs),
    /// Look at transactions
    #[command(subcommand, after_help = "Example: unanimous tx list")]
    Tx(TxCommand),
    /// Decide about a transaction that is stuck: planned, confirmed, audited
    #[command(subcommand)]
    #[command(after_help = "Example: unanimous force rollback FULL_ID --reason 'INC-4411'")]
    Force(ForceCommand),
    /// Look at participants
    #[command(subcommand, after_help = "Example: unanimous participant list")]
    Participant(ParticipantCommand),
    /// Look at, and decide about, prepared branches that no record of this log explains
    #[command(subcommand, after_help = "Example: unanimous orphan list")]
    Orphan(OrphanCommand),
    /// Look at what operators did
    #[command(subcommand, after_help = "Example: unanimous audit list")]
    Audit(AuditCommand),
    /// How the coordinator is
    #[command(after_help = "Example: unanimous status -o json")]
    Status,
    /// One line for a monitoring system, and its exit codes: 0 ok, 1 warning, 2 critical, 3 unknown
    ///
    /// What is above a limit is worth a word. Critical always: the log's file system is nearly
    /// full, the log is behind what participants were told, one of its directories is given up.
    /// Unknown: no answer. Only a command line that cannot be understood ends with 2 and without
    /// the line.
    #[command(after_help = "Example: unanimous check --warn-in-doubt 100 --min-participants 2")]
    Check(CheckArgs),
    /// Compare the log with what participants hold prepared, both ways, and check their settings
    #[command(after_help = "Example: unanimous doctor")]
    Doctor,
    /// Look at the log of a stopped coordinator
    #[command(subcommand, after_help = "Example: unanimous log verify /var/lib/unanimous")]
    Log(LogCommand),
    /// What `serve` can be told, and what it is told
    #[command(subcommand, after_help = "Example: unanimous config show")]
    Config(ConfigCommand),
    /// Certificates and tokens: who is let in, and as what
    #[command(subcommand, after_help = "Example: unanimous cert init /etc/unanimous/authority")]
    Cert(CertCommand),
    /// What a code means, why it happens and what to do
    #[command(after_help = "Example: unanimous explain LOG_FULL")]
    Explain {
        /// As it stands in an error, an outcome or a refusal. Without it, all there are
        code: Option<String>,
    },
    /// Write the completions of a shell to stdout
    #[command(after_help = "Example: unanimous completion bash > /etc/bash_completion.d/unanimous")]
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    #[command(after_help = "Example: unanimous man /usr/local/share/man/man1")]
    Man {
        /// A directory that exists
        dir: PathBuf,
    },
    /// Which version this is
    #[command(after_help = "Example: unanimous version -o json")]
    Version,
}

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Make a log if the directory is missing or empty
    #[arg(long)]
    pub(crate) init: bool,
    /// The directory was moved, and nothing will ever run on the original again
    #[arg(long, conflicts_with = "copied")]
    pub(crate) moved: bool,
    /// The directory is a copy or was restored: unfinished decisions are kept, new ids are drawn
    #[arg(long)]
    pub(crate) copied: bool,
    /// Start although one of the two directories is missing or damaged, on the other one
    #[arg(long)]
    pub(crate) degraded: bool,
    /// Make the missing or damaged one of the two directories again, from the other one
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Write the addresses here, as JSON, once they are bound
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) port_file: Option<PathBuf>,
    /// End at once when stdin closes
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// Settings of `serve` that have options. What is not given comes from the environment, the file or
/// the defaults, in this order; so clap knows neither.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SettingArgs {
    /// The configuration: see `unanimous config init`
    #[arg(long, value_name = "FILE", hide_env_values = true, env = "UNANIMOUS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where the log is
    ///
    /// [env: UNANIMOUS_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where a second copy of the log is, best on another disk
    ///
    /// [env: UNANIMOUS_SECOND_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) second_dir: Option<PathBuf>,
    /// Where clients and participants connect
    ///
    /// [env: UNANIMOUS_LISTEN] [default: 127.0.0.1:7450]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where operators connect
    ///
    /// [env: UNANIMOUS_ADMIN_LISTEN] [default: 127.0.0.1:7451]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Listen on addresses other machines reach without TLS: whoever connects may do everything
    ///
    /// [env: UNANIMOUS_INSECURE]
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The cluster's number, with --init
    ///
    /// [env: UNANIMOUS_CLUSTER] [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) cluster: Option<u32>,
    /// This coordinator's number in the cluster, with --init
    ///
    /// [env: UNANIMOUS_SLOT] [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) slot: Option<u16>,
    /// Form of the log lines on stderr
    ///
    /// [env: UNANIMOUS_LOG_FORMAT] [default: human]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Which log lines: error, warn, info, debug, trace, or directives as
    /// "info,unanimous_server=debug"
    ///
    /// [env: UNANIMOUS_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

impl SettingArgs {
    /// The keys that were given, and their words.
    pub(crate) fn given(&self) -> Vec<(&'static str, OsString)> {
        let path = |path: &PathBuf| path.clone().into_os_string();
        let address = |address: SocketAddr| OsString::from(address.to_string());
        let number = |number: u32| OsString::from(number.to_string());
        let given = [
            ("log.data_dir", self.data_dir.as_ref().map(path)),
            ("log.second_dir", self.second_dir.as_ref().map(path)),
            ("listen.sessions", self.listen.map(address)),
            ("listen.admin", self.admin_listen.map(address)),
            ("listen.insecure", self.insecure.then(|| "true".into())),
            ("log.cluster", self.cluster.map(number)),
            ("log.slot", self.slot.map(|slot| number(slot.into()))),
            ("process.log_format", self.log_format.map(|form| form.word().into())),
            ("process.log_level", self.log_level.as_ref().map(Into::into)),
        ];
        given.into_iter().filter_map(|(key, word)| Some((key, word?))).collect()
    }
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Write a file with every key, its default and its reason
    #[command(after_help = "Example: unanimous config init /etc/unanimous.toml")]
    Init {
        /// A file that does not exist yet; without it, stdout
        file: Option<PathBuf>,
    },
    /// Read a file as `serve` would, and tell everything that is wrong with it
    #[command(after_help = "Example: unanimous config check /etc/unanimous.toml")]
    Check {
        /// The file
        file: PathBuf,
    },
    /// What `serve` would be told with the same options, and by whom
    #[command(after_help = "Example: unanimous config show --config /etc/unanimous.toml")]
    Show(SettingArgs),
}

/// Options of processes that run until they are stopped.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Form of the log lines on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, trace, or directives as
    /// "info,unanimous_server=debug"
    #[arg(
        long,
        value_name = "LEVEL",
        hide_env_values = true,
        env = "UNANIMOUS_LOG_LEVEL",
        default_value = "info"
    )]
    pub(crate) log_level: String,
    /// End at once when stdin closes
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// A JSON object a line
    Json,
}

impl LogFormat {
    /// As it is given.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    /// Run 16 clients for this long ("20s"), stop everything, check the stores, and report
    #[arg(long, value_name = "TIME")]
    pub(crate) run_for: Option<humantime::Duration>,
    /// Kill -9 and freeze the three processes at random meanwhile
    #[arg(long, requires = "run_for")]
    pub(crate) chaos: bool,
    /// Keep bank-a's accounts in this PostgreSQL database: postgres://user@host/database
    #[arg(long, value_name = "URL", hide_env_values = true, env = "UNANIMOUS_DEV_POSTGRES")]
    pub(crate) postgres: Option<String>,
    /// Keep bank-b's accounts in this MariaDB or MySQL database: mysql://user@host/database
    #[arg(long, value_name = "URL", hide_env_values = true, env = "UNANIMOUS_DEV_MYSQL")]
    pub(crate) mysql: Option<String>,
    /// Keep the stores and the processes' logs here: a missing or empty directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Repeats the choices of an earlier run: accounts, amounts, kills. Drawn and shown if not
    /// given
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// What else `dev` does.
#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Check the stores of a finished run, read afresh: sums, in doubt, heuristic outcomes
    #[command(after_help = "Example: unanimous dev verify ./kept")]
    Verify {
        /// What was given to `dev --keep`
        dir: PathBuf,
    },
    /// Kill, freeze or start a process of a running `unanimous dev`
    #[command(after_help = "Example: unanimous dev chaos kill bank-b")]
    Chaos {
        /// What to do to it
        #[arg(value_enum)]
        act: ChaosAct,
        /// coordinator, bank-a or bank-b
        name: String,
        /// The socket of the running `dev`, if several run
        #[arg(long, value_name = "SOCKET")]
        control: Option<PathBuf>,
    },
    /// Change one balance of a finished run by hand, to see that `dev verify` notices
    #[command(
        after_help = "Example: unanimous dev adjust --bank bank-a --account 7 --cents 1 ./kept"
    )]
    Adjust {
        /// bank-a or bank-b
        #[arg(long)]
        bank: String,
        /// From 1
        #[arg(long)]
        account: u32,
        /// How much to add; negative takes away
        #[arg(long, allow_negative_numbers = true)]
        cents: i64,
        /// What was given to `dev --keep`
        dir: PathBuf,
    },
    /// One demo bank
    #[command(hide = true)]
    Bank(BankArgs),
}

/// What `dev chaos` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChaosAct {
    /// SIGKILL; it stays down until `start`
    Kill,
    /// SIGSTOP: it hangs until `start`
    Stop,
    /// Start it again, or let it go on
    Start,
}

/// `dev bank`.
#[derive(Debug, Args)]
pub(crate) struct BankArgs {
    /// The participant's name
    #[arg(long)]
    pub(crate) name: String,
    /// Where its accounts are
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// They are in the database that this file names: {"url": "postgres://..", "tables": "bank"}
    #[arg(long, value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,
    /// Where it listens
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Frame bytes above which its log is compacted
    #[arg(long, value_name = "BYTES", env = "UNANIMOUS_BANK_LOG_BYTES", default_value_t = 4 << 20)]
    pub(crate) log_bytes_compact: u64,
    /// It ends branches alone when the coordinator is silent for so long: "rollback:10s"
    #[arg(long, value_name = "WAY:SILENCE", env = "UNANIMOUS_BANK_ALONE", value_parser = alone)]
    pub(crate) alone: Option<HeuristicPolicy>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

fn alone(text: &str) -> Result<HeuristicPolicy, String> {
    let (way, silence) = text.split_once(':').ok_or("WAY:SILENCE, as in rollback:10s")?;
    let silence = humantime::parse_duration(silence).map_err(|error| error.to_string())?;
    match way {
        "commit" => Ok(HeuristicPolicy::commit_after(silence)),
        "rollback" => Ok(HeuristicPolicy::rollback_after(silence)),
        _ => Err("the way is commit or rollback".to_owned()),
    }
}

/// `participant`.
#[derive(Debug, Subcommand)]
pub(crate) enum ParticipantCommand {
    /// All that this coordinator knows, those that are away included
    #[command(after_help = "Example: unanimous participant list -o wide")]
    List,
    /// One participant: its processes, what waits for it, and what that means
    #[command(after_help = "Example: unanimous participant describe bank-b")]
    Describe {
        /// As it is listed
        name: String,
    },
}

/// `tx`.
#[derive(Debug, Subcommand)]
pub(crate) enum TxCommand {
    /// Transactions that are not finished, and heuristic ones, oldest first
    #[command(after_help = "Example: unanimous tx list --filter 'state=HEURISTIC or age>1m'")]
    List(ListArgs),
    /// One transaction: what its state means and what to do
    #[command(after_help = "Example: unanimous tx describe 31ce5540")]
    Describe {
        /// The full id, or an unambiguous end of it of at least 4 digits
        id: IdArg,
    },
    /// What operators did to a transaction, and how it is now
    #[command(after_help = "Example: unanimous tx history 31ce5540")]
    History {
        /// The full id, or for an unfinished one an unambiguous end of it of at least 4 digits
        id: IdArg,
    },
    /// See transactions come, change and go; or one transaction, until it ends
    ///
    /// On a terminal a list that is drawn again and again, until q or ctrl-C; elsewhere, and with
    /// an id, a line for each change. What begins and ends between two looks is not seen.
    #[command(after_help = "Example: unanimous tx watch --filter 'locked>5s'")]
    Watch(WatchArgs),
    /// Send a transaction's branches again what they have not answered, now
    ///
    /// Changes no decision: it is sent again by itself, only later.
    #[command(after_help = "Example: unanimous tx retry 31ce5540")]
    Retry {
        /// The full id, or an unambiguous end of it of at least 4 digits
        id: IdArg,
    },
    /// What became of a transaction
    #[command(after_help = "Example: unanimous tx outcome 31ce5540 --wait 10s")]
    Outcome {
        /// The full id, or for an unfinished one an unambiguous end of it of at least 4 digits
        id: IdArg,
        /// Wait this long for a decision
        #[arg(long, value_name = "TIME")]
        wait: Option<humantime::Duration>,
        /// How many branches the transaction had. Only with two or more may a missing record mean a
        /// rollback
        #[arg(long, value_name = "N")]
        expected_branches: Option<u32>,
    },
}

/// `tx list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArg,
    /// Only where branches have ended differently from the decision, or may have: the ledger of
    /// what somebody has to settle
    #[arg(long)]
    pub(crate) divergent: bool,
    /// Those too that somebody has settled (`force forget`)
    #[arg(long)]
    pub(crate) resolved: bool,
    /// What comes first
    #[arg(long, value_enum, default_value_t = OrderArg::Age)]
    pub(crate) order: OrderArg,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Go on where the last list ended
    #[arg(long, value_name = "TOKEN", default_value = "")]
    pub(crate) page_token: String,
}

/// What comes first in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// The oldest
    Age,
    /// What has been holding locks for longest; one page, of at most 1000
    Locked,
}

/// Rows of a list for which nobody asked for more or fewer.
pub(crate) const LIMIT_DEFAULT: u32 = 50;

/// Which transactions.
#[derive(Clone, Debug, Args)]
pub(crate) struct FilterArg {
    /// Only these: comparisons of fields joined by `and`, `or`, `not` and parentheses
    ///
    /// Words (= != and ~ for "contains"): name, id (its end), label.KEY, participant, waiting_on,
    /// resource. Times (= != < <= > >=, as 90s or 1h30m): age, locked, remaining. Numbers: tries,
    /// branches. Words that are known (= !=): state, outcome, stuck=true, recovered=true,
    /// resolved=true.
    #[arg(long = "filter", value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub(crate) text: String,
}

/// `tx watch`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    /// The full id, or an unambiguous end of it of at least 4 digits. Without it, all
    #[arg(conflicts_with = "text")]
    pub(crate) id: Option<IdArg>,
    #[command(flatten)]
    pub(crate) filter: FilterArg,
    /// Time between two looks, at least 50ms
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = interval)]
    pub(crate) interval: Duration,
    /// End after this time; a transaction that has not ended by then is exit code 8
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<humantime::Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let long_enough = interval >= Duration::from_millis(50);
    long_enough.then_some(interval).ok_or_else(|| "at least 50ms".to_owned())
}

/// `log`.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Check a log as `serve` would, and every record; changes nothing
    #[command(after_help = "Example: unanimous log verify /var/lib/unanimous")]
    Verify(LogArgs),
    /// Show every record, up to the first damage; changes nothing
    #[command(after_help = "Example: unanimous log dump /var/lib/unanimous -o jsonl")]
    Dump(LogArgs),
}

/// Which log.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LogArgs {
    /// Where the log is
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the log is
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl LogArgs {
    /// The directory, however it was given.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone().or_else(|| self.data_dir.clone()).unwrap_or_default()
    }
}

/// A transaction's id as people give it: all 48 hexadecimal digits, or at least the last 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdArg(String);

impl IdArg {
    /// The digits, lower case.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }

    /// The full id, unless only its end was given.
    pub(crate) fn full(&self) -> Option<Gtrid> {
        self.0.parse().ok()
    }
}

impl FromStr for IdArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err("an id has only hexadecimal digits".into());
        }
        let digits = text.to_ascii_lowercase();
        match digits.len() {
            4..48 => Ok(Self(digits)),
            48 => match digits.parse::<Gtrid>() {
                Ok(_) => Ok(Self(digits)),
                Err(error) => Err(error.to_string()),
            },
            length => {
                Err(format!("an id has 48 digits, or at least its last 4; these are {length}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// experience.md, "Help: one example per command".
    #[test]
    fn every_command_that_is_shown_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example: unanimous"), "{}", command.get_name());
            command.get_subcommands().filter(|c| !c.is_hide_set()).for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn ids_are_checked() {
        for good in ["abcd", "31CE5540", &format!("01{}", "0".repeat(46))] {
            assert_eq!(good.parse::<IdArg>().unwrap().digits(), good.to_ascii_lowercase());
        }
        let (long, foreign) = ("0".repeat(49), format!("09{}", "0".repeat(46)));
        for bad in ["", "abc", "xyzw", "31ce 5540", "é1ce5540", &long, &foreign] {
            assert!(bad.parse::<IdArg>().is_err(), "{bad:?}");
        }
    }
}
