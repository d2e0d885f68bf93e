//! Chains that hold, and each way in which one can be made not to.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{
    AuditLog, AuditQueue, AuditSink, Broken, Head, Record, Taken, Verified, Verifier, Writer, chain::Chain, verify_file,
};
use crate::instrument::Registry;

fn record(path: &str) -> Record {
    Record::new("decision", 1_700_000_000_000).text("path", path).text("decision", "deny")
}

fn chain(records: &[&str], key: Option<&[u8]>) -> Vec<String> {
    let mut chain = Chain::after(None, key.map(<[u8]>::to_vec)).unwrap();
    records.iter().map(|path| chain.seal(&record(path)).unwrap().trim_end().to_owned()).collect()
}

fn check<T: AsRef<str>>(lines: &[T], mut verifier: Verifier) -> Result<Verified, Broken> {
    lines.iter().try_for_each(|line| verifier.line(line.as_ref()))?;
    verifier.end()
}

/// The hashes are what `printf '%s' LINE_WITHOUT_HASH | sha256sum` says, and with `openssl dgst -hmac KEY`.
#[test]
fn a_line_is_canonical_and_its_hash_is_anybodys() {
    let zeros = "0".repeat(64);
    let line = &chain(&["/a\"\n\u{1f}é"], None)[0];
    let hash = "dc2dc406b9f4fd4cfb38b91c115ab177fca5ec114ea9eeb5f8f7030ffb9279fd";
    let expected = format!(
        "{{\"decision\":\"deny\",\"hash\":\"{hash}\",\"kind\":\"decision\",\"path\":\"/a\\\"\\n\\u001fé\",\"prev\":\"{zeros}\",\"seq\":1,\"time_ms\":1700000000000}}"
    );
    assert_eq!(*line, expected);
    let line = &chain(&["/a"], Some(b"0123456789abcdef0123456789abcdef"))[0];
    assert!(line.contains("\"hash\":\"ea531b467a9f3721f49bdac2df2c197607a1ccba9d6c02a677500c3c1d506148\""), "{line}");
}

#[test]
fn every_changed_byte_is_found() {
    let lines = chain(&["/a", "/b", "/c"], None);
    assert_eq!(check(&lines, Verifier::new()).unwrap().lines, 3);
    for at in 0..lines.len() {
        for byte in 0..lines[at].len() {
            for flip in [0x01, 0x20] {
                let mut changed = lines.clone();
                let mut bytes = changed[at].clone().into_bytes();
                bytes[byte] ^= flip;
                changed[at] = String::from_utf8(bytes).unwrap();
                let broken = check(&changed, Verifier::new()).unwrap_err();
                assert_eq!(broken.line, at as u64 + 1, "byte {byte} of line {at}: {broken}");
            }
        }
    }
}

/// Who recomputes the hash of what he changed, breaks the chain one line further on; a key stops him at once.
#[test]
fn a_line_that_is_sealed_anew_breaks_the_next() {
    let mut lines = chain(&["/a", "/b", "/c"], None);
    let mut forged = Chain::after(Some(&lines[0]), None).unwrap();
    lines[1] = forged.seal(&record("/forged")).unwrap().trim_end().to_owned();
    let broken = check(&lines, Verifier::new()).unwrap_err();
    assert_eq!((broken.line, &*broken.why), (3, "it follows another line than this one"));

    let key = b"0123456789abcdef0123456789abcdef";
    let mut lines = chain(&["/a", "/b"], Some(key));
    assert!(check(&lines, Verifier::with_key(*key)).is_ok());
    assert_eq!(check(&lines, Verifier::new()).unwrap_err().line, 1);
    assert_eq!(check(&lines, Verifier::with_key([0; 32])).unwrap_err().line, 1);
    lines[1] = chain(&["/a", "/b"], None)[1].clone();
    assert_eq!(check(&lines, Verifier::with_key(*key)).unwrap_err().line, 2);
}

#[test]
fn what_is_missing_or_stands_elsewhere_is_found() {
    let lines = chain(&["/a", "/b", "/c", "/d"], None);
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat();
    for (missing, line) in [(1, 2), (2, 3)] {
        assert_eq!(check(&without(missing), Verifier::new()).unwrap_err().line, line);
    }
    for (one, other) in [(0, 1), (1, 2), (2, 3), (0, 3)] {
        let mut swapped = lines.clone();
        swapped.swap(one, other);
        assert!(check(&swapped, Verifier::new()).is_err(), "{one} {other}");
    }
    let twice = [&lines[..2], &lines[1..]].concat();
    assert_eq!(check(&twice, Verifier::new()).unwrap_err().line, 3);
    // Another chain's tail.
    let other = chain(&["/x", "/b", "/c", "/d"], None);
    assert_eq!(check(&[&lines[..2], &other[2..]].concat(), Verifier::new()).unwrap_err().line, 3);
    // Older files that are gone: known by the number of the first line.
    assert_eq!(check(&without(0), Verifier::new()).unwrap().first, 2);
    assert!(check::<&str>(&[], Verifier::new()).unwrap().head.is_none());
    assert!(check(&["{}"], Verifier::new()).is_err() && check(&["x"], Verifier::new()).is_err());
}

#[test]
fn what_was_cut_off_is_found_by_who_knows_the_end() {
    let lines = chain(&["/a", "/b", "/c"], None);
    let head = check(&lines, Verifier::new()).unwrap().head.unwrap();
    assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
    let known = || Verifier::new().known(head.clone());
    assert!(check(&lines, known()).is_ok());
    let broken = check(&lines[..2], known()).unwrap_err();
    assert_eq!(broken.to_string(), "it ends with number 2, and number 3 was there: lines were cut off");
    // Made anew in full, which without a key anybody can.
    let anew = chain(&["/a", "/b", "/other", "/d"], None);
    assert_eq!(check(&anew, known()).unwrap_err().line, 3);
    for bad in ["", "3", "3:", "3:ab", "x:ab"] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}

#[test]
fn texts_are_bounded() {
    let long = "é".repeat(2000);
    let line = chain(&[&long], None).remove(0);
    assert!(line.len() < 1300 && line.contains('…'), "{}", line.len());
}

/// Once the lock is free: a process that another test starts may hold what is closed here for a moment.
fn open(writer: &mut Writer) {
    while let Err(error) = writer.open() {
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        thread::yield_now();
    }
}

fn write(log: &AuditLog, paths: &[&str]) {
    let mut writer = Writer::new(log, "web", 1).unwrap();
    open(&mut writer);
    for path in paths {
        writer.write(&[record(path)]).unwrap();
    }
    writer.sync();
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_process_goes_on_where_its_forerunner_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::file(&path);
    write(&log, &["/a", "/b"]);
    // A crash in the middle of a line, of which nobody was told that it was written.
    let mut text = fs::read(&path).unwrap();
    text.extend(b"{\"decision\":\"de");
    fs::write(&path, &text).unwrap();
    assert!(verify_file(&path, Verifier::new()).unwrap_err().to_string().contains("not whole"));
    write(&log, &["/c"]);
    let found = verify_file(&path, Verifier::new()).unwrap();
    assert_eq!((found.lines, found.first, found.unclosed), (5, 1, 1));
    assert_eq!(lines(&path).len(), 5);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn one_process_writes_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = AuditLog::file(folder.path().join("audit.log"));
    let mut first = Writer::new(&log, "web", 1).unwrap();
    first.open().unwrap();
    let mut second = Writer::new(&log, "web", 1).unwrap();
    assert_eq!(second.open().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    open(&mut second);
}

#[test]
fn files_are_put_aside_when_they_have_grown_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let long = "x".repeat(1000);
    let log = AuditLog::file(&path).rotate_bytes(0).keep_files(2);
    let mut writer = Writer::new(&log, "web", 1).unwrap();
    writer.open().unwrap();
    let mut names = Vec::new();
    for _ in 0..200 {
        writer.write(&[record(&long)]).unwrap();
    }
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.metadata().unwrap().len() <= 64 * 1024);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["audit.log", "audit.log.000002", "audit.log.000003", "audit.log.lock"]);
    let found = verify_file(&path, Verifier::new()).unwrap();
    assert!(found.first > 1 && found.head == writer.head().cloned(), "{found:?}");
    // Where only those are left that were put aside, it goes on all the same.
    drop(writer);
    fs::remove_file(&path).unwrap();
    let before = verify_file(&path, Verifier::new()).unwrap().head.unwrap();
    write(&log, &["/a"]);
    assert_eq!(verify_file(&path, Verifier::new()).unwrap().head.unwrap().sequence, before.sequence + 2);
    // And in the middle nothing may be missing.
    fs::remove_file(folder.path().join("audit.log.000003")).unwrap();
    assert!(verify_file(&path, Verifier::new()).is_err());
}

#[test]
fn what_somebody_changed_is_put_aside_and_a_new_chain_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let log = AuditLog::file(&path);
    write(&log, &["/a"]);
    let text = fs::read_to_string(&path).unwrap().replace("/a", "/b");
    fs::write(&path, &text).unwrap();
    write(&log, &["/c"]);
    assert_eq!(fs::read_to_string(folder.path().join("audit.log.broken-1")).unwrap(), text);
    assert_eq!(verify_file(&path, Verifier::new()).unwrap().lines, 2);
    // Another key is another chain.
    let key = folder.path().join("key");
    fs::write(&key, [7; 32]).unwrap();
    write(&log.key_file(&key), &["/d"]);
    assert!(folder.path().join("audit.log.broken-2").exists());
    assert_eq!(verify_file(&path, Verifier::with_key([7; 32])).unwrap().lines, 2);
    fs::write(&key, [7; 31]).unwrap();
    assert!(Writer::new(&AuditLog::file(&path).key_file(&key), "web", 1).is_err());
}

/// Takes what it takes, as it is told.
#[derive(Default)]
struct Fickle {
    taken: Mutex<String>,
    fails: Mutex<Vec<Fails>>,
}

enum Fails {
    /// Before anything was taken.
    Whole,
    /// After all was taken, unbeknown to who gave it.
    Unknown,
}

impl AuditSink for Fickle {
    fn last(&self) -> io::Result<Option<String>> {
        Ok(self.taken.lock().unwrap().lines().last().map(str::to_owned))
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        match self.fails.lock().unwrap().pop() {
            Some(Fails::Whole) => Err(io::ErrorKind::StorageFull.into()),
            fails => {
                self.taken.lock().unwrap().push_str(lines);
                if fails.is_some() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
            }
        }
    }
}

#[test]
fn what_a_sink_did_not_take_has_no_place_in_the_chain() {
    let sink = Arc::new(Fickle::default());
    let mut writer = Writer::new(&AuditLog::sink(Arc::clone(&sink)), "web", 1).unwrap();
    writer.open().unwrap();
    sink.fails.lock().unwrap().extend([Fails::Unknown, Fails::Whole, Fails::Whole]);
    let records = [record("/a"), record("/b")];
    for _ in 0..3 {
        assert!(writer.write(&records).is_err() && writer.head().is_none());
    }
    writer.write(&records).unwrap();
    let taken = sink.taken.lock().unwrap();
    let taken: Vec<&str> = taken.lines().collect();
    // Taken twice, as the sink said that it was not; never changed, never out of order.
    assert_eq!(taken.len(), 5);
    assert_eq!(check(&taken, Verifier::new()).unwrap().head.as_ref(), writer.head());
}

fn queue(log: AuditLog) -> AuditQueue {
    AuditQueue::new(&log, &Registry::default())
}

fn taken(queue: &AuditQueue) -> Vec<String> {
    match queue.take(100, || 9) {
        Taken::Records(records) => records.iter().map(|record| format!("{:?}", record.members())).collect(),
        Taken::Closed => Vec::new(),
    }
}

#[test]
fn what_finds_no_room_is_counted_and_leaves_a_gap_in_its_place() {
    let queue = queue(AuditLog::sink(Arc::new(Fickle::default())).queue(2));
    assert!(queue.offer(record("/1"), 1, true) && queue.offer(record("/2"), 2, true));
    // Lost, and still no reason to refuse what they are about.
    assert!(queue.offer(record("/3"), 3, true) && queue.offer(record("/4"), 4, true));
    let first = taken(&queue);
    assert!(first.len() == 2 && first[1].contains("/2"), "{first:?}");
    // The next that finds room stands after the gap.
    assert!(queue.offer(record("/5"), 5, true));
    let then = taken(&queue);
    assert!(then[0].contains("\"lost\": Number(2)") && then[0].contains("\"since_ms\": Number(3)"), "{then:?}");
    assert!(then.len() == 2 && then[1].contains("/5"), "{then:?}");
    // Without a next one the gap is written when there is time.
    assert!((6..9).all(|n| queue.offer(record("/6"), n, true)));
    assert_eq!(taken(&queue).len(), 2);
    assert!(taken(&queue)[0].contains("\"lost\": Number(1)"));
    // Or at the end.
    assert!((10..13).all(|n| queue.offer(record("/7"), n, true)));
    queue.close(13);
    assert!(queue.offer(record("/8"), 14, true));
    let last = taken(&queue);
    assert!(last.len() == 3 && last[2].contains("\"lost\": Number(1)"), "{last:?}");
    assert!(matches!(queue.take(1, || 9), Taken::Closed));
}

#[test]
fn what_has_to_be_written_and_cannot_be_is_refused() {
    let queue = queue(AuditLog::sink(Arc::new(Fickle::default())).queue(2).required(true));
    // Nobody knows yet whether the sink takes it.
    assert!(!queue.offer(record("/1"), 1, true));
    queue.set_writes(true);
    assert!(queue.offer(record("/2"), 1, true));
    assert!(!queue.offer(record("/3"), 1, true));
    let _ = taken(&queue);
    assert!(queue.offer(record("/4"), 1, true));
    let _ = taken(&queue);
    queue.set_writes(false);
    assert!(!queue.offer(record("/5"), 1, true));
    // What is denied is denied, and waits.
    assert!(queue.offer(record("/6"), 1, false));
    let waiting = taken(&queue);
    assert!(
        waiting.len() == 2 && waiting[0].contains("\"lost\": Number(1)") && waiting[1].contains("/6"),
        "{waiting:?}"
    );
}

#[test]
fn the_one_who_writes_is_woken_by_a_record_and_by_the_end() {
    let queue = Arc::new(queue(AuditLog::sink(Arc::new(Fickle::default()))));
    let writer = thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            let mut found = 0;
            while let Taken::Records(records) = queue.take(1, || 0) {
                found += records.len();
            }
            // Closed: a pause is none.
            assert!(queue.pause(Duration::from_secs(3600)));
            found
        }
    });
    for _ in 0..10 {
        assert!(queue.offer(record("/"), 1, true));
    }
    queue.close(1);
    assert_eq!(writer.join().unwrap(), 10);
}
