//! Copies of calls, sent beside them.

use super::{attempt, outbound::Outbound};
use crate::{
    mirror::{Copies, MirrorPolicy},
    rt,
    timeout::{Cause, Deadline},
};

/// The mirror of the call's route.
#[derive(Clone, Debug)]
pub(crate) struct CallMirror;

impl Copies<Outbound> for CallMirror {
    #[inline]
    fn mirror(&self, call: &mut Outbound) {
        // What serves a copy is not copied again.
        if call.cx.entry.mirror.is_some() && !call.cx.mirrored {
            mirror(call);
        }
    }
}

fn mirror(call: &mut Outbound) {
    let entry = &call.cx.entry;
    let (Some(to), Some(cluster)) = (&entry.mirror, entry.cluster()) else { return };
    let Some(mut copy) = to.handle.copy(&mut call.request) else { return };
    let timeout = to.handle.policy.timeout.or(entry.timeouts.request).unwrap_or(MirrorPolicy::TIMEOUT);
    let mut cx = call.cx.clone();
    cx.mirrored = true;
    // Its own: the copy goes on when the original is over or given up.
    cx.deadline = Some(Deadline::new(rt::now() + timeout, Cause::Request { after: timeout, key: "mirror.timeout" }));
    attempt::write(&cx, copy.request.headers_mut());
    let (target, subset, grpc) = (cluster.clone(), to.subset, cx.grpc);
    cluster.background(copy.run(timeout, move |request| target.mirror(request, subset, grpc, timeout)));
}
