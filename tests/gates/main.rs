//! Budgets that can be counted, so that no noise excuses a miss: allocations, sizes, crates.

#[path = "../../benches/support/alloc.rs"]
mod alloc;
mod allocations;
mod crates;
#[path = "../../benches/support/echo/mod.rs"]
mod echo;
mod sizes;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;
