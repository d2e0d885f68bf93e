//! Lines that hang together, and whether they do.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    str::FromStr,
};

use serde_json::Value;

use super::{
    digest::{digest, hex},
    file::parts,
    record::Record,
};

/// The longest line that is one; records are bounded far below.
const LONGEST: u64 = 64 * 1024;

/// The end of a chain: who knows it, knows whether lines are missing after it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Head {
    /// The number of the last line.
    pub sequence: u64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
}

impl Head {
    /// The last line has this number and this hash.
    pub fn new(sequence: u64, hash: impl Into<String>) -> Self {
        Self { sequence, hash: hash.into() }
    }

    fn genesis() -> Self {
        Self { sequence: 0, hash: "0".repeat(64) }
    }
}

/// `12:ab..`, as events tell it.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

/// The same text.
impl FromStr for Head {
    type Err = Broken;

    fn from_str(text: &str) -> Result<Self, Broken> {
        let head = text.split_once(':').and_then(|(sequence, hash)| {
            let hash = hash.to_ascii_lowercase();
            let digits = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            Some(Self { sequence: sequence.parse().ok()?, hash: digits.then_some(hash)? })
        });
        head.ok_or_else(|| Broken {
            line: 0,
            why: "that is not NUMBER:HASH, as the log's own events tell it".to_owned(),
        })
    }
}

/// The text with the member `hash` taken out is what the hash is of.
fn without_hash(members: &BTreeMap<String, Value>) -> Option<String> {
    serde_json::to_string(members).ok()
}

/// Gives lines their place.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    key: Option<Vec<u8>>,
    head: Head,
}

impl Chain {
    /// Goes on after this line; at the beginning without one.
    ///
    /// # Errors
    /// If the line is not one of this chain.
    pub(super) fn after(line: Option<&str>, key: Option<Vec<u8>>) -> Result<Self, String> {
        let head = match line {
            None => Head::genesis(),
            Some(line) => read(line, key.as_deref())?.head,
        };
        Ok(Self { key, head })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The record as the next line, with its end. `None` where there is no cryptography.
    pub(super) fn seal(&mut self, record: &Record) -> Option<String> {
        let mut members = record.members();
        let sequence = self.head.sequence + 1;
        members.insert("seq".to_owned(), sequence.into());
        members.insert("prev".to_owned(), self.head.hash.as_str().into());
        let hash = hex(&digest(self.key.as_deref(), without_hash(&members)?.as_bytes())?);
        members.insert("hash".to_owned(), hash.as_str().into());
        let mut line = serde_json::to_string(&members).ok()?;
        line.push('\n');
        self.head = Head { sequence, hash };
        Some(line)
    }
}

/// A whole chain of records with these texts.
#[cfg(fuzzing)]
pub(crate) fn sealed<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let Ok(mut chain) = Chain::after(None, None) else { return String::new() };
    texts.filter_map(|text| chain.seal(&Record::new("decision", 1).text("path", text))).collect()
}

/// A line whose hash is right.
struct Line {
    head: Head,
    prev: String,
    members: BTreeMap<String, Value>,
}

fn read(line: &str, key: Option<&[u8]>) -> Result<Line, String> {
    let mut members: BTreeMap<String, Value> =
        serde_json::from_str(line).map_err(|_| "it is no JSON object".to_owned())?;
    // What is written in another way has been written by somebody else; a name that stands twice is lost here as well.
    if serde_json::to_string(&members).ok().as_deref() != Some(line) {
        return Err("it is not in canonical form".to_owned());
    }
    let Some(Value::String(hash)) = members.remove("hash") else { return Err("it has no `hash`".to_owned()) };
    let text = without_hash(&members).ok_or_else(|| "it cannot be written".to_owned())?;
    let own = digest(key, text.as_bytes()).ok_or_else(|| "this build has no cryptography".to_owned())?;
    if hex(&own) != hash {
        let key = if key.is_some() { "the key is not this one" } else { "there is a key" };
        return Err(format!("its hash is another: it was changed, or {key}"));
    }
    let sequence = members.get("seq").and_then(Value::as_u64).ok_or_else(|| "it has no `seq`".to_owned())?;
    let prev = members.get("prev").and_then(Value::as_str).ok_or_else(|| "it has no `prev`".to_owned())?.to_owned();
    Ok(Line { head: Head { sequence, hash }, prev, members })
}

/// Where a chain breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Broken {
    /// The line, counted from 1 through all files; 0 for what concerns none.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.why),
            line => write!(f, "line {line}: {}", self.why),
        }
    }
}

impl std::error::Error for Broken {}

/// What a chain that holds together says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// How many lines there are.
    pub lines: u64,
    /// The number of the first: 1, unless older files are not here any more.
    pub first: u64,
    /// The end, to be compared with what metrics and events told. `None` for an empty log.
    pub head: Option<Head>,
    /// How many records are missing where the log says so itself, with `gap`.
    pub lost: u64,
    /// How often a process began without its forerunner having closed the log, as after a crash.
    pub unclosed: u64,
}

/// Checks a chain line by line.
#[derive(Debug, Default)]
pub struct Verifier {
    key: Option<Vec<u8>>,
    known: Option<Head>,
    found: Verified,
    closed: bool,
}

impl Verifier {
    /// Checks a chain without a key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks a chain with this key.
    pub fn with_key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// This line was there once: nothing was cut off after it, and no other stands in its place.
    #[must_use]
    pub fn known(mut self, head: Head) -> Self {
        self.known = Some(head);
        self
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// If it does not belong after the one before.
    pub fn line(&mut self, line: &str) -> Result<(), Broken> {
        let number = self.found.lines + 1;
        let fail = |why: String| Err(Broken { line: number, why });
        let read = match read(line, self.key.as_deref()) {
            Ok(read) => read,
            Err(why) => return fail(why),
        };
        let sequence = read.head.sequence;
        match &self.found.head {
            Some(head) if head.sequence + 1 != sequence => {
                let before = head.sequence;
                return fail(format!(
                    "number {sequence} follows number {before}: lines are missing, or stand elsewhere"
                ));
            }
            Some(head) if head.hash != read.prev => return fail("it follows another line than this one".to_owned()),
            Some(_) => {}
            None if sequence == 1 && read.prev != Head::genesis().hash => {
                return fail("it is number 1 and follows another".to_owned());
            }
            None => self.found.first = sequence,
        }
        if self.known.as_ref().is_some_and(|known| known.sequence == sequence && *known != read.head) {
            return fail(format!("number {sequence} is not the line that was known: the log was made anew"));
        }
        let kind = read.members.get("kind").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "open" if number > 1 && !self.closed => self.found.unclosed += 1,
            "gap" => self.found.lost += read.members.get("lost").and_then(Value::as_u64).unwrap_or_default(),
            _ => {}
        }
        self.closed = kind == "close";
        self.found.lines = number;
        self.found.head = Some(read.head);
        Ok(())
    }

    /// What was found.
    ///
    /// # Errors
    /// If the chain ends before the line that was known.
    pub fn end(self) -> Result<Verified, Broken> {
        let end = self.found.head.as_ref().map_or(0, |head| head.sequence);
        match self.known {
            Some(known) if end < known.sequence => {
                let why =
                    format!("it ends with number {end}, and number {} was there: lines were cut off", known.sequence);
                Err(Broken { line: 0, why })
            }
            _ => Ok(self.found),
        }
    }
}

/// Checks a log that lies in files: those that were rotated, which lie beside it, and then itself.
///
/// # Errors
/// `InvalidData` around a [`Broken`], or what reading fails with.
pub fn verify_file(path: &Path, mut verifier: Verifier) -> io::Result<Verified> {
    let broken = |broken: Broken| io::Error::new(io::ErrorKind::InvalidData, broken);
    let mut line = String::new();
    for part in parts(path)? {
        let mut reader = BufReader::new(File::open(part)?);
        loop {
            line.clear();
            if Read::take(&mut reader, LONGEST).read_line(&mut line)? == 0 {
                break;
            }
            let Some(text) = line.strip_suffix('\n') else {
                return Err(broken(Broken { line: verifier.found.lines + 1, why: "it is not whole".to_owned() }));
            };
            verifier.line(text).map_err(broken)?;
        }
    }
    verifier.end().map_err(broken)
}
