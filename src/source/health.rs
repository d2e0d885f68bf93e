//! What is said of health checks and cannot come true.

use super::{check::Findings, document::Field, resolve::Resolved};
use crate::{
    health::{CheckKind, HealthCheck},
    model::{LintCode, Origin, Protocol, SetKind, SourceKind},
};

pub(super) fn check(service: &Resolved, findings: &mut Findings) {
    let written: &Field<Vec<HealthCheck>> = &service.tunables.health_checks;
    let Some(set) = written.as_ref().filter(|set| !set.value.is_empty()) else { return };
    let grpc = set.value.iter().position(|check| matches!(check.kind, CheckKind::Grpc(_)));
    if let Some(index) = grpc.filter(|_| service.spec.protocol == Protocol::Http1) {
        let protocol = service.partial.protocol.as_ref().map_or(&Origin::Default, |set| &set.origin);
        findings.reject(
            service,
            &format!("health_checks[{index}].grpc"),
            &set.origin,
            "gRPC needs HTTP/2, and this service is spoken to in HTTP/1.1".into(),
            "check it by `http`, or set `protocol: http2`",
            Some((protocol, "the protocol is set here".into())),
        );
    }
    let alone = match service.spec.endpoints.as_slice() {
        [source] if source.kind == Some(SetKind::Vip) => Some("a virtual IP"),
        [source] => match &source.source {
            SourceKind::Static(specs) if specs.len() == 1 => Some("one endpoint"),
            _ => None,
        },
        _ => None,
    };
    if let Some(alone) = alone {
        let message = format!("the checks of {alone} only report: there is no other to go to");
        findings.lint(service, "health_checks", &set.origin, LintCode::ChecksOnlyReport, message);
    }
}
