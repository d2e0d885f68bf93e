//! Without the feature `tonic` no rate limit service can be asked.

use std::sync::Arc;

use crate::{
    client::Client,
    limit::{Asking, CountLimits, Query},
};

struct Unspoken;

impl CountLimits for Unspoken {
    fn ask(&self, _query: Query) -> Asking {
        Box::pin(std::future::ready(Err("asking a rate limit service needs the feature `tonic`".into())))
    }
}

/// What asks over the calls of a client.
pub(crate) fn counting(_client: Client) -> Arc<dyn CountLimits> {
    Arc::new(Unspoken)
}
