//! The endpoints of one service of a world, as a source of discovery.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tokio::sync::watch;

use crate::{
    discover::{Discover, DiscoverError, Discovery},
    model::{EndpointSpec, EndpointUpdate, SetKind},
};

pub(super) struct Directory(pub(super) watch::Receiver<Vec<EndpointSpec>>);

impl Discover for Directory {
    fn subscribe(&self) -> Discovery {
        Discovery::new(Updates { next: Box::pin(next(self.0.clone(), true)) })
    }
}

type Next = (Option<Vec<EndpointSpec>>, watch::Receiver<Vec<EndpointSpec>>);

async fn next(mut known: watch::Receiver<Vec<EndpointSpec>>, first: bool) -> Next {
    if !first && known.changed().await.is_err() {
        return (None, known);
    }
    let endpoints = known.borrow_and_update().clone();
    (Some(endpoints), known)
}

struct Updates {
    next: Pin<Box<dyn Future<Output = Next> + Send>>,
}

impl Stream for Updates {
    type Item = Result<EndpointUpdate, DiscoverError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (endpoints, known) = ready!(self.next.as_mut().poll(cx));
        let Some(endpoints) = endpoints else {
            self.next = Box::pin(std::future::pending());
            return Poll::Ready(None);
        };
        self.next = Box::pin(next(known, false));
        Poll::Ready(Some(Ok(EndpointUpdate::Reset { endpoints, kind: SetKind::Replicas })))
    }
}
