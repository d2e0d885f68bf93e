//! `sinew config`: validate, schema, show.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Subcommand;
use sinew::config::{Loader, schema, show};

/// The document is refused, or has warnings where none are allowed.
const REFUSED: u8 = 2;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Check files. Exits with 2 if one is refused.
    Validate {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Exit with 2 on warnings, too.
        #[arg(long)]
        strict: bool,
    },
    /// Print the JSON Schema of `sinew.yaml`.
    Schema,
    /// Print the configuration in effect, defaults included, with the origin of each value.
    Show {
        /// The file.
        file: PathBuf,
    },
}

pub(crate) fn run(command: Command) -> ExitCode {
    let loader = Loader::new();
    match command {
        Command::Validate { files, strict } => validate(&loader, &files, strict),
        Command::Schema => print(&format!("{}\n", schema(&loader))),
        Command::Show { file } => match loader.load_file(&file) {
            Ok(snapshot) => print(&show(&snapshot)),
            Err(report) => {
                eprint!("{report}");
                ExitCode::from(REFUSED)
            }
        },
    }
}

fn validate(loader: &Loader, files: &[PathBuf], strict: bool) -> ExitCode {
    let mut refused = false;
    for file in files {
        match loader.load_file(file) {
            Ok(snapshot) => {
                for lint in snapshot.lints.iter() {
                    eprintln!("warning: {lint}");
                }
                refused |= strict && !snapshot.lints.is_empty();
                let warnings = match snapshot.lints.len() {
                    0 => String::new(),
                    1 => ", 1 warning".into(),
                    count => format!(", {count} warnings"),
                };
                let _ = writeln!(io::stdout(), "{}: valid{warnings}", file.display());
            }
            Err(report) => {
                eprint!("{report}");
                refused = true;
            }
        }
    }
    if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS }
}

/// Prints a text; a reader that closes early (`| head`) is no error.
pub(crate) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
