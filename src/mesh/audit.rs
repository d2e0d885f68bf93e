//! The audit log of this process: the thread that writes it, and its change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    authz::audit::{AuditLog, AuditQueue, Record, Taken, Writer},
    instrument::{Counter, Gauge, Registry},
    ops::{Condition, Readiness},
    rt::{self, Ended},
};

/// Records that are sealed and written at once.
const BATCH: usize = 256;
/// Records after which what was written is made durable, although more wait.
const UNSYNCED: usize = 4096;
/// Pauses while a sink fails, the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The log in use.
#[derive(Default)]
pub(super) struct Audit {
    running: Mutex<Option<Running>>,
    /// Logs that another one has replaced, until they are written to their end.
    closing: Mutex<Vec<Ended>>,
}

struct Running {
    log: AuditLog,
    queue: Arc<AuditQueue>,
    ended: Option<Ended>,
}

impl Audit {
    /// The queue of this log. Where it is another one than before, the one before is closed, and what waits there is written.
    pub(super) fn set(
        &self,
        log: Option<&AuditLog>,
        service: &str,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Option<Arc<AuditQueue>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(running), Some(log)) = (&*running, log)
            && running.log == *log
        {
            return Some(Arc::clone(&running.queue));
        }
        let before = running.take();
        if let Some(before) = before {
            before.queue.close(rt::wall_ms());
            let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
            closing.retain(|log| !log.is_over());
            closing.extend(before.ended);
        }
        let log = log?;
        let queue = Arc::new(AuditQueue::new(log, registry));
        let (served, own, name, series) = (Arc::clone(&queue), log.clone(), service.to_owned(), Series::new(registry));
        // What has to be written is refused until then.
        let condition = log.is_required().then(|| readiness.condition("audit", "the audit log is not open yet"));
        let ended = rt::thread("sinew-audit", move || run(&own, &served, &name, &series, condition.as_ref()));
        if let Err(error) = &ended {
            tracing::error!(target: "sinew::audit", "nothing is written to the audit log, as no thread can be had: {error}");
        }
        *running = Some(Running { log: log.clone(), queue: Arc::clone(&queue), ended: ended.ok() });
        Some(queue)
    }

    /// Writes what is to be written of what happened beside requests.
    pub(super) fn note(&self, record: impl FnOnce(Record) -> Record, kind: &'static str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            let now = rt::wall_ms();
            let _ = running.queue.offer(record(Record::new(kind, now)), now, false);
        }
    }

    /// Ends the log, and waits until all of it is written, and of those before it, at most `limit`.
    pub(super) async fn end(&self, limit: Duration) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        // After it, or one that is replaced meanwhile would be missed.
        let mut ended = std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(running) = running {
            running.queue.close(rt::wall_ms());
            ended.extend(running.ended);
        }
        let all = async {
            for log in ended {
                log.wait().await;
            }
        };
        if rt::timeout(limit, all).await.is_none() {
            tracing::warn!(target: "sinew::audit", "the audit log is not written to its end");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner) {
            running.queue.close(rt::wall_ms());
        }
    }
}

struct Series {
    written: Counter,
    failures: Counter,
    sequence: Gauge,
}

impl Series {
    fn new(registry: &Registry) -> Self {
        Self {
            written: registry.counter("sinew_audit_records_total", &[]),
            failures: registry.counter("sinew_audit_failures_total", &[]),
            sequence: registry.gauge("sinew_audit_sequence", &[]),
        }
    }

    fn at(&self, writer: &Writer) {
        if let Some(head) = writer.head() {
            self.sequence.set(i64::try_from(head.sequence).unwrap_or(i64::MAX));
        }
    }
}

/// The life of the thread.
fn run(log: &AuditLog, queue: &AuditQueue, service: &str, series: &Series, condition: Option<&Condition>) {
    let began = rt::wall_ms();
    let mut writer = None;
    let opened = persist(queue, series, || {
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(Writer::new(log, service, began)?),
        };
        writer.open()
    });
    let Some(mut writer) = writer.filter(|_| opened) else { return };
    tell(&writer, "opened");
    condition.inspect(|condition| condition.met());
    series.at(&writer);
    let mut unsynced = 1;
    while let Taken::Records(records) = queue.take(BATCH, rt::wall_ms) {
        if !persist(queue, series, || writer.write(&records)) {
            return;
        }
        series.written.add(records.len() as u64);
        series.at(&writer);
        unsynced += records.len();
        if unsynced >= UNSYNCED || queue.is_empty() {
            writer.sync();
            unsynced = 0;
        }
    }
    let close = [Record::new("close", rt::wall_ms())];
    if persist(queue, series, || writer.write(&close)) {
        writer.sync();
        series.at(&writer);
        tell(&writer, "closed");
    }
}

fn tell(writer: &Writer, what: &str) {
    if let Some(head) = writer.head() {
        tracing::info!(target: "sinew::audit", %head, "the audit log is {what}");
    }
}

/// Tries until it succeeds, or until nothing more comes and it has failed once more. True if it succeeded.
fn persist(queue: &AuditQueue, series: &Series, mut act: impl FnMut() -> std::io::Result<()>) -> bool {
    let mut pause = PAUSE.0;
    let mut last = false;
    loop {
        match act() {
            Ok(()) => {
                queue.set_writes(true);
                return true;
            }
            Err(error) => {
                series.failures.inc();
                queue.set_writes(false);
                if pause == PAUSE.0 || last {
                    tracing::error!(target: "sinew::audit", "the audit log cannot be written: {error}");
                }
                if last {
                    return false;
                }
                last = queue.pause(pause);
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}
