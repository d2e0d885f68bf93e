//! Whole meshes on real sockets and in memory.

mod calls;
