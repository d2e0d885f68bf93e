//! The grammar of `inbound.audit_log`, and the log printed.

use super::{
    cursor::{Cursor, Fields, Wrong},
    security::path,
};
use crate::{
    authz::audit::{AuditLog, MAX_KEEP, MAX_QUEUE, MIN_ROTATE, Target},
    source::document::Field,
};

pub(super) fn audit_log(fields: &mut Fields<'_, '_, '_>) -> Field<AuditLog> {
    fields.field(
        "audit_log",
        "Where what rules under `audit` match, and what is denied, is written, so that a change of it shows. Default: \
         nowhere but into events.",
        read,
    )
}

fn read(at: Cursor<'_, '_, '_>) -> Option<AuditLog> {
    at.map("a map with `file`", |fields| {
        let file = fields.field("file", "The file. Its folder has to be there. Needed.", path);
        let key = fields.field("key_file", "A file that holds the key of its hashes. Default: none.", path);
        let rotate = fields.field(
            "rotate_bytes",
            "When it is put aside and a new one begun, 65536 to 4294967295. Default 67108864.",
            |at| at.integer(MIN_ROTATE..=u32::MAX),
        );
        let keep = fields
            .field("keep_files", "How many of those are kept, 1 to 100000. Default 16.", |at| at.integer(1..=MAX_KEEP));
        let denied = fields.field("denied", "Whether what is denied is written. Default `true`.", |at| at.boolean());
        let queue = fields.field(
            "queue",
            "How many records may wait to be written; the next is lost, and counted. 1 to 1000000. Default 4096.",
            |at| at.integer(1..=MAX_QUEUE),
        );
        let Some(file) = file else {
            if !fields.has("file") {
                fields.report("file", Wrong::new("`file` is missing", "name one: `file: /var/log/web/audit.log`"));
            }
            return None;
        };
        let mut log = AuditLog::file(file.value);
        if let Some(key) = key {
            log = log.key_file(key.value);
        }
        if let Some(bytes) = rotate {
            log = log.rotate_bytes(bytes.value);
        }
        if let Some(files) = keep {
            log = log.keep_files(files.value);
        }
        if let Some(denied) = denied {
            log = log.denied(denied.value);
        }
        if let Some(records) = queue {
            log = log.queue(records.value);
        }
        Some(log)
    })?
}

/// The log as a document says it; `None` if none can.
pub(super) fn shown(log: &AuditLog) -> Option<String> {
    let Target::File { path, rotate_bytes, keep_files } = log.target() else { return None };
    let quoted = |path: &std::path::Path| serde_json::Value::from(path.display().to_string()).to_string();
    let key = log.key_path().map(|key| format!(", key_file: {}", quoted(key))).unwrap_or_default();
    let (denied, queue) = (log.takes_denied(), log.capacity());
    Some(format!(
        "{{file: {}{key}, rotate_bytes: {rotate_bytes}, keep_files: {keep_files}, denied: {denied}, queue: {queue}}}",
        quoted(path)
    ))
}
