//! An application with what goes wrong in front of it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use tower_service::Service;

use super::{fault::Faults, instance::Life};
use crate::{
    body::Body,
    error::BoxError,
    rt::{self, Rng, Sleep},
};

/// Dice of one instance.
pub(super) type Dice = Arc<Mutex<Rng>>;

#[derive(Clone)]
pub(super) struct App<S> {
    pub(super) app: S,
    pub(super) life: Arc<Life>,
}

impl<S, B> Service<Request<Body>> for App<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut app, life) = (self.app.clone(), Arc::clone(&self.life));
        Box::pin(async move {
            let faults = *life.faults.borrow();
            let hits = |percent: u32| {
                percent >= 100 || life.dice.lock().unwrap_or_else(PoisonError::into_inner).below(100) < percent
            };
            let asked = format!("{} {}", request.method(), request.uri().path());
            life.served.fetch_add(1, Relaxed);
            if let Some((delay, percent)) = faults.delay
                && hits(percent)
            {
                rt::sleep(delay).await;
            }
            if faults.hang.is_some_and(hits) {
                life.note(&format!("{asked} hangs"));
                std::future::pending::<()>().await;
            }
            if let Some((status, percent)) = faults.abort
                && hits(percent)
            {
                life.note(&format!("{asked} {} on purpose", status.as_u16()));
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                return Ok(response);
            }
            poll_fn(|cx| app.poll_ready(cx)).await.map_err(Into::into)?;
            let response = app.call(request).await.map_err(Into::into)?;
            life.note(&format!("{asked} {}", response.status().as_u16()));
            let reset = faults.reset_body.filter(|(_, percent)| hits(*percent)).map(|(after, _)| after);
            Ok(response.map(|body| spoil(body, faults, reset)))
        })
    }
}

fn spoil<B>(body: B, faults: Faults, reset: Option<usize>) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if faults.drip.is_none() && reset.is_none() {
        return Body::new(body);
    }
    Body::new(Spoilt { inner: Body::new(body), left: reset, rate: faults.drip, held: Bytes::new(), wait: None })
}

/// A body that breaks off, or comes drop by drop.
struct Spoilt {
    inner: Body,
    left: Option<usize>,
    rate: Option<usize>,
    held: Bytes,
    wait: Option<Pin<Box<Sleep>>>,
}

/// How often a drop falls.
const DROP: Duration = Duration::from_millis(100);

impl HttpBody for Spoilt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == Some(0) {
            return Poll::Ready(Some(Err("the body breaks off on purpose".into())));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        if self.held.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            }
        }
        let mut most = self.left.unwrap_or(usize::MAX);
        if let Some(rate) = self.rate {
            most = most.min((rate / 10).max(1));
            self.wait = Some(Box::pin(rt::sleep_until(rt::now() + DROP)));
        }
        let most = most.min(self.held.len());
        let data = self.held.split_to(most);
        if let Some(left) = &mut self.left {
            *left -= data.len();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
