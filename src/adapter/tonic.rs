//! Access from tonic 0.14 requests, and its body under [`ServerLayer`](crate::ServerLayer).
//!
//! tonic's `Extensions` hold `http::Extensions`, so what the listener inserted is there; these are the typed ways to it.
//! A [`Call`](crate::Call) goes the other way: `request.extensions_mut().insert(Call::new()..)`.

use crate::{body::Body, caller::Caller, context::Context, error::Error, peer::Peer, server::RequestBody};

impl Context {
    /// The context of a tonic request that came through sinew.
    pub fn of_tonic<T>(request: &tonic::Request<T>) -> Option<Context> {
        request.extensions().get::<crate::context::Inbound>().map(|inbound| inbound.context.clone())
    }
}

impl Peer {
    /// The peer of a tonic request that came through sinew. tonic's own `remote_addr()` is empty there.
    pub fn of_tonic<T>(request: &tonic::Request<T>) -> Option<Peer> {
        request.extensions().get::<crate::context::Inbound>().map(|inbound| inbound.peer().clone())
    }
}

impl Caller {
    /// What a tonic request that came through sinew proved about its caller.
    pub fn of_tonic<T>(request: &tonic::Request<T>) -> Option<Caller> {
        request.extensions().get::<crate::context::Inbound>().map(|inbound| inbound.caller.clone())
    }
}

impl RequestBody for tonic::body::Body {
    fn from_mesh(body: Body) -> Self {
        tonic::body::Body::new(body)
    }
}

impl From<tonic::body::Body> for Body {
    fn from(body: tonic::body::Body) -> Self {
        Body::new(body)
    }
}

impl From<Error> for tonic::Status {
    /// With the status code of the error's code, and the error as its source.
    fn from(error: Error) -> Self {
        let code = tonic::Code::from_i32(i32::from(error.code().grpc_status()));
        let mut status = tonic::Status::new(code, error.to_string());
        status.set_source(std::sync::Arc::new(error));
        status
    }
}
