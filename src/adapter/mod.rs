//! Impls of foreign traits, nothing else: the only room that names tonic or axum types in public.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod tonic;
