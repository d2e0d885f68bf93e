//! What public types promise by their traits and sizes.

use std::{
    marker::PhantomData,
    panic::{RefUnwindSafe, UnwindSafe},
};

use sinew::*;

struct Probe<T>(PhantomData<T>);

macro_rules! promise {
    ($($trait:path),+ : $($type:ty),+ $(,)?) => {
        const _: () = {
            #[allow(dead_code)]
            fn promised<T: ?Sized $(+ $trait)+>() {}
            #[allow(dead_code)]
            fn all() { $(promised::<$type>();)+ }
        };
    };
}

promise!(Send, Sync, Clone, Unpin: Mesh, Client, Network, ServerLayer, ServerService<()>, Context, Call, Peer, Criticality);
promise!(Send, Sync, Unpin: Mesh, Builder, Listener, MeshStatus, BuildError, Error, StatusError, TaskError, Task<()>);
promise!(Send, Unpin: Body, ResponseFuture, RequestBuilder, Serve<()>);
promise!(Send, Sync, Clone, Unpin:
    timeout::TimeoutLayer, timeout::Timeout<()>, breaker::LimitLayer, breaker::LimitService<()>,
    mirror::MirrorLayer<()>, mirror::Mirror<(), ()>, mirror::MirrorPolicy,
    fault::FaultLayer, fault::Fault<()>, fault::FaultPolicy,
    shed::LoadShedLayer, shed::LoadShed<()>, shed::ShedPolicy, shed::AdaptivePolicy,
    shed::throttle::ThrottleLayer, shed::throttle::Throttle<()>, shed::throttle::ThrottlePolicy,
    limit::RateLimitLayer, limit::RateLimit<()>, limit::RateLimitPolicy,
    retry::RetryLayer, retry::Retry<()>, retry::RetryPolicy, retry::HedgePolicy, retry::RetrySpec,
    timeout::Deadline, timeout::TimeoutPolicy, breaker::BreakerPolicy, provide::Fixed<()>, provide::Live<()>,
    seat::NextService, model::Snapshot,
);
promise!(Send, Sync, Unpin: retry::Handle, seat::LayerSeat<()>, breaker::Limit, breaker::Permit);
promise!(std::error::Error, Send, Sync: Error, BuildError, StatusError, TaskError, discover::DiscoverError);
promise!(UnwindSafe, RefUnwindSafe: Code, Kind, Origin, Delivery, Outcome, Criticality, Call);
promise!(Copy: Code, Kind, Origin, Delivery, Outcome, Criticality, Call);
promise!(seat::Seat: seat::LayerSeat<seat::NextService>);
promise!(tower::Layer<()>: ServerLayer, fault::FaultLayer, retry::RetryLayer, timeout::TimeoutLayer, breaker::LimitLayer, limit::RateLimitLayer, shed::LoadShedLayer, shed::throttle::ThrottleLayer);
promise!(tower::Service<http::Request<Body>>: Client);
promise!(tower::Service<http::Request<http_body_util::Full<bytes::Bytes>>>: Client);

/// `Next`, boxed futures and bodies are `Send` and not `Sync`: nobody shares them.
#[test]
fn what_one_owner_uses_is_not_more_than_send() {
    fn is_send<T: Send>(_: Probe<T>) {}
    is_send(Probe::<seat::Next>(PhantomData));
    is_send(Probe::<seat::SeatFuture>(PhantomData));
}

#[test]
fn sizes_do_not_grow_unnoticed() {
    let word = size_of::<usize>();
    for (name, size, words) in [
        ("Mesh", size_of::<Mesh>(), 1),
        ("Client", size_of::<Client>(), 2),
        ("ResponseFuture", size_of::<ResponseFuture>(), 2),
        ("Context", size_of::<Context>(), 1),
        ("Error", size_of::<Error>(), 1),
        // The limit, and the epoch in which it was taken.
        ("Permit", size_of::<breaker::Permit>(), 2),
        ("LimitLayer", size_of::<breaker::LimitLayer>(), 1),
        ("LimitService<()>", size_of::<breaker::LimitService<()>>(), 1),
        ("RateLimit<()>", size_of::<limit::RateLimit<()>>(), 1),
        ("RetryLayer", size_of::<retry::RetryLayer>(), 1),
        ("Retry<()>", size_of::<retry::Retry<()>>(), 1),
        ("ServerLayer", size_of::<ServerLayer>(), 1),
        ("ServerService<()>", size_of::<ServerService<()>>(), 1),
        ("TimeoutLayer", size_of::<timeout::TimeoutLayer>(), 2),
        ("Timeout<()>", size_of::<timeout::Timeout<()>>(), 2),
        ("Deadline", size_of::<timeout::Deadline>(), 8),
        ("Body", size_of::<Body>(), 9),
        ("Call", size_of::<Call>(), 4),
        ("Next", size_of::<seat::Next>(), 2),
    ] {
        assert!(size <= words * word, "{name} is {size} bytes, at most {} words", words);
    }
}
