use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, StreamBody};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};

use super::{replay::REPLAY_LIMIT, *};
use crate::error::{Code, Error};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Guard for Log {
    fn data(&mut self, bytes: usize) {
        self.0.lock().unwrap().push(format!("data {bytes}"));
    }
    fn trailers(&mut self, _: &HeaderMap) {
        self.0.lock().unwrap().push("trailers".into());
    }
    fn end(&mut self, end: End<'_>) {
        let end = match end {
            End::Complete => "complete",
            End::Failed(_) => "failed",
            End::Dropped => "dropped",
        };
        self.0.lock().unwrap().push(end.into());
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn frames(frames: Vec<Result<Frame<Bytes>, Error>>) -> Body {
    Body::erase(StreamBody::new(tokio_stream::iter(frames)))
}

#[test]
fn own_bodies_are_not_wrapped_again() {
    let body = Body::new(Body::new(Body::from("abc")));
    assert_eq!(format!("{body:?}"), "Body(\"full\")");
    assert_eq!(format!("{:?}", Body::new(Full::new(Bytes::new()))), "Body(\"empty\")");
}

#[tokio::test]
async fn a_full_body_is_read_once() {
    let body = Body::from("abc");
    assert_eq!(body.size_hint().exact(), Some(3));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
}

fn chunks(sizes: &[usize]) -> Body {
    let mut next = 0u8;
    let mut chunk = |size: usize| {
        next = next.wrapping_add(1);
        Ok(Frame::data(Bytes::from(vec![next; size])))
    };
    frames(sizes.iter().map(|size| chunk(*size)).collect())
}

proptest::proptest! {
    #[test]
    fn every_attempt_yields_the_same_bytes(
        sizes in proptest::collection::vec(0usize..9_000, 0..7),
        reads in proptest::collection::vec(0usize..9, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let whole = chunks(&sizes).collect().await.unwrap().to_bytes();
            let mut body = Body::request(chunks(&sizes));
            for read in reads {
                for _ in 0..read {
                    let _ = body.frame().await;
                }
                assert!(body.rewind());
            }
            assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
        });
    }
}

#[tokio::test]
async fn a_body_over_the_limit_cannot_be_rewound_and_still_ends_whole() {
    let mut body = Body::request(chunks(&[REPLAY_LIMIT, 1, 5]));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), REPLAY_LIMIT);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
    assert!(!body.rewind());
}

#[tokio::test]
async fn a_committed_body_repeats_what_it_had_promised_and_no_more() {
    let mut body = Body::request(chunks(&[3, 4]));
    let _ = body.frame().await;
    assert!(body.rewind());
    body.commit();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 7);
}

#[test]
fn a_guard_on_an_empty_body_ends_at_construction() {
    let log = Log::default();
    let _body = GuardedBody::new(Body::empty(), log.clone());
    assert_eq!(log.lines(), ["complete"]);
}

#[tokio::test]
async fn a_guard_ends_with_the_last_frame_even_if_none_is_never_polled() {
    let log = Log::default();
    let mut body = Box::pin(GuardedBody::new(Body::from("abc"), log.clone()));
    let _ = body.frame().await;
    assert_eq!(log.lines(), ["data 3", "complete"]);
}

#[tokio::test]
async fn a_guard_ends_at_trailers() {
    let log = Log::default();
    let body = frames(vec![Ok(Frame::data("a".into())), Ok(Frame::trailers(HeaderMap::new()))]);
    let mut body = Box::pin(GuardedBody::new(body, log.clone()));
    let _ = body.frame().await;
    let _ = body.frame().await;
    assert_eq!(log.lines(), ["data 1", "trailers", "complete"]);
}

#[tokio::test]
async fn a_guard_sees_errors_and_drops_once() {
    let log = Log::default();
    let body = frames(vec![Err(Error::new(Code::PeerReset, "reset"))]);
    let mut guarded = Box::pin(GuardedBody::new(body, log.clone()));
    assert!(guarded.frame().await.unwrap().is_err());
    drop(guarded);
    assert_eq!(log.lines(), ["failed"]);

    let log = Log::default();
    drop(GuardedBody::new(Body::from("abc"), log.clone()));
    assert_eq!(log.lines(), ["dropped"]);
}

#[test]
fn a_whole_body_of_hypers_users_is_taken_as_what_it_is() {
    for body in [Body::new(Full::from("abc")), Body::request(Full::<Bytes>::from("abc"))] {
        assert_eq!(body.as_full().unwrap(), "abc");
    }
    for body in [Body::new(Full::<Bytes>::default()), Body::request(Full::<Bytes>::default())] {
        assert!(body.is_end_stream() && body.as_full().unwrap().is_empty());
    }
}
