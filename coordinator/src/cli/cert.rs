//! `cert`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use unanimous_server::Role;

/// What `cert` does.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a private authority: whoever has its key decides who is let in
    #[command(after_help = "Example: unanimous cert init /etc/unanimous/authority")]
    Init {
        /// A directory; made if it is not there
        dir: PathBuf,
    },
    /// Make the coordinator's certificate
    #[command(after_help = "Example: unanimous cert server --host tx.internal --host 10.0.0.7")]
    Server {
        /// A DNS name or an IP address by which callers reach the coordinator; more may be given
        #[arg(long, value_name = "HOST", required = true)]
        host: Vec<String>,
        #[command(flatten)]
        place: CertPlace,
    },
    /// Make the certificate of a person or a program
    #[command(after_help = "Example: unanimous cert client alice --role operator")]
    Client {
        /// Whom it names
        name: String,
        /// What it allows; more may be given
        #[arg(long, value_enum, required = true)]
        role: Vec<RoleArg>,
        #[command(flatten)]
        place: CertPlace,
    },
    /// Make the certificate of a service that takes part in transactions
    #[command(after_help = "Example: unanimous cert participant bank-a --role client")]
    Participant {
        /// The name under which it takes part
        name: String,
        /// What else it allows; more may be given
        #[arg(long, value_enum)]
        role: Vec<RoleArg>,
        #[command(flatten)]
        place: CertPlace,
    },
    /// Make a token for a person or a program, and the line that lets it in
    ///
    /// The token is shown this once; only its SHA-256 is in the line for tls.tokens_file.
    #[command(after_help = "Example: unanimous cert token alice --role operator --to alice.token")]
    Token {
        /// Whom it names
        name: String,
        /// What it allows; more may be given
        #[arg(long, value_enum, required = true)]
        role: Vec<RoleArg>,
        /// When it ends: 2027-01-31, or 2027-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        ends: Option<String>,
        /// Write the token to this file instead of showing it
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// What certificates in a file say: names, roles, and until when they are valid
    #[command(after_help = "Example: unanimous cert show /etc/unanimous/server.pem")]
    Show {
        /// The file (PEM)
        file: PathBuf,
    },
}

/// Where certificates come from and go to.
#[derive(Clone, Debug, Args)]
pub(crate) struct CertPlace {
    /// The directory that `cert init` has made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) authority: PathBuf,
    /// Write the certificate and its key here; without it, to the authority's directory
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// How long it is valid
    #[arg(long, value_name = "N", default_value_t = 365)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
}

/// Roles that are not bound to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Begins and ends transactions
    Client,
    /// Sees everything, changes nothing
    Reader,
    /// Changes the fate of transactions; a reader too
    Operator,
    /// Approves what operators propose; an operator too
    Admin,
}

impl RoleArg {
    /// As the server knows it.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Client => Role::Client,
            Self::Reader => Role::Reader,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
        }
    }
}
