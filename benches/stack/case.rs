//! What is measured: the grammar of cases, and the two sides of each.

use std::fmt;

use bytes::Bytes;
use sinew::model::Protocol;

use super::{
    echo,
    side::{Rig, Side, Variant},
    sidecar::Sidecars,
};

/// `{h1|h2|grpc}/{0|1024}/c{1|64|256}/{ct|mt}[/mtls]`
#[derive(Clone, Copy)]
pub(crate) struct Case {
    wire: Wire,
    bytes: usize,
    callers: usize,
    runtime: Runtime,
    mtls: bool,
}

#[derive(Clone, Copy)]
enum Wire {
    H1,
    H2,
    Grpc,
}

#[derive(Clone, Copy)]
pub(crate) enum Runtime {
    CurrentThread,
    MultiThread,
}

impl Case {
    pub(crate) fn all() -> Vec<Case> {
        let mut all = Vec::new();
        for wire in [Wire::H1, Wire::H2, Wire::Grpc] {
            for bytes in [0, 1024] {
                for callers in [1, 64, 256] {
                    for runtime in [Runtime::CurrentThread, Runtime::MultiThread] {
                        for mtls in [false, true] {
                            all.push(Case { wire, bytes, callers, runtime, mtls });
                        }
                    }
                }
            }
        }
        all
    }

    /// Those that can also go through sidecars.
    pub(crate) fn beside_sidecars(&self) -> bool {
        matches!(self.wire, Wire::H2) && self.mtls
    }

    /// The same calls through sidecars; `None` if there are none.
    pub(crate) fn sidecars(&self) -> Option<Sidecars> {
        Sidecars::start(self.runtime, Bytes::from(vec![b'x'; self.bytes]), self.callers)
    }

    /// Connects one side, in a runtime of its own.
    pub(crate) fn side(&self, variant: Variant) -> Box<dyn Side> {
        let payload = Bytes::from(vec![b'x'; self.bytes]);
        let (runtime, callers, mtls) = (self.runtime, self.callers, self.mtls);
        match (self.wire, variant) {
            (Wire::H1, Variant::Bare) => Rig::boxed(runtime, payload, echo::bare_http1(callers, mtls)),
            (Wire::H1, Variant::Sinew) => Rig::boxed(runtime, payload, echo::mesh_http(Protocol::Http1, callers, mtls)),
            (Wire::H2, Variant::Bare) => Rig::boxed(runtime, payload, echo::bare_http2(callers, mtls)),
            (Wire::H2, Variant::Sinew) => Rig::boxed(runtime, payload, echo::mesh_http(Protocol::Http2, callers, mtls)),
            (Wire::Grpc, Variant::Bare) => Rig::boxed(runtime, payload, echo::bare_grpc(callers, mtls)),
            (Wire::Grpc, Variant::Sinew) => Rig::boxed(runtime, payload, echo::mesh_grpc(callers, mtls)),
        }
    }

    /// Calls of each caller over which allocations are counted: enough that what happens once does not show.
    pub(crate) fn counted_calls(&self) -> usize {
        (4000 / self.callers).max(50)
    }

    /// A few calls of both variants.
    ///
    /// # Panics
    /// If one of them fails.
    pub(crate) fn check(&self) {
        for variant in [Variant::Bare, Variant::Sinew] {
            let counted = self.side(variant).count(2);
            println!("{self} {variant}: ok, {} calls", counted.calls);
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = match self.wire {
            Wire::H1 => "h1",
            Wire::H2 => "h2",
            Wire::Grpc => "grpc",
        };
        let runtime = match self.runtime {
            Runtime::CurrentThread => "ct",
            Runtime::MultiThread => "mt",
        };
        let mtls = if self.mtls { "/mtls" } else { "" };
        f.pad(&format!("{wire}/{}/c{}/{runtime}{mtls}", self.bytes, self.callers))
    }
}
