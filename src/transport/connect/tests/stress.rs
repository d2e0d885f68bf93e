//! Many threads, calls dropped at random, connections that come and go: every slot and permit comes back.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::*;
use crate::rt::Rng;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_under_cancellation_and_goaway() {
    let bench = Arc::new(Bench::new(Protocol::Http2));
    let mut listener = bench.listen();
    tokio::spawn(async move {
        let mut rng = Rng::seeded(5);
        while let Some(io) = listener.accept().await {
            let lifetime = 20 + rng.below(200);
            tokio::spawn(async move {
                let mut builder = ::h2::server::Builder::new();
                builder.max_concurrent_streams(8);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
                let mut served = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    served += 1;
                    if served == lifetime {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(lenient_echo(request, respond));
                }
            });
        }
    });
    let done = Arc::new(AtomicU32::new(0));
    let workers: Vec<_> = (0..12u64)
        .map(|seed| {
            let (bench, done) = (bench.clone(), done.clone());
            tokio::spawn(async move {
                let mut rng = Rng::seeded(seed);
                for _ in 0..400 {
                    let request = match rng.below(3) {
                        0 => get("/"),
                        1 => post(vec![1u8; 1 + rng.below(4000) as usize]),
                        _ => {
                            let frames = (0..rng.below(5)).map(|_| Ok(Frame::data(Bytes::from(vec![2; 900]))));
                            let body = streaming(tokio_stream::iter(frames.collect::<Vec<_>>()));
                            Request::post("http://service/").body(body).unwrap()
                        }
                    };
                    let call = async {
                        match bench.call(request).await {
                            Ok(response) => {
                                let _ = Box::pin(response.into_body()).collect().await.unwrap();
                            }
                            Err(error) => assert!(error.never_processed(), "{error:?}"),
                        }
                        done.fetch_add(1, SeqCst);
                    };
                    if rng.below(4) == 0 {
                        let patience = Duration::from_micros(u64::from(rng.below(300)));
                        let _ = tokio::time::timeout(patience, call).await;
                    } else {
                        within(call).await;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert!(done.load(SeqCst) >= 12 * 300);
    within(bench.wait(|| bench.streams() == 0)).await;
    bench.pool.close();
    within(bench.wait(|| bench.limit.open() == 0)).await;
}

/// An echo whose peer may go at any moment.
async fn lenient_echo(request: Request<::h2::RecvStream>, mut respond: ::h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let Ok(mut send) = respond.send_response(ok(), false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http1_connections_and_slots_come_back() {
    let bench = Arc::new(Bench::with(Protocol::Http1, SetKind::Replicas, 8));
    let mut listener = bench.listen();
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            let io = hyper_util::rt::TokioIo::new(io);
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let workers: Vec<_> = (0..16u64)
        .map(|seed| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let mut rng = Rng::seeded(seed);
                for _ in 0..200 {
                    let size = 1 + rng.below(4000) as usize;
                    let call = async {
                        let response = bench.call(post(vec![1u8; size])).await.unwrap();
                        let _ = Box::pin(response.into_body()).collect().await.unwrap();
                    };
                    if rng.below(6) == 0 {
                        let patience = Duration::from_micros(u64::from(rng.below(300)));
                        let _ = tokio::time::timeout(patience, call).await;
                    } else {
                        within(call).await;
                    }
                    assert!(bench.limit.open() <= 9, "{}", bench.limit.open());
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    within(bench.wait(|| bench.streams() == 0)).await;
    bench.pool.close();
    within(bench.wait(|| bench.limit.open() == 0)).await;
}
