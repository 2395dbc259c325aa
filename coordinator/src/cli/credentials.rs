//! What a command proves itself with.

use clap::Args;
use std::path::PathBuf;

/// Options for coordinators that ask who calls. There is none for a token itself: the command line
/// is for everybody on the machine to see.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CredentialArgs {
    /// Who signed the coordinator's certificate, for https:// (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_env_values = true, env = Self::CA)]
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that says who you are (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_env_values = true, env = Self::CERT)]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_env_values = true, env = Self::KEY)]
    pub(crate) key: Option<PathBuf>,
    /// A file with a token, instead of a certificate
    #[arg(long, global = true, value_name = "FILE", hide_env_values = true, env = Self::TOKEN_FILE)]
    pub(crate) token_file: Option<PathBuf>,
    /// The name in the coordinator's certificate, if it is not the host of its address
    #[arg(long, global = true, value_name = "NAME", hide_env_values = true)]
    #[arg(env = Self::SERVER_NAME)]
    pub(crate) server_name: Option<String>,
}

impl CredentialArgs {
    const CA: &str = "UNANIMOUS_CA";
    const CERT: &str = "UNANIMOUS_CERT";
    const KEY: &str = "UNANIMOUS_KEY";
    const TOKEN_FILE: &str = "UNANIMOUS_TOKEN_FILE";
    const SERVER_NAME: &str = "UNANIMOUS_SERVER_NAME";
    /// Names of all of them.
    pub(crate) const VARIABLES: [&str; 5] =
        [Self::CA, Self::CERT, Self::KEY, Self::TOKEN_FILE, Self::SERVER_NAME];
}
