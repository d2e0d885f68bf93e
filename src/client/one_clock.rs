//! Layers that stand directly upon each other read the clock once. Here, since `rt` knows none of them.

use std::{convert::Infallible, future::ready, time::Duration};

use http::{Request, Response};
use tower::{Layer, Service, service_fn};

use crate::{
    body::Body,
    breaker::{CircuitBreakerLayer, CircuitPolicy, LimitLayer},
    limit::{BucketPolicy, RateLimitLayer, RateLimitPolicy},
    retry::{RetryLayer, RetryPolicy},
    rt::{hand, handed, moment, now},
    timeout::{Timeout, TimeoutLayer},
};

fn is_handed<S>(_service: &S) -> bool {
    let _handed = hand::<S>(Some(now()));
    handed().is_some()
}

#[test]
fn the_layers_are_known_by_their_names_and_whoever_they_stand_around_is_handed_nothing() {
    let leaf = || {
        service_fn(|_: Request<Body>| {
            assert_eq!(handed(), None);
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        })
    };
    assert!(!is_handed(&leaf()) && !is_handed(&Box::new(TimeoutLayer::new(Duration::ZERO).layer(leaf()))));
    let rate = BucketPolicy::new(1, 1, Duration::from_secs(1)).unwrap();
    let mut limit = RateLimitLayer::new(RateLimitPolicy::new(rate)).unwrap().layer(leaf());
    let mut circuit = CircuitBreakerLayer::new(CircuitPolicy::new()).unwrap().layer(leaf());
    let mut bulkhead = LimitLayer::new(1).layer(leaf());
    let mut retry = RetryLayer::new(RetryPolicy::idempotent()).unwrap().layer(leaf());
    let mut timeout = TimeoutLayer::new(Duration::from_secs(1)).layer(leaf());
    macro_rules! each {
        ($($layer:ident)+) => {$(
            assert!(is_handed(&$layer), "{}", stringify!($layer));
            // The second is one more than two of them let in.
            for _ in 0..2 {
                crate::rt::leave(now());
                drop($layer.call(Request::new(Body::empty())));
                assert_eq!(handed(), None, "{}", stringify!($layer));
            }
        )+};
    }
    each!(limit circuit bulkhead retry timeout);
}

#[test]
fn what_is_handed_is_taken_once_and_not_left_behind() {
    type Below = Timeout<()>;
    let before = now();
    {
        let _handed = hand::<Below>(Some(before));
        assert_eq!(moment(), before);
        assert_eq!(handed(), None);
    }
    drop(hand::<Below>(Some(before)));
    assert_eq!(handed(), None);
    let panicked = std::panic::catch_unwind(|| {
        let _handed = hand::<Below>(Some(before));
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert_eq!(handed(), None);
}
