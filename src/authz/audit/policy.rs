//! Where the log goes, and what goes into it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The smallest file that is rotated.
pub(crate) const MIN_ROTATE: u32 = 64 * 1024;
/// The most files that are kept.
pub(crate) const MAX_KEEP: u32 = 100_000;
/// The longest queue.
pub(crate) const MAX_QUEUE: u32 = 1_000_000;

/// Takes the lines of an audit log: a queue, an object store, a collector of one's own.
///
/// It is called by one thread of its own, one call after the other, and may block; requests do not wait for it. While it
/// fails, the same records are given to it again, with pauses of up to 5 s.
pub trait AuditSink: Send + Sync + 'static {
    /// The last line that it holds, after which the chain goes on; `None` for a new chain. Asked before the first line, and
    /// after each failure.
    ///
    /// # Errors
    /// If it cannot be told; then it is asked again.
    fn last(&self) -> io::Result<Option<String>>;

    /// Takes whole lines, each with its end.
    ///
    /// # Errors
    /// If not all of them are held by now.
    fn write(&self, lines: &str) -> io::Result<()>;

    /// Makes durable what was taken. Called when no more records wait, and at the end.
    ///
    /// # Errors
    /// If it is not durable; nothing follows from that but an event.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// The last line does not belong to this chain: somebody changed it, or the key is another. What is there is put aside, and
    /// the next line is the first of a new chain. Without an implementation it just follows.
    ///
    /// # Errors
    /// If it cannot be put aside; then nothing is written.
    fn set_aside(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that others hold as well.
impl<S: AuditSink + ?Sized> AuditSink for Arc<S> {
    fn last(&self) -> io::Result<Option<String>> {
        (**self).last()
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        (**self).write(lines)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }

    fn set_aside(&self) -> io::Result<()> {
        (**self).set_aside()
    }
}

/// An audit log: `inbound.audit_log`, or by code.
#[derive(Clone)]
pub struct AuditLog {
    target: Target,
    key_file: Option<PathBuf>,
    denied: bool,
    queue: u32,
    required: bool,
}

/// Where to.
#[derive(Clone)]
pub(crate) enum Target {
    File { path: PathBuf, rotate_bytes: u32, keep_files: u32 },
    Sink(Arc<dyn AuditSink>),
}

impl AuditLog {
    /// Into a file, which is made if it is not there, readable by this user only, and continued if it is. One process writes to
    /// it at a time: another one waits.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::to(Target::File { path: path.into(), rotate_bytes: 64 * 1024 * 1024, keep_files: 16 })
    }

    /// Into a sink of one's own.
    pub fn sink(sink: impl AuditSink) -> Self {
        Self::to(Target::Sink(Arc::new(sink)))
    }

    fn to(target: Target) -> Self {
        Self { target, key_file: None, denied: true, queue: 4096, required: false }
    }

    /// When the file is put aside and a new one begun, in bytes. Default 64 MiB, at least 64 KiB. Not for sinks.
    #[must_use]
    pub fn rotate_bytes(mut self, bytes: u32) -> Self {
        if let Target::File { rotate_bytes, .. } = &mut self.target {
            *rotate_bytes = bytes.max(MIN_ROTATE);
        }
        self
    }

    /// How many files that were put aside are kept. Default 16, 1 to 100,000. Not for sinks.
    #[must_use]
    pub fn keep_files(mut self, files: u32) -> Self {
        if let Target::File { keep_files, .. } = &mut self.target {
            *keep_files = files.clamp(1, MAX_KEEP);
        }
        self
    }

    /// A file whose content is the key of the hashes, at least 32 bytes: then who can write the log cannot make another that
    /// passes. Read when the log is opened. Default: no key.
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_file = Some(path.into());
        self
    }

    /// Whether what is denied is written, and not only what rules under `audit` match. Default `true`.
    #[must_use]
    pub fn denied(mut self, denied: bool) -> Self {
        self.denied = denied;
        self
    }

    /// How many records may wait to be written, at most a few KiB each; the next is lost. Default 4,096, at most 1,000,000.
    #[must_use]
    pub fn queue(mut self, records: u32) -> Self {
        self.queue = records.clamp(1, MAX_QUEUE);
        self
    }

    /// A request that is to be audited and cannot be is refused with E051 and the reason `audit`: while the sink fails, before
    /// it has been opened, and when the queue is full. Whoever can keep the sink from writing then stops such requests, so no
    /// file can say it. Default `false`: it passes, is counted, and the chain says how many are missing.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn key_path(&self) -> Option<&Path> {
        self.key_file.as_deref()
    }

    pub(crate) fn takes_denied(&self) -> bool {
        self.denied
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.queue
    }

    pub(crate) fn is_required(&self) -> bool {
        self.required
    }
}

impl PartialEq for AuditLog {
    /// Sinks are equal if they are the same.
    fn eq(&self, other: &Self) -> bool {
        let target = match (&self.target, &other.target) {
            (Target::Sink(own), Target::Sink(other)) => Arc::ptr_eq(own, other),
            (
                Target::File { path, rotate_bytes, keep_files },
                Target::File { path: other, rotate_bytes: bytes, keep_files: files },
            ) => path == other && rotate_bytes == bytes && keep_files == files,
            _ => false,
        };
        target
            && self.key_file == other.key_file
            && (self.denied, self.queue, self.required) == (other.denied, other.queue, other.required)
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("AuditLog");
        match &self.target {
            Target::File { path, rotate_bytes, keep_files } => {
                all.field("file", path).field("rotate_bytes", rotate_bytes).field("keep_files", keep_files);
            }
            Target::Sink(_) => drop(all.field("sink", &"..")),
        }
        all.field("key_file", &self.key_file)
            .field("denied", &self.denied)
            .field("queue", &self.queue)
            .field("required", &self.required)
            .finish()
    }
}
