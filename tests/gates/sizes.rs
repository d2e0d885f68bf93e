//! Sizes that every caller pays for.

use bytes::Bytes;
use http_body_util::Empty;
use sinew::{Mesh, model::Protocol};
use tower::Service;

use super::echo;

/// Callers hold calls in futures of their own, often many at a time: ours is a pointer and its table.
#[tokio::test]
async fn the_future_of_a_call_is_two_words() {
    let mut client = echo::raw_client(Protocol::Http2).await.expect("both ends on loopback");
    let call = client.call(http::Request::new(Empty::<Bytes>::new()));
    assert_eq!(size_of_val(&call), 2 * size_of::<usize>());
}

#[test]
fn handles_are_at_most_two_words() {
    assert_eq!(size_of::<sinew::Client>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Mesh>(), size_of::<usize>());
}
