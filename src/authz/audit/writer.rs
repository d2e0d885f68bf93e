//! The one who writes.

use std::{fs, io, sync::Arc};

use super::{
    chain::{Chain, Head},
    file::FileSink,
    policy::{AuditLog, AuditSink, Target},
    record::Record,
};

/// Shorter keys can be guessed.
const SHORTEST_KEY: usize = 32;

/// Puts records into the chain, and the chain into its sink.
pub(crate) struct Writer {
    sink: Arc<dyn AuditSink>,
    key: Option<Vec<u8>>,
    /// Unknown before the sink has said where it ends, and after it has failed.
    chain: Option<Chain>,
    /// What is written before anything else.
    open: Record,
    opened: bool,
}

impl Writer {
    /// # Errors
    /// If the key cannot be read.
    pub(crate) fn new(log: &AuditLog, service: &str, now_ms: u64) -> io::Result<Self> {
        let key = log.key_path().map(fs::read).transpose()?;
        if key.as_ref().is_some_and(|key| key.len() < SHORTEST_KEY) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the key has fewer than 32 bytes"));
        }
        let sink: Arc<dyn AuditSink> = match log.target() {
            Target::File { path, rotate_bytes, keep_files } => {
                Arc::new(FileSink::new(path, *rotate_bytes, *keep_files))
            }
            Target::Sink(sink) => Arc::clone(sink),
        };
        let hash = if key.is_some() { "hmac-sha256" } else { "sha256" };
        let open = Record::new("open", now_ms)
            .number("format", 1)
            .text("algorithm", hash)
            .text("service", service)
            .text("version", env!("CARGO_PKG_VERSION"));
        Ok(Self { sink, key, chain: None, open, opened: false })
    }

    /// Opens the sink, if that is still to be done.
    ///
    /// # Errors
    /// If the sink does not say where it ends, or does not take the first line.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        self.write(&[])
    }

    /// Writes all of these, in order, after having begun.
    ///
    /// # Errors
    /// If the sink does not hold all of them by now; then they are to be written again.
    pub(crate) fn write(&mut self, records: &[Record]) -> io::Result<()> {
        // Sealed on a copy: what the sink does not take has no place.
        let mut chain = match self.chain.take() {
            Some(chain) => chain,
            None => self.resume()?,
        };
        let open = (!self.opened).then_some(&self.open);
        let mut lines = String::new();
        for record in open.into_iter().chain(records) {
            let line = chain.seal(record).ok_or_else(|| io::Error::other("this build has no cryptography"))?;
            lines.push_str(&line);
        }
        if !lines.is_empty() {
            self.sink.write(&lines)?;
        }
        self.opened = true;
        self.chain = Some(chain);
        Ok(())
    }

    fn resume(&self) -> io::Result<Chain> {
        let last = self.sink.last()?;
        match Chain::after(last.as_deref(), self.key.clone()) {
            Ok(chain) => Ok(chain),
            Err(why) => {
                tracing::error!(target: "sinew::audit", "the audit log was changed, or its key: its last line does not belong to it: {why}; it is put aside, and a new one begins");
                self.sink.set_aside()?;
                Chain::after(None, self.key.clone()).map_err(io::Error::other)
            }
        }
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&self) {
        if let Err(error) = self.sink.sync() {
            tracing::warn!(target: "sinew::audit", "the audit log is not durable: {error}");
        }
    }

    /// Where the chain ends; `None` while that is not known.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.chain.as_ref().map(Chain::head)
    }
}
