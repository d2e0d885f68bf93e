//! An echo over loopback, client and server in this process: once with hyper or tonic bare, once with both stacks.
//!
//! Both variants run the same application and the same client code; only what lies between them differs. TCP_NODELAY is
//! set on every bare socket, else the comparison would be one of Nagle's algorithm.

#![allow(dead_code)]

mod bare;
mod grpc;
mod mesh;
mod tls;

use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};

pub(crate) use self::{
    bare::{bare_grpc, bare_http1, bare_http2, http2_through},
    mesh::{http_of, http_with, mesh_grpc, mesh_http, raw_client},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One caller. Clones and connections are made before anything is measured.
pub(crate) trait Echo: Send + 'static {
    /// Sends `payload` and reads the whole answer; says how long it was.
    fn echo(&mut self, payload: &Bytes) -> impl Future<Output = Result<usize, BoxError>> + Send;
}

/// The request of the plain HTTP cases.
fn request(authority: &'static str, payload: &Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(payload.clone()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = if authority.is_empty() {
        http::Uri::from_static("/echo")
    } else {
        http::Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query("/echo")
            .build()
            .expect("a constant authority")
    };
    request
}

/// The application of the plain HTTP cases.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, B::Error>
where
    B: http_body::Body<Data = Bytes>,
{
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

/// Reads an answer to its end.
async fn read<B>(response: Response<B>) -> Result<usize, BoxError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()).into());
    }
    Ok(response.into_body().collect().await.map_err(Into::into)?.to_bytes().len())
}
