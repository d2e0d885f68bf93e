//! `sinew.yaml`: what is refused and how it reads, what is taken and what it means.

mod broken;
mod cli;
mod good;
mod lints;
mod policies;
