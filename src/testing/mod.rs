//! Meshes of several services in one process, for tests: no network, paused time, faults on purpose.
//!
//! A [`World`] is a set of services with instances, each with a mesh of its own, as if each were a process. They reach each
//! other through the whole of both stacks, over streams in memory. What a test does not want to wait for, it need not:
//! under `#[tokio::test(start_paused = true)]` time passes when nobody has anything to do. What goes wrong on a network is
//! asked for, instance by instance ([`Fault`], [`Instance::kill`]), by hand or by a [`Script`].
//!
//! ```
//! use axum::{Router, routing::get};
//! use sinew::{ResponseExt, testing::{Fault, World}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), sinew::BoxError> {
//! # tokio::time::pause();
//! let world = World::seeded(7)
//!     .service("ratings", 2, |_| Router::new().route("/", get(|| async { "5 stars" })))
//!     .service("reviews", 3, |member| {
//!         let ratings = member.client("ratings");
//!         Router::new().route("/", get(move || async move { ratings.get("/").send().await.unwrap().text().await.unwrap() }))
//!     })
//!     .start()
//!     .await?;
//! world.instance("reviews-0").fault(Fault::Silent);
//! assert_eq!(world.client("reviews").get("/").send().await?.text().await?, "5 stars");
//! # Ok(()) }
//! ```
//!
//! # The same run again
//! On one thread with paused time, a seed makes a run repeatable: dice of balancing, jitter and faults are drawn from it,
//! and [`World::journal`] of two runs is the same, byte for byte, as far as the services themselves do the same. On several
//! threads everything works, and nothing is repeatable. The seed is that of the thread: one world to a test.

mod app;
mod directory;
mod fault;
mod instance;
mod link;
mod script;
mod world;

pub use self::{
    fault::Fault,
    instance::{Instance, Member},
    script::{Action, Script},
    world::{Replicas, World, WorldBuilder},
};
