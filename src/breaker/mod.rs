//! Exact limits on what may be in flight, and circuits that leave a failing service alone.
//!
//! A limit is taken in `call`, never in `poll_ready` (a permit reserved by a clone that is never called would be lost),
//! and returned when the response *body* ends, because a call that streams is still a call.

//!
//! A circuit ([`CircuitPolicy`]) is closed, open or half-open. While at least `failure_rate_threshold` of the calls that it
//! remembers fail, or `slow_call_rate_threshold` are slow, it opens: calls are refused with E031 and the service is left
//! alone for `wait_in_open`. Then one call is let through, after its success two, four and eight at once; when all of a
//! round of eight succeed it closes, and the first that fails opens it for twice as long. A probe that does not answer within
//! `slow_call_duration` has failed. What an operator decides by a [`CircuitHandle`] wins over what calls show.
//!
//! Sources: resilience4j (thresholds, windows by time and by count, slow calls, forced states). Different: half-open ramps
//! up, and the wait grows with each failure.

mod circuit;
mod circuit_layer;
mod gate;
mod handle;
mod layer;
mod policy;
mod recent;
mod state;

pub use crate::permit::{Limit, Permit, QueueOrder};

pub(crate) use self::handle::{CircuitSeries, Judge};
pub use self::{
    circuit_layer::{CircuitBody, CircuitBreaker, CircuitBreakerLayer, CircuitFuture},
    handle::CircuitHandle,
    layer::{LimitBody, LimitLayer, LimitService, ResponseFuture},
    policy::{BreakerPolicy, CircuitPolicy, CircuitWindow, EndpointLimits},
    state::{CircuitControl, CircuitState},
};
