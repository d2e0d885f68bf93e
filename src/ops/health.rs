//! `grpc.health.v1` by tonic-health.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Waker},
};

use http::{Request, Response};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower_service::Service;

use super::readiness::Readiness;
use crate::{body::Body, rt::TaskSet};

/// Answers for the whole process (`""`) and for the service's name.
pub(super) struct Health {
    server: HealthServer<HealthService>,
}

impl Health {
    /// Follows `readiness` until the tasks end.
    pub(super) fn new(service: &str, readiness: &Readiness, tasks: &TaskSet) -> Self {
        let reporter = HealthReporter::new();
        let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let (service, mut changes, ready) = (service.to_owned(), readiness.changes(), readiness.is_ready());
        // The reporter starts as serving; nobody else holds its lock yet, so one poll corrects it.
        let first = pin!(publish(&reporter, &service, ready)).poll(&mut Context::from_waker(Waker::noop()));
        tasks.spawn(async move {
            if first.is_pending() {
                publish(&reporter, &service, ready).await;
            }
            loop {
                let ready = changes.next().await;
                publish(&reporter, &service, ready).await;
            }
        });
        Self { server }
    }

    pub(super) fn call(
        &self,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
        let answer = self.server.clone().call(request);
        Box::pin(async move { answer.await.map(|response| response.map(Body::new)) })
    }
}

async fn publish(reporter: &HealthReporter, service: &str, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(service, status).await;
}
