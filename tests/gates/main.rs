//! Budgets that can be counted, so that no noise excuses a miss: allocations, sizes, crates.

#[path = "../../benches/support/alloc.rs"]
mod alloc;
mod allocations;
mod crates;
#[allow(unused_imports, reason = "shared with the bench")]
#[path = "../../benches/support/echo/mod.rs"]
mod echo;
mod five;
mod instructions;
mod sizes;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;
