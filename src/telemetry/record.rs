//! One call, from its first moment to the end of its response body.

use std::sync::Arc;

use http::{HeaderMap, response};
use tracing::Span;

use super::series::{CallSeries, Direction, Ended};
use crate::{
    body::{End, Guard},
    classify::{self, GRPC_STATUS, Outcome, Refusal, Verdict},
    error::{Code, Error},
    rt::{self, Instant},
};

/// An open record. Closed once: at the end of the response, at an error, or when dropped (the caller went away).
pub(crate) struct Record {
    series: Arc<CallSeries>,
    started: Instant,
    grpc: bool,
    state: State,
}

enum State {
    /// Nothing came back yet.
    Waiting,
    /// The headers were seen; the rest is to come.
    Answered {
        ended: Ended,
        verdict: Verdict,
    },
    Closed,
}

impl Record {
    pub(crate) fn open(series: Arc<CallSeries>, started: Instant, grpc: bool) -> Self {
        series.begin();
        Self { series, started, grpc, state: State::Waiting }
    }

    /// A span for the call, disabled unless somebody listens.
    pub(crate) fn span(&self) -> Span {
        match self.series.direction() {
            Direction::Outbound => {
                tracing::debug_span!("sinew.call", service = self.series.service(), route = self.series.route())
            }
            Direction::Inbound => tracing::debug_span!("sinew.request", service = self.series.service()),
        }
    }

    pub(crate) fn answered(&mut self, parts: &response::Parts) {
        let refusal = if parts.extensions.is_empty() { None } else { parts.extensions.get::<Refusal>() };
        if let Some(Refusal(code)) = refusal {
            // Made here: its outcome is known, whether or not anybody reads its text.
            let ended = match (*code, parts.headers.get(GRPC_STATUS).filter(|_| self.grpc)) {
                (Code::FaultAbort, Some(status)) => Ended::Injected(200, Some(number(status.as_bytes()))),
                (Code::FaultAbort, None) => Ended::Injected(parts.status.as_u16(), None),
                (code, _) => Ended::Failed(code),
            };
            return self.close(ended, classify::error(&Error::new(*code, "")), None);
        }
        let verdict = classify::response(parts, self.grpc);
        let ended = match parts.headers.get(GRPC_STATUS).filter(|_| self.grpc) {
            Some(status) => Ended::Grpc(number(status.as_bytes())),
            None => Ended::Http(parts.status.as_u16()),
        };
        self.state = State::Answered { ended, verdict };
    }

    pub(crate) fn failed(mut self, error: &Error) {
        self.close(Ended::Failed(error.code()), classify::error(error), Some(error));
    }

    fn close(&mut self, ended: Ended, outcome: Outcome, error: Option<&Error>) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.state = State::Closed;
        self.series.end(ended, outcome, self.grpc, rt::now().saturating_duration_since(self.started));
        if let Some(error) = error {
            tracing::debug!(
                service = self.series.service(),
                route = self.series.route(),
                code = %error.code(),
                flag = error.code().flag(),
                outcome = outcome.as_str(),
                "{error}"
            );
        }
    }
}

fn number(status: &[u8]) -> u8 {
    std::str::from_utf8(status).ok().and_then(|status| status.parse().ok()).unwrap_or(2)
}

impl Guard for Record {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let State::Answered { ended, verdict: verdict @ Verdict::AtTrailers } = &mut self.state {
            *verdict = Verdict::Final(classify::trailers(Some(trailers)));
            if let Some(status) = trailers.get(GRPC_STATUS) {
                *ended = Ended::Grpc(number(status.as_bytes()));
            }
        }
    }

    fn end(&mut self, end: End<'_>) {
        match end {
            End::Complete => {
                if let State::Answered { ended, verdict } = self.state {
                    let outcome = match verdict {
                        Verdict::Final(outcome) => outcome,
                        Verdict::AtTrailers => classify::trailers(None),
                    };
                    self.close(ended, outcome, None);
                }
            }
            End::Failed(error) => self.close(Ended::Failed(error.code()), classify::error(error), Some(error)),
            End::Dropped => self.close(Ended::Cancelled, Outcome::Cancelled, None),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.close(Ended::Cancelled, Outcome::Cancelled, None);
    }
}
