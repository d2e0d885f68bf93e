//! A fixed list: known at once, never changes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{Discover, DiscoverError, Discovery};
use crate::model::{EndpointSpec, EndpointUpdate, SetKind};

/// Endpoints that never change.
#[derive(Clone, Debug, Default)]
pub struct FixedEndpoints {
    endpoints: Vec<EndpointSpec>,
}

impl FixedEndpoints {
    /// These endpoints; an empty list means that there are none, so calls fail at once.
    pub fn new(endpoints: impl IntoIterator<Item = EndpointSpec>) -> Self {
        Self { endpoints: endpoints.into_iter().collect() }
    }
}

impl Discover for FixedEndpoints {
    fn subscribe(&self) -> Discovery {
        let update = EndpointUpdate::Reset { endpoints: self.endpoints.clone(), kind: SetKind::Replicas };
        Discovery::new(Once(Some(Ok(update))))
    }
}

/// One item, then the end.
pub(super) struct Once(pub(super) Option<Result<EndpointUpdate, DiscoverError>>);

impl Stream for Once {
    type Item = Result<EndpointUpdate, DiscoverError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take())
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_fixed_list_is_known_at_once_and_ends() {
        let spec = EndpointSpec::new("127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap());
        let mut updates = FixedEndpoints::new([spec.clone()]).subscribe().updates;
        let first = updates.next().await.unwrap().unwrap();
        assert_eq!(first, EndpointUpdate::Reset { endpoints: vec![spec], kind: SetKind::Replicas });
        assert!(updates.next().await.is_none());
    }
}
