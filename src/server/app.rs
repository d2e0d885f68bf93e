//! The application at the bottom of the stack: given the context, run inside it, and its panics caught.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::inbound::Served;
use crate::{
    body::{Body, Foreign, StackBody},
    context::{Context, Scoped},
    error::{BoxError, Code, Error},
    seat::Carrier,
};

/// Calls a clone of the application for each request, once that clone is ready.
#[derive(Clone, Debug)]
pub(crate) struct App<S> {
    service: S,
}

impl<S> App<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S, B> Service<Served> for App<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<StackBody<AppBody<B>>>;
    type Error = Error;
    type Future = Scoped<AppFuture<S, S::Future>>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        let (request, cx) = served.open();
        let context = cx.context;
        let state = State::Starting { service: self.service.clone(), request: Some(request) };
        Scoped::new(AppFuture { state, context: context.clone() }, Some(context))
    }
}

pin_project! {
    pub(crate) struct AppFuture<S, F> {
        #[pin]
        state: State<S, F>,
        context: Context,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F> {
        Starting { service: S, request: Option<Request<Body>> },
        Running { #[pin] future: F },
    }
}

impl<S, B> Future for AppFuture<S, S::Future>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<StackBody<AppBody<B>>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = catch(|| {
            loop {
                match this.state.as_mut().project() {
                    StateProjection::Starting { service, request } => {
                        if let Err(error) = ready!(service.poll_ready(task)) {
                            return Poll::Ready(Err(failed(error)));
                        }
                        let Some(request) = request.take() else {
                            return Poll::Ready(Err(Error::new(
                                Code::Internal,
                                "the application was polled after its end",
                            )));
                        };
                        let future = service.call(request);
                        this.state.set(State::Running { future });
                    }
                    StateProjection::Running { future } => return future.poll(task).map_err(failed),
                }
            }
        });
        let response = match polled {
            Ok(polled) => ready!(polled)?,
            Err(panic) => return Poll::Ready(Err(panic)),
        };
        let context = this.context.clone();
        Poll::Ready(Ok(response.map(|body| {
            // A body that is already over needs neither the context nor the catching of its panics.
            StackBody::inline(AppBody { body: Scoped::new(Foreign::new(body), Some(context)), failed: false })
        })))
    }
}

fn failed(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the application failed")
}

fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic_text(&*panic);
        tracing::error!(code = %Code::Internal, "the application panicked: {text}");
        Error::new(Code::Internal, format!("the application panicked: {text}"))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

pin_project! {
    /// The application's response body, polled inside its context.
    pub(crate) struct AppBody<B> {
        #[pin]
        body: Scoped<Foreign<B>>,
        failed: bool,
    }
}

impl<B> HttpBody for AppBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        let mut body = this.body;
        match catch(|| body.as_mut().poll_frame(task)) {
            Ok(mut polled) => {
                // What calls spent after the headers had left is told by the trailers.
                if let Poll::Ready(Some(Ok(frame))) = &mut polled
                    && let Some(trailers) = frame.trailers_mut()
                    && let Some(tree) = body.context().and_then(Context::tree)
                {
                    tree.end(trailers);
                }
                polled
            }
            Err(panic) => {
                *this.failed = true;
                Poll::Ready(Some(Err(panic)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
