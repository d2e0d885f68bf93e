//! `sinew audit`: whether an audit log holds together.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Subcommand;
use sinew::authz::audit::{Head, Verifier, verify_file};

/// The log was changed.
const BROKEN: u8 = 2;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Check that no line of an audit log was changed, taken out or put elsewhere. Exits with 2 if one was.
    Verify {
        /// The log; the files that were put aside beside it are checked before it.
        file: PathBuf,
        /// The file that holds the key, where there is one.
        #[arg(long)]
        key_file: Option<PathBuf>,
        /// A line that was there once, NUMBER:HASH: nothing may be cut off after it.
        #[arg(long)]
        known: Option<String>,
    },
}

pub(crate) fn run(command: Command) -> ExitCode {
    let Command::Verify { file, key_file, known } = command;
    let mut verifier = match key_file.map(fs::read).transpose() {
        Ok(None) => Verifier::new(),
        Ok(Some(key)) => Verifier::with_key(key),
        Err(error) => {
            eprintln!("error: the key cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    match known.map(|known| known.parse::<Head>()).transpose() {
        Ok(Some(known)) => verifier = verifier.known(known),
        Ok(None) => {}
        Err(error) => {
            eprintln!("error: --known: {error}");
            return ExitCode::FAILURE;
        }
    }
    match verify_file(&file, verifier) {
        Ok(found) => {
            let (lines, first, lost, unclosed) = (found.lines, found.first, found.lost, found.unclosed);
            let mut text = format!("{}: {lines} lines hold together", file.display());
            if first > 1 {
                text.push_str(&format!("; they begin with number {first}, older files are not here"));
            }
            if lost > 0 {
                text.push_str(&format!("; {lost} records found no room, as they say"));
            }
            if unclosed > 0 {
                text.push_str(&format!("; {unclosed} times a process ended without closing it"));
            }
            if let Some(head) = found.head {
                text.push_str(&format!("\nhead {head}"));
            }
            super::config::print(&(text + "\n"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            eprintln!("{}: {error}", file.display());
            ExitCode::from(BROKEN)
        }
        Err(error) => {
            eprintln!("error: {} cannot be read: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
