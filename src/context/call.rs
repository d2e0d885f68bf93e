//! What one call wants differently.

use std::time::Duration;

use super::{Context, Inner, Scoped};

/// How important a request is when something has to be shed. The levels of Google's SRE book, chapter 21.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Criticality {
    /// Users notice at once; shed last.
    CriticalPlus,
    /// The default: users notice.
    #[default]
    Critical,
    /// Partial unavailability is expected, for example batch work that retries.
    SheddablePlus,
    /// May fail often or for long; shed first.
    Sheddable,
}

impl Criticality {
    pub(crate) fn level(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_level(level: u8) -> Option<Self> {
        Some(match level {
            0 => Self::CriticalPlus,
            1 => Self::Critical,
            2 => Self::SheddablePlus,
            3 => Self::Sheddable,
            _ => return None,
        })
    }
}

/// Options of one call: by the request builder, by `http::Extensions` (which reach through tonic), or by scope.
///
/// What is set on the request wins over the enclosing scope, and both over configuration, inside the floor.
///
/// ```
/// # use std::time::Duration;
/// use sinew::{Call, Criticality};
///
/// let mut request = http::Request::get("/ratings/0").body(()).unwrap();
/// request.extensions_mut().insert(Call::new().timeout(Duration::from_millis(500)).criticality(Criticality::Sheddable));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Call {
    pub(crate) timeout: Option<Duration>,
    pub(crate) criticality: Option<Criticality>,
    pub(crate) no_retry: Option<bool>,
    pub(crate) idempotent: Option<bool>,
    hedge: Hedge,
    pub(crate) prefer: Tag,
    pub(crate) avoid: Tag,
}

/// An endpoint by its id, in four bytes. Two of ten thousand endpoints have the same tag once in 86 fleets, and all that
/// follows is that one is preferred or avoided with the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tag(u32);

impl Tag {
    /// No endpoint.
    pub(crate) const NONE: Tag = Tag(0);

    /// FNV-1a of the id.
    pub(crate) const fn of(id: &str) -> Tag {
        let (bytes, mut hash, mut at) = (id.as_bytes(), 0x811c_9dc5_u32, 0);
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        Tag(if hash == 0 { 1 } else { hash })
    }

    fn or(self, outer: Tag) -> Tag {
        if self == Tag::NONE { outer } else { self }
    }
}

/// Microseconds after which a call is hedged: four bytes, since a call's options are copied with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Hedge(u32);

impl Hedge {
    const AS_CONFIGURED: Hedge = Hedge(0);
    const NEVER: Hedge = Hedge(u32::MAX);
}

impl Call {
    /// No options: everything as configured.
    pub const fn new() -> Self {
        Self {
            timeout: None,
            criticality: None,
            no_retry: None,
            idempotent: None,
            hedge: Hedge::AS_CONFIGURED,
            prefer: Tag::NONE,
            avoid: Tag::NONE,
        }
    }

    /// The overall timeout of the call, its response body included. Unset: as configured.
    ///
    /// An inbound deadline that is nearer still holds.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How important the call is, here and at every hop below that trusts this one. Unset: that of the request being
    /// served, else [`Criticality::Critical`].
    #[must_use]
    pub const fn criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = Some(criticality);
        self
    }

    /// Sends the call once. What never left this process, or what the peer names unprocessed, is sent again all the same:
    /// no peer saw it. Unset: as configured.
    #[must_use]
    pub const fn no_retry(mut self) -> Self {
        self.no_retry = Some(true);
        self
    }

    /// Whether doing it twice does no more than doing it once, so that it may be retried and hedged after it may have been
    /// processed. Unset: by the method (RFC 9110) and `idempotency-key`; gRPC calls are POST and so are not.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// Asks another endpoint as well if there is no answer after this long. Only idempotent calls are hedged, within the
    /// retry budget, and never at an endpoint that was asked already. Unset: as configured.
    #[must_use]
    pub const fn hedge(mut self, after: Duration) -> Self {
        self.hedge = Hedge(match after.as_micros() {
            0 => 1,
            micros if micros < u32::MAX as u128 => micros as u32,
            _ => u32::MAX - 1,
        });
        self
    }

    /// Does not hedge, whatever is configured.
    #[must_use]
    pub const fn no_hedge(mut self) -> Self {
        self.hedge = Hedge::NEVER;
        self
    }

    /// Goes to the endpoint with this id (an address, as in [`EndpointStatus`](crate::EndpointStatus)) if the route leads
    /// there and it can be used now; to another one otherwise, as balanced. For callers that know who has their data in
    /// memory. Unset: as balanced.
    #[must_use]
    pub const fn prefer(mut self, endpoint: &str) -> Self {
        self.prefer = Tag::of(endpoint);
        self
    }

    /// Passes over the endpoint with this id while there are others. For callers that got a bad answer from it. Unset: as
    /// balanced.
    #[must_use]
    pub const fn avoid(mut self, endpoint: &str) -> Self {
        self.avoid = Tag::of(endpoint);
        self
    }

    /// Applies the options to every call that `future` makes.
    ///
    /// Cancelling is dropping the returned future; the options end with it.
    pub fn scope<F: Future>(self, future: F) -> Scoped<F> {
        let context = match Context::current() {
            Some(context) => context.with_call(self.or(context.inner().call)),
            None => Context::new(Inner { call: self, ..Inner::default() }),
        };
        Scoped::new(future, Some(context))
    }

    /// After how long the call is hedged, if it says so itself; the inner `None` is never.
    pub(crate) fn hedges_after(&self) -> Option<Option<Duration>> {
        match self.hedge {
            Hedge::AS_CONFIGURED => None,
            Hedge::NEVER => Some(None),
            Hedge(micros) => Some(Some(Duration::from_micros(micros.into()))),
        }
    }

    /// `self` where it says something, else `outer`.
    pub(crate) fn or(self, outer: Call) -> Call {
        Call {
            timeout: self.timeout.or(outer.timeout),
            criticality: self.criticality.or(outer.criticality),
            no_retry: self.no_retry.or(outer.no_retry),
            idempotent: self.idempotent.or(outer.idempotent),
            hedge: if self.hedge == Hedge::AS_CONFIGURED { outer.hedge } else { self.hedge },
            prefer: self.prefer.or(outer.prefer),
            avoid: self.avoid.or(outer.avoid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inner_scope_wins_and_keeps_what_it_does_not_set() {
        let seen = Call::new()
            .timeout(Duration::from_secs(1))
            .criticality(Criticality::Sheddable)
            .scope(async {
                Call::new()
                    .timeout(Duration::from_secs(2))
                    .scope(async { Context::current().map(|context| context.inner().call) })
                    .await
            })
            .await
            .unwrap();
        assert_eq!(seen.timeout, Some(Duration::from_secs(2)));
        assert_eq!(seen.criticality, Some(Criticality::Sheddable));
        assert!(Context::current().is_none());
    }
}
