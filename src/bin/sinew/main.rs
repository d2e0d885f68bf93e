//! The `sinew` command: what is known without a running mesh.

#![forbid(unsafe_code)]

mod audit;
mod config;
mod explain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The service mesh you link, not run.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Look at audit logs.
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Look at configurations.
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Say what an error code means: `sinew explain E010`.
    Explain {
        /// The code, as `SINEW-E010`, `E010` or `10`.
        code: String,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Audit { command } => audit::run(command),
        Command::Config { command } => config::run(command),
        Command::Explain { code } => explain::run(&code),
    }
}
