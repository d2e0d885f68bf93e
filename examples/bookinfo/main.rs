//! Bookinfo, Istio's example application, in Rust and joined only by sinew.
//!
//! ```text
//! cargo run --release --example bookinfo             # all services, the tasks, then a page for your browser
//! cargo run --release --example bookinfo -- --check  # the tasks only; fails if one fails
//! cargo run --release --example bookinfo -- --role reviews --version v2 --config examples/bookinfo/sinew.yaml
//! ```
//!
//! Four services on sockets of their own: `productpage` calls `details` and `reviews`; `reviews` comes in three versions,
//! two of which call `ratings`. A load generator walks through the tasks, each by an edit of `sinew.yaml`, which every
//! service reads again while it runs.

mod bad_instance_task;
mod breaking_task;
mod chance;
mod cli;
mod details;
mod failover_task;
mod fault_tasks;
mod instance;
mod load;
mod page;
mod productpage;
mod ratings;
mod reviews;
mod role;
mod security_tasks;
mod stats;
mod system;
mod tasks;
mod timer;
mod token_task;
mod tokens;
mod topology;

use std::{process::ExitCode, sync::atomic::AtomicU64, time::Duration};

use tracing_subscriber::EnvFilter;

use self::{
    cli::{Command, HELP},
    system::System,
    topology::Routes,
};

/// Calls from one service to another that failed. Retries and texts such as "currently unavailable" would hide them.
static FAILED_CALLS: AtomicU64 = AtomicU64::new(0);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let command = match cli::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // Seven meshes in one process would say everything seven times.
    log_from(if matches!(command, Command::Role(_)) { "info" } else { "off" });
    timer::from_environment();
    let done = match command {
        Command::Help => {
            println!("{HELP}");
            Ok(true)
        }
        Command::Check { calls } => check(calls).await,
        Command::Show { calls } => show(calls).await,
        Command::Role(role) => role::run(role).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `RUST_LOG`, or else this level, to standard error.
fn log_from(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Only the tasks, on free ports.
async fn check(calls: usize) -> Result<bool> {
    let directory = tempfile::tempdir()?;
    let mut system = System::start(directory.path(), false).await?;
    let (_, failed) = tasks::run_all(&mut system, calls).await;
    system.stop().await?;
    Ok(failed == 0)
}

/// Says what came of each edit of the configuration file.
async fn tell_edits(system: &System) {
    let mut told = None;
    loop {
        let status = system.load.status();
        let error = status.sources.iter().find_map(|source| source.error.clone());
        let now = (status.generation, error);
        if told.as_ref().is_some_and(|told| *told != now) {
            match &now.1 {
                Some(error) => println!("\nrefused, what was there before stays in use:\n{error}"),
                None => println!("\nthe edit is in use"),
            }
        }
        told = Some(now);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The tasks, then the page, until Ctrl-C.
async fn show(calls: usize) -> Result<bool> {
    let directory = tempfile::Builder::new().prefix("bookinfo-").tempdir()?;
    let mut system = System::start(directory.path(), true).await?;
    println!("Bookinfo runs:\n{}", system.listing());
    let (_, failed) = tasks::run_all(&mut system, calls).await;
    system.route_reviews(Routes::user_to("jason", "v2", Routes::split(&[("v1", 50), ("v3", 50)]))).await?;
    println!(
        "\nopen  {}\n      and reload it: no stars by reviews v1, red ones by v3; sign in as jason for black ones\n\
         edit  {}\n      for example the weights under `split`; what came of it is told here\n\
         stop  with Ctrl-C",
        system.page_address(),
        system.config_path().display(),
    );
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        () = tell_edits(&system) => {}
    }
    println!("\nfinishing what is in flight");
    system.stop().await?;
    Ok(failed == 0)
}
