//! Impls of foreign traits, nothing else: the only room that names tonic or axum types in public.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod rls;
#[cfg(not(feature = "tonic"))]
#[path = "rls_off.rs"]
mod rls;
#[cfg(feature = "tonic")]
mod tonic;

#[cfg(feature = "tonic")]
pub use self::rls::RlsClient;
pub(crate) use self::rls::counting;
