//! Cores, and whose time passes on them.

use std::time::Duration;

use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

pub(crate) const GENERATOR: usize = 0;
pub(crate) const SERVER: usize = 1;

/// Keeps this thread on a core, where there are two.
pub(crate) fn pin_to(core: usize) {
    if std::thread::available_parallelism().map_or(1, usize::from) > 1 {
        let mut cores = CpuSet::new();
        cores.set(core);
        // Refused in some containers: then the scheduler decides.
        let _ = sched_setaffinity(None, &cores);
    }
}

/// CPU time of this thread.
pub(crate) fn of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// A thread of this process, and the time it had and would have liked to have.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) ran: f64,
    /// Ready to run while others did.
    waited: f64,
    /// Of the core, taken by the machine below.
    stolen: f64,
}

impl Account {
    pub(crate) fn of(thread: i32) -> Self {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let text = read(format!("/proc/self/task/{thread}/schedstat"));
        let mut nanos = text.split_whitespace().map(|number| number.parse::<f64>().unwrap_or_default() / 1e9);
        let (ran, waited) = (nanos.next().unwrap_or_default(), nanos.next().unwrap_or_default());
        let stat = read("/proc/stat".into());
        let core = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{SERVER} "))).unwrap_or_default();
        // In hundredths of a second.
        let stolen =
            core.split_whitespace().nth(7).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default() / 100.0;
        Self { ran, waited, stolen }
    }

    /// What it ran since then.
    pub(crate) fn ran_since(self, before: Self) -> f64 {
        self.ran - before.ran
    }

    /// The share of the time since then that was its own to use.
    pub(crate) fn share_since(self, before: Self, passed: f64) -> f64 {
        (1.0 - (self.waited - before.waited + self.stolen - before.stolen) / passed).clamp(0.01, 1.0)
    }
}
