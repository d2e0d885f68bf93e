//! Decisions as records of the audit log.

use std::sync::Arc;

use super::{
    access::{Audience, Facts},
    inbound::Served,
};
use crate::{
    authz::{
        Decision, Why,
        audit::{AuditQueue, Record},
    },
    canon::View,
    error::{Code, Error},
    peer::PeerAddr,
    rt,
};

/// What is told to the audit log, where there is one.
#[derive(Clone, Debug)]
pub(super) struct Log(Arc<AuditQueue>);

impl Log {
    pub(super) fn new(queue: Arc<AuditQueue>) -> Self {
        Self(queue)
    }

    /// A decision that is to be written. `asked`: others have the word now.
    ///
    /// # Errors
    /// E051 with the reason `audit` where it has to be written and cannot be.
    pub(super) fn decided(
        &self,
        served: &Served,
        view: &View<'_>,
        decision: &Decision<'_>,
        asked: bool,
    ) -> Result<(), Error> {
        if decision.audit.is_none() && (decision.allowed || !self.0.takes_denied()) {
            return Ok(());
        }
        let what = match decision.allowed {
            false => "deny",
            true if asked => "ask",
            true => "allow",
        };
        let record = request(served, view, what)
            .text("rule", &*decision.why.rule().name)
            .text("audit", decision.audit.map(|rule| &*rule.name))
            .text("shadow", decision.shadow.map(|(_, why)| &*why.rule().name));
        if self.write(record, decision.allowed) {
            return Ok(());
        }
        Err(Error::new(Code::Denied, "the audit log cannot be written, and it has to be").with_reason("audit"))
    }

    /// An authorization service denied, or did not answer.
    pub(super) fn asked(&self, served: &Served, view: &View<'_>, rule: &str, reason: &str) {
        if self.0.takes_denied() {
            self.write(request(served, view, "deny").text("rule", rule).text("reason", reason), false);
        }
    }

    /// Something that was open is not allowed any more.
    pub(super) fn revoked(&self, facts: &Facts<'_>, view: &View<'_>, why: Why<'_>, what: &str) {
        if self.0.takes_denied() {
            let record = peer(Record::new("revoked", rt::wall_ms()), facts.peer.remote_addr(), view);
            let path = view.http.as_ref().and_then(|http| http.path);
            self.write(record.text("rule", &*why.rule().name).text("path", path).text("what", what), false);
        }
    }

    /// A connection was not accepted.
    pub(super) fn refused(&self, remote: &PeerAddr, rule: &str) {
        if self.0.takes_denied() {
            let record = Record::new("connection", rt::wall_ms()).text("decision", "deny");
            self.write(record.text("peer", &*remote.to_string()).text("rule", rule), false);
        }
    }

    /// False if what passes must not.
    fn write(&self, record: Record, passes: bool) -> bool {
        let now_ms = record.time_ms();
        self.0.offer(record, now_ms, passes)
    }
}

/// The query stays out, as headers do: secrets stand there.
fn request(served: &Served, view: &View<'_>, decision: &str) -> Record {
    let http = view.http.as_ref();
    let host = http.and_then(|http| http.authority.as_ref()).map(|own| match own.port {
        Some(port) => format!("{}:{port}", own.host),
        None => own.host.clone().into_owned(),
    });
    let audience = match served.cx.audience {
        Audience::Mesh => "mesh",
        Audience::Edge => "edge",
        Audience::Foreign => "foreign",
    };
    let client = view.client.filter(|client| Some(*client) != view.peer).map(|client| client.to_string());
    peer(Record::new("decision", rt::wall_ms()), served.cx.peer.remote_addr(), view)
        .text("decision", decision)
        .text("audience", audience)
        .text("client", client.as_deref())
        .text("issuer", view.token.map(|token| token.issuer()))
        .text("subject", view.token.and_then(|token| token.subject()))
        .text("api_key", view.api_key)
        .text("method", http.map(|http| http.method.as_str()))
        .text("host", host.as_deref())
        .text("path", http.and_then(|http| http.path))
        .text("request_id", served.cx.context.request_id())
        .text("trace", served.cx.context.trace().map(|trace| hex(trace.trace_id())).as_deref())
}

fn peer(record: Record, remote: &PeerAddr, view: &View<'_>) -> Record {
    record.text("peer", &*remote.to_string()).text("principal", view.principal)
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}
