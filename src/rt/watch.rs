//! Tells when the content behind a path may have changed.
//!
//! Watching a file by its inode misses how files are really replaced: editors and deployment tools rename a new file
//! over the old one, and Kubernetes swaps a directory behind a symlink (`mount/sinew.yaml -> ..data/sinew.yaml`,
//! `..data -> ..2024_x`). So the *directories* are watched in which the path or any link on its way can change, the
//! nearest existing ancestor where one is missing, and the set is computed anew after each burst of events. Network
//! file systems and exhausted inotify watches deliver nothing: a slow poll compares what the path resolves to.
//!
//! The trade-off: a report means "look again", not "it differs". A rewrite with equal length inside one tick of the
//! file system's clock is indistinguishable by its metadata, so every event on the file itself is reported.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ffi::OsString,
    fs::{self, Metadata},
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use super::Instant;

/// A burst of events ends after this much quiet: a rename is several events.
const QUIET: Duration = Duration::from_millis(50);
/// A burst is reported after this long even if it goes on.
const BURST: Duration = Duration::from_millis(500);
/// How often the path is compared where no event arrives.
const POLL: Duration = Duration::from_secs(5);
/// Links followed before a path counts as a loop; the kernel's own bound.
const MAX_LINKS: usize = 40;

/// Watches one path.
///
/// Make it *before* the first read of the file, so that nothing is missed in between.
pub(crate) struct FileWatch {
    path: PathBuf,
    seen: Stamp,
    signal: Arc<Signal>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Option<Identity>>,
    /// First and last event of the burst that is waited out.
    burst: Option<(Instant, Instant)>,
    next_poll: Instant,
    poll: Duration,
    events: bool,
    complained: bool,
}

/// What notify's thread leaves for the task.
#[derive(Default)]
struct Signal {
    wake: Notify,
    /// An event named the file itself.
    touched: AtomicBool,
    /// A watched directory went away: its watch is dead even if the name and inode number come back.
    lost: AtomicBool,
    /// Names by which the file or what it resolves to is known.
    names: Mutex<BTreeSet<OsString>>,
    directories: Mutex<BTreeSet<PathBuf>>,
}

impl FileWatch {
    /// Begins to watch; the file and its directory need not exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self::start(path.into(), POLL, true)
    }

    /// A watch that never gets an event, as on a network file system.
    #[cfg(test)]
    fn polling(path: impl Into<PathBuf>, poll: Duration) -> Self {
        Self::start(path.into(), poll, false)
    }

    fn start(path: PathBuf, poll: Duration, events: bool) -> Self {
        // A relative path keeps its meaning if the process changes its directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        let mut watch = Self {
            seen: Stamp::default(),
            signal: Arc::default(),
            watcher: None,
            watched: BTreeMap::new(),
            burst: None,
            next_poll: super::now() + poll,
            poll,
            events,
            complained: false,
            path,
        };
        watch.follow();
        watch.seen = Stamp::of(&watch.path);
        watch
    }

    /// Resolves when the content may have changed, appeared or gone since the last report. Cancel-safe: a change seen
    /// by a dropped call is reported by the next.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = match self.burst {
                Some((first, last)) => (last + QUIET).min(first + BURST),
                None => self.next_poll,
            };
            if super::now() < due {
                tokio::select! {
                    biased;
                    () = self.signal.wake.notified() => {
                        let now = super::now();
                        self.burst = Some((self.burst.map_or(now, |(first, _)| first), now));
                        continue;
                    }
                    () = super::sleep_until(due) => {}
                }
            }
            self.burst = None;
            self.next_poll = super::now() + self.poll;
            if self.look() {
                return;
            }
        }
    }

    fn look(&mut self) -> bool {
        // The watches first: what happens after this is an event, what happened before is in the stamp.
        self.follow();
        let touched = self.signal.touched.swap(false, Ordering::AcqRel);
        let stamp = Stamp::of(&self.path);
        let changed = touched || stamp != self.seen;
        self.seen = stamp;
        changed
    }

    /// Watches the directories in which the path can change now.
    fn follow(&mut self) {
        if !self.events {
            return;
        }
        let way = Way::of(&self.path);
        *lock(&self.signal.names) = way.names;
        *lock(&self.signal.directories) = way.directories.clone();
        if self.signal.lost.swap(false, Ordering::AcqRel) {
            for directory in std::mem::take(&mut self.watched).into_keys() {
                self.unwatch(&directory);
            }
        }
        let wanted: BTreeMap<_, _> =
            way.directories.into_iter().map(|directory| (directory.clone(), identity(&directory))).collect();
        let gone: Vec<_> = self
            .watched
            .iter()
            .filter(|(path, id)| wanted.get(*path) != Some(*id))
            .map(|(path, _)| path.clone())
            .collect();
        for directory in gone {
            self.watched.remove(&directory);
            self.unwatch(&directory);
        }
        for (directory, id) in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            match self.watch(&directory) {
                Ok(()) => {
                    self.watched.insert(directory, id);
                }
                Err(error) => self.complain(&directory, &error),
            }
        }
    }

    fn watch(&mut self, directory: &Path) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let signal = self.signal.clone();
                none.insert(notify::recommended_watcher(move |event| signal.event(event))?)
            }
        };
        watcher.watch(directory, RecursiveMode::NonRecursive)
    }

    fn unwatch(&mut self, directory: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // Fails where the kernel dropped the watch with the directory, which is what is wanted.
            let _ = watcher.unwatch(directory);
        }
    }

    fn complain(&mut self, directory: &Path, error: &notify::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(
                path = %self.path.display(), directory = %directory.display(), %error,
                "no file events here, changes are found by polling every {:?}; on Linux raise fs.inotify.max_user_watches \
                 and max_user_instances",
                self.poll
            );
        }
    }
}

impl Signal {
    fn event(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) => {
                match event.kind {
                    // Our own reading of the file.
                    EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => return,
                    EventKind::Remove(_) | EventKind::Modify(notify::event::ModifyKind::Name(_)) => {
                        let directories = lock(&self.directories);
                        if event.paths.iter().any(|path| directories.contains(path)) {
                            self.lost.store(true, Ordering::Release);
                        }
                    }
                    _ => {}
                }
                let names = lock(&self.names);
                if event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name)) {
                    self.touched.store(true, Ordering::Release);
                }
            }
            // The kernel's queue ran over or a watch broke: look, whatever it was.
            Err(_) => self.lost.store(true, Ordering::Release),
        }
        self.wake.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every directory on the way to the file whose entries decide what the path means.
struct Way {
    directories: BTreeSet<PathBuf>,
    names: BTreeSet<OsString>,
}

impl Way {
    fn of(path: &Path) -> Self {
        let mut way = Self { directories: BTreeSet::new(), names: BTreeSet::new() };
        let mut rest: VecDeque<OsString> = parts(path).collect();
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let meta = fs::symlink_metadata(&next);
            let link = meta.as_ref().is_ok_and(Metadata::is_symlink);
            if rest.is_empty() {
                way.names.insert(part);
            }
            if link || rest.is_empty() || meta.is_err() {
                way.directories.insert(at.clone());
            }
            if meta.is_err() {
                break;
            }
            if !link {
                at = next;
                continue;
            }
            links += 1;
            match fs::read_link(&next) {
                Ok(target) if links <= MAX_LINKS => {
                    if target.is_absolute() {
                        at = PathBuf::new();
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                _ => break,
            }
        }
        way.directories.remove(Path::new(""));
        way
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter(|part| !matches!(part, Component::CurDir)).map(|part| part.as_os_str().to_owned())
}

/// Which file a name stands for: a replaced directory has the same name.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity_of(meta: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn identity_of(_: &Metadata) -> Identity {
    (0, 0)
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|meta| identity_of(&meta))
}

/// What a path resolves to, cheaply.
#[derive(PartialEq, Eq, Default)]
struct Stamp {
    target: Option<PathBuf>,
    file: Option<(u64, Option<SystemTime>, Identity)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        Self {
            target: fs::canonicalize(path).ok(),
            file: fs::metadata(path).ok().map(|meta| (meta.len(), meta.modified().ok(), identity_of(&meta))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far beyond any delay of the kernel's, below the poll where events are to be shown.
    const PROMPT: Duration = Duration::from_secs(4);

    async fn prompt(watch: &mut FileWatch, what: &str) {
        assert!(super::super::timeout(PROMPT, watch.changed()).await.is_some(), "{what} was not seen");
    }

    /// Swallows reports until they stop: a change may be reported more than once.
    async fn settle(watch: &mut FileWatch) {
        while super::super::timeout(BURST, watch.changed()).await.is_some() {}
    }

    #[tokio::test]
    async fn writes_renames_and_removal_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinew.yaml");
        let mut watch = FileWatch::new(&path);
        fs::write(&path, "one").unwrap();
        prompt(&mut watch, "creation").await;
        settle(&mut watch).await;
        fs::write(&path, "two").unwrap();
        prompt(&mut watch, "a write in place of equal length").await;
        settle(&mut watch).await;
        fs::write(dir.path().join("new"), "three").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        prompt(&mut watch, "an atomic rename").await;
        settle(&mut watch).await;
        fs::remove_file(&path).unwrap();
        prompt(&mut watch, "removal").await;
    }

    #[tokio::test]
    async fn neighbours_and_readers_are_not_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinew.yaml");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(&path);
        settle(&mut watch).await;
        fs::write(dir.path().join("other"), "x").unwrap();
        fs::read(&path).unwrap();
        assert!(super::super::timeout(Duration::from_secs(1), watch.changed()).await.is_none());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_kubernetes_flip_of_the_data_link_is_seen_each_time() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path();
        let flip = |version: &str, text: &str| {
            fs::create_dir(mount.join(version)).unwrap();
            fs::write(mount.join(version).join("sinew.yaml"), text).unwrap();
            symlink(version, mount.join("..data_tmp")).unwrap();
            fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        };
        flip("..2024_1", "one");
        symlink("..data/sinew.yaml", mount.join("sinew.yaml")).unwrap();
        let mut watch = FileWatch::new(mount.join("sinew.yaml"));
        for version in ["..2024_2", "..2024_3"] {
            settle(&mut watch).await;
            flip(version, version);
            prompt(&mut watch, version).await;
            assert_eq!(fs::read_to_string(mount.join("sinew.yaml")).unwrap(), version);
        }
        settle(&mut watch).await;
        fs::write(mount.join("..2024_3/sinew.yaml"), "4").unwrap();
        prompt(&mut watch, "a write behind the links").await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_directory_swapped_behind_a_link_is_seen() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        for release in ["one", "two"] {
            fs::create_dir(dir.path().join(release)).unwrap();
            fs::write(dir.path().join(release).join("sinew.yaml"), release).unwrap();
        }
        symlink("one", dir.path().join("current")).unwrap();
        let mut watch = FileWatch::new(dir.path().join("current/sinew.yaml"));
        settle(&mut watch).await;
        symlink("two", dir.path().join("next")).unwrap();
        fs::rename(dir.path().join("next"), dir.path().join("current")).unwrap();
        prompt(&mut watch, "the swap").await;
    }

    #[tokio::test]
    async fn a_missing_directory_may_come_go_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        let path = inner.join("sinew.yaml");
        let mut watch = FileWatch::new(&path);
        for round in ["first", "second"] {
            fs::create_dir_all(&inner).unwrap();
            fs::write(&path, round).unwrap();
            prompt(&mut watch, round).await;
            settle(&mut watch).await;
            fs::write(&path, "again").unwrap();
            prompt(&mut watch, "a write in a new directory").await;
            settle(&mut watch).await;
            fs::remove_dir_all(dir.path().join("a")).unwrap();
            prompt(&mut watch, "removal of the directory").await;
            settle(&mut watch).await;
        }
    }

    #[tokio::test]
    async fn polling_alone_suffices() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinew.yaml");
        let mut watch = FileWatch::polling(&path, Duration::from_millis(20));
        fs::write(&path, "one").unwrap();
        prompt(&mut watch, "creation").await;
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        prompt(&mut watch, "a rename").await;
        fs::remove_file(&path).unwrap();
        prompt(&mut watch, "removal").await;
    }

    #[tokio::test]
    async fn a_change_seen_by_a_dropped_call_is_reported_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinew.yaml");
        let mut watch = FileWatch::new(&path);
        fs::write(&path, "one").unwrap();
        for _ in 0..20 {
            if super::super::timeout(Duration::from_millis(5), watch.changed()).await.is_some() {
                return;
            }
        }
        prompt(&mut watch, "creation").await;
    }
}
