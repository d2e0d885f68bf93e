//! A global allocator that counts.
//!
//! Each thread counts in a slot of its own, so that counting costs no shared cache line, and a measurement on one thread
//! does not see its neighbours. While counting is off an allocation pays one relaxed load.

#![allow(unsafe_code, dead_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::Sub,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// Counts what the system allocator gives and takes back.
pub(crate) struct Counting;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that gave memory. A reallocation is one.
    pub(crate) allocations: u64,
    /// Bytes given. A reallocation that grows gives the difference.
    pub(crate) bytes: u64,
    /// Bytes taken back. A reallocation that shrinks takes the difference.
    pub(crate) freed: u64,
}

impl Counts {
    /// Bytes still held.
    pub(crate) fn live(self) -> i64 {
        self.bytes.cast_signed() - self.freed.cast_signed()
    }
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, earlier: Counts) -> Counts {
        Counts {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
            freed: self.freed - earlier.freed,
        }
    }
}

/// Starts or stops counting, in the whole process.
pub(crate) fn count(on: bool) {
    COUNTING.store(on, Relaxed);
}

/// Everything counted so far, on all threads.
pub(crate) fn process() -> Counts {
    let mut sum = Counts::default();
    for slot in &SLOTS {
        let counts = slot.counts();
        sum.allocations += counts.allocations;
        sum.bytes += counts.bytes;
        sum.freed += counts.freed;
    }
    sum
}

/// Everything counted so far on this thread, as long as fewer threads than slots were ever started.
pub(crate) fn thread() -> Counts {
    slot().counts()
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static SLOTS: [Slot; 256] = [const { Slot::new() }; 256];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor: reading it never allocates.
    static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[repr(align(128))]
struct Slot {
    allocations: AtomicU64,
    bytes: AtomicU64,
    freed: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self { allocations: AtomicU64::new(0), bytes: AtomicU64::new(0), freed: AtomicU64::new(0) }
    }

    fn counts(&self) -> Counts {
        Counts {
            allocations: self.allocations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            freed: self.freed.load(Relaxed),
        }
    }
}

fn slot() -> &'static Slot {
    let own = OWN.get();
    if own != usize::MAX {
        return &SLOTS[own];
    }
    let new = NEXT.fetch_add(1, Relaxed) % SLOTS.len();
    OWN.set(new);
    &SLOTS[new]
}

fn given(bytes: usize) {
    if COUNTING.load(Relaxed) {
        let slot = slot();
        slot.allocations.fetch_add(1, Relaxed);
        slot.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

fn taken(bytes: usize) {
    if COUNTING.load(Relaxed) {
        slot().freed.fetch_add(bytes as u64, Relaxed);
    }
}

// SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        given(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        given(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given(size.saturating_sub(layout.size()));
        taken(layout.size().saturating_sub(size));
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        taken(layout.size());
        unsafe { System.dealloc(ptr, layout) }
    }
}
