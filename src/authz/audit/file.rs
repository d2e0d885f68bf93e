//! A file, and those that were put aside when it had grown.
//!
//! `audit.log` is written; `audit.log.000001`, `audit.log.000002` were written before it, the highest number last. A line that
//! is not whole, as after a crash, is cut off when the file is opened: nobody was told that it was written. `audit.log.lock`
//! keeps other processes out.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::policy::AuditSink;

/// Lines are shorter than this.
const TAIL: u64 = 128 * 1024;

/// An [`AuditSink`] into a file that is rotated.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    rotate_bytes: u64,
    keep_files: usize,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Up to here it holds whole lines.
    length: u64,
    _lock: File,
}

impl FileSink {
    pub(super) fn new(path: &Path, rotate_bytes: u32, keep_files: u32) -> Self {
        Self {
            path: path.to_owned(),
            rotate_bytes: rotate_bytes.into(),
            keep_files: keep_files as usize,
            open: Mutex::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Open) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            *open = Some(Open::new(&self.path)?);
        }
        let result = open.as_mut().map_or_else(|| Err(io::ErrorKind::NotFound.into()), act);
        // Opened anew: what became of the file is not known.
        if result.is_err() {
            *open = None;
        }
        result
    }

    /// Puts the file aside and begins another.
    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        open.file.sync_all()?;
        let aside = numbered(&self.path)?;
        let next = aside.last().map_or(1, |(number, _)| number + 1);
        fs::rename(&self.path, with_suffix(&self.path, &format!("{next:06}")))?;
        (open.file, open.length) = (append(&self.path)?, 0);
        // What is older than what is kept goes; one was just added.
        for (_, oldest) in aside.iter().take((aside.len() + 1).saturating_sub(self.keep_files)) {
            fs::remove_file(oldest)?;
        }
        sync_folder(&self.path)
    }
}

impl AuditSink for FileSink {
    fn last(&self) -> io::Result<Option<String>> {
        let own = self.with(|open| {
            open.cut()?;
            last_line(&mut open.file, open.length)
        })?;
        match (own, numbered(&self.path)?.pop()) {
            (Some(line), _) => Ok(Some(line)),
            (None, Some((_, before))) => {
                let mut file = File::open(before)?;
                let length = file.metadata()?.len();
                last_line(&mut file, length)
            }
            (None, None) => Ok(None),
        }
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        self.with(|open| {
            let more = lines.len() as u64;
            if open.length > 0 && open.length + more > self.rotate_bytes {
                self.rotate(open)?;
            }
            if let Err(error) = open.file.write_all(lines.as_bytes()) {
                // Not a part of them, so that none stands there twice.
                open.file.set_len(open.length)?;
                return Err(error);
            }
            open.length += more;
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|open| open.file.sync_data())
    }

    fn set_aside(&self) -> io::Result<()> {
        self.with(|open| {
            open.file.sync_all()?;
            let free = |number: &u32| !with_suffix(&self.path, &format!("broken-{number}")).exists();
            let number = (1..).find(free).unwrap_or(u32::MAX);
            let broken = |part: &Path| {
                let mut name = OsString::from(self.path.file_name().unwrap_or_default());
                name.push(format!(".broken-{number}"));
                // `audit.log.000001` becomes `audit.log.broken-1.000001`.
                let own = self.path.file_name().unwrap_or_default().len();
                let rest = part.file_name().unwrap_or_default().to_string_lossy().split_at(own).1.to_owned();
                name.push(rest);
                part.with_file_name(name)
            };
            for part in parts(&self.path)? {
                fs::rename(&part, broken(&part))?;
            }
            (open.file, open.length) = (append(&self.path)?, 0);
            sync_folder(&self.path)
        })
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let lock = append(&with_suffix(path, "lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process writes to it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let file = append(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length, _lock: lock })
    }

    /// Cuts off what is no whole line.
    fn cut(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let tail = tail(&mut self.file, length)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.length = length - (tail.len() - whole) as u64;
        if self.length < length {
            self.file.set_len(self.length)?;
        }
        Ok(())
    }
}

/// To be written at its end, and read.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    Read::take(file, TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The last whole line, without its end.
fn last_line(file: &mut File, length: u64) -> io::Result<Option<String>> {
    let tail = tail(file, length)?;
    let Some(text) = tail.strip_suffix(b"\n") else { return Ok(None) };
    let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(Some(String::from_utf8_lossy(&text[start..]).into_owned()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The files that were put aside, oldest first.
fn numbered(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let own = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(&own)).unwrap_or_default();
        if digits.len() >= 6
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(number) = digits.parse()
        {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// All files of a log in their order.
pub(super) fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut parts: Vec<PathBuf> = numbered(path)?.into_iter().map(|(_, path)| path).collect();
    // A crash between two files leaves only those that were put aside.
    if parts.is_empty() || path.exists() {
        parts.push(path.to_owned());
    }
    Ok(parts)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name that was given or taken away survives a crash only if its folder was written.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}
