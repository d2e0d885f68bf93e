//! How a pool comes by its connections.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{ASK_AGAIN, BACKOFF_FIRST, BACKOFF_MAX, DETECT, Pool, PoolEvent, Readiness, State};
use crate::{
    error::Error,
    model::{Protocol, SetKind},
    rt::{self, Rng},
    transport::{
        Alpn, Dialed, Offer,
        connect::{dial, h1::H1Connection, h2::H2Connection, limit::ConnectionPermit},
        error,
    },
};

impl Pool {
    /// The background work of a pool without a connection: one attempt per back-off until one succeeds.
    pub(super) async fn connect_until_ready(self: Arc<Self>, wait: Duration) {
        if !wait.is_zero() {
            rt::sleep(Rng::local().jitter(wait, 20)).await;
        }
        let mut backoff = BACKOFF_FIRST;
        loop {
            if self.lock().closed {
                return;
            }
            let epoch = self.epoch();
            match self.establish().await {
                Ok(()) => {
                    self.lock().last_error = None;
                    if epoch != self.epoch() {
                        self.renew_all();
                    }
                    self.set(Readiness::Ready);
                    self.tell(PoolEvent::Freed);
                    if self.target.kind == SetKind::Vip {
                        // One address, many backends: two connections reach two of them.
                        self.want_more();
                    }
                    return;
                }
                Err(error) => {
                    self.lock().note(&error);
                    tracing::debug!(endpoint = %self.target.label, "connecting failed, again in about {backoff:?}: {error}");
                    self.set(Readiness::TransientFailure);
                }
            }
            rt::sleep(Rng::local().jitter(backoff, 20)).await;
            backoff = (backoff * 8 / 5).min(BACKOFF_MAX);
        }
    }

    pub(super) fn want_more(self: &Arc<Self>) {
        let mut state = self.lock();
        let room = state.h2.len() < self.max_connections() || !state.renewing.is_empty();
        if room && !state.growing && !state.closed && state.speaks != Some(Alpn::Http1) {
            state.growing = true;
            drop(state);
            self.tasks.spawn(Arc::clone(self).grow());
        }
    }

    /// One more HTTP/2 connection. A failure is left to the pool's own reconnecting, at most once per back-off.
    /// Those that the new connection is to replace are drained when it is there; until one is, it is tried again.
    pub(super) async fn grow(self: Arc<Self>) {
        loop {
            let epoch = self.epoch();
            let result = self.establish().await;
            if let Err(error) = &result {
                tracing::debug!(endpoint = %self.target.label, "no further connection: {error}");
                rt::sleep(BACKOFF_MAX).await;
            }
            let mut state = self.lock();
            let mut replaced = Vec::new();
            match (result.is_ok(), epoch == self.epoch()) {
                (true, true) => replaced = std::mem::take(&mut state.renewing),
                // Made as it would not be made any more.
                (true, false) => state.renewing = state.h2.clone(),
                (false, _) => {}
            }
            let renews = !state.closed && !state.renewing.is_empty() && !state.h2.is_empty();
            let again = renews || state.stuck();
            let ready = result.is_ok() && state.usable();
            state.growing = again;
            drop(state);
            for connection in replaced {
                connection.drain();
            }
            if ready {
                // Also where every other connection had fallen silent.
                self.set(Readiness::Ready);
                self.tell(PoolEvent::Freed);
            }
            if !again {
                return;
            }
        }
    }

    /// Connects once and adds the connection.
    async fn establish(self: &Arc<Self>) -> Result<(), Error> {
        let timeout = self.policy.connect_timeout;
        rt::timeout(timeout, self.establish_untimed())
            .await
            .unwrap_or_else(|| Err(error::connect_timeout(&self.target.label, timeout)))
    }

    async fn establish_untimed(self: &Arc<Self>) -> Result<(), Error> {
        let speaks = self.lock().speaks;
        let offer = match speaks {
            Some(Alpn::Http1) => Offer::Http1,
            _ if self.target.protocol == Protocol::Http2 => Offer::Http2,
            _ => Offer::Both,
        };
        let permit = self.room()?;
        let dialed = self.dial(offer).await?;
        match dialed.alpn.or(speaks) {
            Some(Alpn::Http1) => {
                self.add_h1(dialed, permit).await?;
                self.lock().speaks = Some(Alpn::Http1);
                Ok(())
            }
            Some(Alpn::Http2) => self.add_h2(dialed, permit).await,
            None => match rt::timeout(DETECT.min(self.policy.connect_timeout), self.add_h2(dialed, permit)).await {
                Some(Ok(())) => {
                    self.lock().speaks = Some(Alpn::Http2);
                    Ok(())
                }
                // Anything but SETTINGS, or silence. No request was sent, so the other protocol can be tried.
                _ => {
                    let permit = self.room()?;
                    let dialed = self.dial(Offer::Http1).await?;
                    self.add_h1(dialed, permit).await?;
                    self.lock().speaks = Some(Alpn::Http1);
                    tracing::debug!(endpoint = %self.target.label, "speaks HTTP/1.1");
                    Ok(())
                }
            },
        }
    }

    /// Silence says little: the endpoint may have been busy, and what listens there now may be another.
    pub(super) fn ask_again(self: &Arc<Self>, state: &mut State) {
        let now = rt::now();
        let asked = state.asked.is_some_and(|at| now.saturating_duration_since(at) < ASK_AGAIN);
        if self.target.protocol == Protocol::Auto && !asked && !state.closed {
            state.asked = Some(now);
            self.tasks.spawn(Arc::clone(self).take_to_http2());
        }
    }

    /// From HTTP/1.1 to HTTP/2, if the endpoint speaks it after all.
    async fn take_to_http2(self: Arc<Self>) {
        let asked = async {
            let permit = self.room()?;
            let dialed = self.dial(Offer::Both).await?;
            match dialed.alpn {
                Some(Alpn::Http1) => Ok(()),
                _ => self.add_h2(dialed, permit).await,
            }
        };
        if !matches!(rt::timeout(self.policy.connect_timeout, asked).await, Some(Ok(()))) {
            return;
        }
        let mut state = self.lock();
        if state.h2.is_empty() {
            return;
        }
        state.speaks = Some(Alpn::Http2);
        let idle = std::mem::take(&mut state.h1_idle);
        drop(state);
        drop(idle);
        tracing::debug!(endpoint = %self.target.label, "speaks HTTP/2 after all");
        self.set(Readiness::Ready);
        self.tell(PoolEvent::Freed);
    }

    async fn dial(&self, offer: Offer) -> Result<Dialed, Error> {
        dial::race(&*self.dial, &self.target.addresses, offer).await
    }

    /// Room for a connection of the pool's own accord.
    fn room(self: &Arc<Self>) -> Result<ConnectionPermit, Error> {
        if let Some(permit) = self.permit() {
            return Ok(permit);
        }
        if !self.lock().renewing.is_empty() {
            // Takes the place of another, which is closed as soon as this one is there.
            return Ok(self.limit.beyond(&self.open, Arc::downgrade(self)));
        }
        Err(Error::new(
            crate::error::Code::Overflow,
            format!("no connection to {}: the service's `max_connections` is reached", self.target.label),
        ))
    }

    async fn add_h2(self: &Arc<Self>, dialed: Dialed, permit: ConnectionPermit) -> Result<(), Error> {
        let age = dialed
            .renew_at
            .map_or_else(|| self.max_age(), |at| self.max_age().min(at.saturating_duration_since(rt::now())));
        let fate = dialed.fate;
        let (connection, driver) = H2Connection::open(
            dialed.io,
            permit,
            Arc::downgrade(self),
            Arc::clone(&self.waiting),
            age,
            self.policy.trusted,
        )
        .await
        .map_err(|failure| {
            if let Some(alert) = fate.as_ref().and_then(|fate| fate.refusal()) {
                return error::refused(&self.target.label, alert);
            }
            let text = format!(
                "no HTTP/2 with {}: {failure}; set the service's `protocol` if it does not speak it",
                self.target.label
            );
            error::no_http2(text, failure)
        })?;
        let mut state = self.lock();
        if state.closed {
            connection.drain();
        }
        state.h2.push(connection);
        drop(state);
        self.tasks.spawn(driver);
        Ok(())
    }

    async fn add_h1(self: &Arc<Self>, dialed: Dialed, permit: ConnectionPermit) -> Result<(), Error> {
        let connection = H1Connection::open(dialed, permit, self).await.map_err(error::h1_unsent)?;
        self.keep(connection);
        Ok(())
    }

    /// A connection for one HTTP/1.1 request.
    pub(in crate::transport::connect) async fn dial_h1(
        self: &Arc<Self>,
        permit: ConnectionPermit,
    ) -> Result<Box<H1Connection>, Error> {
        let timeout = self.policy.connect_timeout;
        let connected = async {
            let dialed = self.dial(Offer::Http1).await?;
            H1Connection::open(dialed, permit, self).await.map_err(error::h1_unsent)
        };
        let result = rt::timeout(timeout, connected)
            .await
            .unwrap_or_else(|| Err(error::connect_timeout(&self.target.label, timeout)));
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// A connection for HTTP/1.1 could not be made: the endpoint is not offered until one can.
    pub(super) fn failed(self: &Arc<Self>, error: &Error) {
        let mut state = self.lock();
        state.note(error);
        let lost = state.speaks == Some(Alpn::Http1) || state.h2.is_empty();
        if lost && self.target.protocol == Protocol::Auto {
            // Whatever listens there next may speak something else.
            state.speaks = None;
        }
        drop(state);
        let (ready, failure) = (Readiness::Ready as u8, Readiness::TransientFailure as u8);
        if lost && self.readiness.compare_exchange(ready, failure, Relaxed, Relaxed).is_ok() {
            self.tell(PoolEvent::Changed { from: Readiness::Ready, to: Readiness::TransientFailure });
            let pool = Arc::clone(self);
            self.tasks.spawn(async move {
                pool.connect_until_ready(BACKOFF_FIRST).await;
            });
        }
    }
}
