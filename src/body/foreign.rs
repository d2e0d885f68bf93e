//! Bodies of other crates.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::{BoxError, Code, Error};

pin_project! {
    /// A foreign body whose errors become ours.
    pub(crate) struct Foreign<B> {
        #[pin]
        body: B,
    }
}

impl<B> Foreign<B> {
    #[inline(always)]
    pub(crate) fn new(body: B) -> Self {
        Self { body }
    }
}

impl<B> HttpBody for Foreign<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project()
            .body
            .poll_frame(cx)
            .map_err(|error| Error::from_boxed(error.into(), Code::ClientGone, "the body's producer failed"))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
