//! Rate limits: how much may be asked for in a time.
//!
//! A [`RateLimitPolicy`] gives an [`Allowance`] (a token bucket for a rate with a burst, a quota for a sliding window, or
//! both) to everything together, or to each value of a key: the caller's identity, a header, the path, what a function
//! says. Descriptors give certain values an allowance of their own, as Envoy's local rate limit does. What is counted is
//! a logical call on the client side, whatever its retries, and a request that was admitted and may be made on the server
//! side.
//!
//! The count belongs to the place where the limit stands: a reload changes the allowance and never the count. Keys come
//! from callers and are kept in bounded memory; a key that owes something is never forgotten.
//!
//! A limit may also be counted elsewhere, for many processes together: [`GlobalPolicy`].
//!
//! # What callers see
//! 429 or RESOURCE_EXHAUSTED with SINEW-E040 and `retry-after`, rounded up and at least 1 s; with `headers`, also where
//! they stand.
//!
//! # Sources
//! Envoy's `local_ratelimit` filter (fields, order of descriptors, `always_consume_default_token_bucket`); ITU-T I.371 (the
//! bucket); draft-polli-ratelimit-headers-03 and draft-ietf-httpapi-ratelimit-headers-09. Different from Envoy: buckets
//! fill evenly instead of once per interval, limits act by default instead of for 0 % of requests, gRPC callers get
//! RESOURCE_EXHAUSTED.

mod bucket;
mod global;
mod keyed;
mod layer;
mod limiter;
mod policy;
mod series;
mod standing;
mod subject;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use self::{global::Fleet, series::Series};
pub use self::{
    global::{Answer, Asking, CountLimits, GlobalDescriptor, GlobalEntry, GlobalPolicy, GlobalValue, Query},
    layer::{RateLimit, RateLimitLayer, ResponseFuture},
    limiter::RateLimiter,
    policy::{
        Allowance, BucketPolicy, Descriptor, DescriptorEntry, KeyFn, KeySource, PolicyError, QuotaPolicy,
        RateLimitPolicy, ShareWith,
    },
    standing::RateLimitHeaders,
    subject::{Limited, Subject},
};
