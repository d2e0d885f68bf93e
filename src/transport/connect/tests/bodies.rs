//! Bodies over HTTP/2: both directions, trailers, back-pressure, early answers, and what dropping them does.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};

use super::{
    raw::{DATA, HEADERS, RST_STREAM, WINDOW_UPDATE},
    *,
};
use crate::error::{BoxError, Code, Delivery, Origin};

#[tokio::test(start_paused = true)]
async fn bodies_that_are_here_need_no_extra_frame() {
    let (bench, _listener, mut server) = scripted(None).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let head = server.expect(HEADERS).await;
    assert!(head.ends());
    server.respond(head.stream, true).await;
    call.await.unwrap().unwrap();
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(post("whole")));
    let head = server.expect(HEADERS).await;
    assert!(!head.ends());
    let data = server.expect(DATA).await;
    assert_eq!((data.ends(), &data.payload[..]), (true, &b"whole"[..]));
    server.respond(head.stream, true).await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn data_and_trailers_pass_both_ways() {
    let bench = Bench::new(Protocol::Http2);
    serve(bench.listen(), ::h2::server::Builder::new(), echo);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![
        Ok(Frame::data(Bytes::from_static(b"a"))),
        Ok(Frame::data(Bytes::from_static(b"b"))),
        Ok(Frame::trailers(trailers)),
    ];
    let request = Request::post("http://service/").body(streaming(tokio_stream::iter(frames))).unwrap();
    let response = within(bench.call(request)).await.unwrap();
    assert_eq!(bench.streams(), 1);
    let collected = Box::pin(response.into_body()).collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "ab");
    assert_eq!(bench.streams(), 0);
}

#[tokio::test]
async fn the_authority_travels_and_host_does_not() {
    let bench = Bench::new(Protocol::Http2);
    serve(bench.listen(), ::h2::server::Builder::new(), |request, mut respond| async move {
        assert_eq!(request.uri().to_string(), "http://reviews/x?y=1");
        assert!(!request.headers().contains_key("host") && !request.headers().contains_key("connection"));
        respond.send_response(ok(), true).unwrap();
    });
    let request = Request::get("/x?y=1").header("host", "reviews").header("connection", "close");
    let response = within(bench.call(request.body(Body::empty()).unwrap())).await.unwrap();
    assert_eq!((response.status(), response.version()), (http::StatusCode::OK, http::Version::HTTP_2));
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways() {
    const SIZE: usize = 64 << 20;
    let bench = Bench::new(Protocol::Http2);
    serve(bench.listen(), ::h2::server::Builder::new(), echo);
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let frames = (0..SIZE / chunk.len()).map(move |_| Ok(Frame::data(chunk.clone())));
    let request = Request::post("http://service/").body(streaming(tokio_stream::iter(frames))).unwrap();
    let response = within(bench.call(request)).await.unwrap();
    let mut body = Box::pin(response.into_body());
    let mut received = 0;
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.unwrap() {
        received += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(received, SIZE);
    drop(body);
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_stalls_the_producer() {
    let (bench, _listener, mut server) = scripted(None).await;
    let produced = Arc::new(AtomicUsize::new(0));
    let count = produced.clone();
    let frames = std::iter::repeat_with(move || {
        count.fetch_add(1, SeqCst);
        Ok(Frame::data(Bytes::from(vec![0; 16 * 1024])))
    });
    let request = Request::post("http://service/").body(streaming(tokio_stream::iter(frames))).unwrap();
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(request));
    let id = server.expect(HEADERS).await.stream;
    let mut received = 0;
    while received < 65_535 {
        received += server.expect(DATA).await.payload.len();
    }
    settle().await;
    let stalled = produced.load(SeqCst);
    assert!(stalled <= 6, "{stalled} chunks for a window of 4");
    server.write(WINDOW_UPDATE, 0, 0, &65_536u32.to_be_bytes()).await;
    server.write(WINDOW_UPDATE, 0, id, &65_536u32.to_be_bytes()).await;
    while received < 131_071 {
        received += server.expect(DATA).await.payload.len();
    }
    settle().await;
    assert!((stalled + 1..=stalled + 6).contains(&produced.load(SeqCst)));
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_stalls_the_peer() {
    let bench = Bench::new(Protocol::Http2);
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    serve(bench.listen(), ::h2::server::Builder::new(), move |_request, mut respond| {
        let count = count.clone();
        async move {
            let mut send = respond.send_response(ok(), false).unwrap();
            loop {
                send.reserve_capacity(16 * 1024);
                let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                count.fetch_add(room, SeqCst);
                let _ = send.send_data(Bytes::from(vec![0; room]), false);
            }
        }
    });
    let response = within(bench.call(get("/"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stalled = sent.load(SeqCst);
    assert!((1 << 20..=3 << 19).contains(&stalled), "{stalled}");
    let mut body = Box::pin(response.into_body());
    let mut read = 0;
    while read < 1 << 20 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(sent.load(SeqCst) > stalled);
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_ends_the_call_without_its_request_body() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    let (_producer, frames) = tokio::sync::mpsc::channel(1);
    let body = streaming(tokio_stream::wrappers::ReceiverStream::new(frames));
    let call = tokio::spawn(
        taken(bench.pool.acquire(Want::Any)).unwrap().send(Request::post("http://service/").body(body).unwrap()),
    );
    let id = server.expect(HEADERS).await.stream;
    server.respond(id, true).await;
    server.reset(id, 0).await;
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(text(response).await, "");
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_outlives_its_response_keeps_its_slot() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    let (producer, frames) = tokio::sync::mpsc::channel(1);
    let body = streaming(tokio_stream::wrappers::ReceiverStream::new(frames));
    let call = tokio::spawn(
        taken(bench.pool.acquire(Want::Any)).unwrap().send(Request::post("http://service/").body(body).unwrap()),
    );
    let id = server.expect(HEADERS).await.stream;
    server.respond(id, true).await;
    text(call.await.unwrap().unwrap()).await;
    settle().await;
    assert_eq!(bench.streams(), 1);
    producer.send(Ok(Frame::data(Bytes::from_static(b"late")))).await.unwrap();
    assert_eq!(server.expect(DATA).await.payload, b"late");
    drop(producer);
    assert!(server.expect(DATA).await.ends());
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_response_cancels_the_rest_of_the_request() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    let (producer, frames) = tokio::sync::mpsc::channel::<Result<_, Error>>(1);
    let body = streaming(tokio_stream::wrappers::ReceiverStream::new(frames));
    let call = tokio::spawn(
        taken(bench.pool.acquire(Want::Any)).unwrap().send(Request::post("http://service/").body(body).unwrap()),
    );
    let id = server.expect(HEADERS).await.stream;
    server.respond(id, false).await;
    drop(call.await.unwrap().unwrap());
    let reset = server.expect(RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (id, &[0, 0, 0, 8][..]));
    producer.closed().await;
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_request_body_resets_and_is_the_callers_fault() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    let cause: BoxError = "disk".into();
    let frames = vec![
        Ok(Frame::data(Bytes::from_static(b"part"))),
        Err(Error::from_boxed(cause, Code::ClientGone, "the body's producer failed")),
    ];
    let request = Request::post("http://service/").body(streaming(tokio_stream::iter(frames))).unwrap();
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(request));
    let reset = server.expect(RST_STREAM).await;
    assert_eq!(reset.payload, [0, 0, 0, 8]);
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.origin(), error.delivery()), (Code::ClientGone, Origin::Caller, Delivery::Maybe));
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_length_is_known_and_a_head_response_has_none() {
    let bench = Bench::new(Protocol::Http2);
    serve(bench.listen(), ::h2::server::Builder::new(), |request, mut respond| async move {
        let response = Response::builder().header("content-length", "5").body(()).unwrap();
        let head = request.method() == http::Method::HEAD;
        let mut send = respond.send_response(response, head).unwrap();
        if !head {
            send.send_data(Bytes::from_static(b"whole"), true).unwrap();
        }
    });
    let response = bench.call(get("/")).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(5));
    assert_eq!(text(response).await, "whole");
    let response = bench.call(Request::head("http://service/").body(Body::empty()).unwrap()).await.unwrap();
    assert!(response.body().is_end_stream());
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(bench.streams(), 0);
}

/// Two chunks with a pause before each, and trailers.
struct Slow(u32);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0 += 1;
        cx.waker().wake_by_ref();
        match self.0 {
            2 | 4 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"slow"))))),
            6 => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            7.. => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[tokio::test]
async fn slots_come_back_whenever_the_call_is_dropped() {
    let bench = Bench::new(Protocol::Http2);
    let mut builder = ::h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    serve(bench.listen(), builder, echo);
    bench.ready().await;
    for polls in 0..40 {
        let request = Request::post("http://service/").body(Body::erase(Slow(0))).unwrap();
        let slot = within(bench.slot(Want::Any)).await;
        let mut exchange = Box::pin(async {
            let body = slot.send(request).await.unwrap().into_body();
            let mut body = Box::pin(body);
            let mut data = BytesMut::new();
            while let Some(frame) = body.frame().await {
                if let Ok(chunk) = frame.unwrap().into_data() {
                    data.extend_from_slice(&chunk);
                }
            }
            data
        });
        let mut done = false;
        for _ in 0..polls {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(data) = exchange.as_mut().poll(&mut cx) {
                assert_eq!(data, "slowslow");
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(exchange);
        within(bench.wait(|| bench.streams() == 0)).await;
        assert!(done || polls < 39);
    }
}
