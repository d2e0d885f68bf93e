//! Threads for what may block.

use std::{io, thread};

use tokio::sync::watch;

/// Knows when a thread has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended(watch::Receiver<()>);

impl Ended {
    /// Waits for it. Cancel safe.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent: it ends with the thread.
        while self.0.changed().await.is_ok() {}
    }

    /// Whether it has.
    pub(crate) fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

/// Runs `work` on a thread of its own, which keeps no process alive.
///
/// # Errors
/// If no thread can be had.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Ended> {
    let (running, ended) = watch::channel(());
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        work();
        drop(running);
    })?;
    Ok(Ended(ended))
}
