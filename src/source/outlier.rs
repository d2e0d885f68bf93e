//! `outlier_detection` of one source, and what follows from all of them.

use std::time::Duration;

use super::{
    document::{Field, Set},
    resolve::effective,
};
use crate::{
    enforcement::Mode,
    health::{OutlierPolicy, Recovery},
    model::{Origin, Provenance},
};

/// One list of the fields, so that none is forgotten in one of the four places where they are all named.
macro_rules! outlier {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// `outlier_detection`. For a detector the outer `Option` is "not said", the inner "off".
        #[derive(Clone, Debug, Default)]
        pub(crate) struct PartialOutlier {
            $(pub(crate) $field: Field<$type>,)*
        }

        impl PartialOutlier {
            pub(crate) fn over(self, lower: Self) -> Self {
                Self { $($field: self.$field.or(lower.$field),)* }
            }

            /// Everything that a policy says.
            pub(super) fn of(policy: &OutlierPolicy, origin: &Origin) -> Self {
                Self { $($field: Some(Set::new(policy.$field, origin.clone())),)* }
            }

            /// Who said the first of what is said.
            pub(super) fn first(&self) -> Option<&Origin> {
                [$(self.$field.as_ref().map(|set| &set.origin),)*].into_iter().flatten().next()
            }

            /// The policy in effect.
            pub(super) fn resolve(&self, provenance: &mut Provenance, path: &str) -> OutlierPolicy {
                let mut policy = OutlierPolicy::default();
                $(
                    let path_of = format!("{path}.{}", stringify!($field));
                    policy.$field = effective(provenance, path_of, &self.$field, policy.$field);
                )*
                policy
            }
        }

        /// Names and values of a policy, as they are written.
        #[cfg_attr(not(feature = "file"), allow(dead_code))]
        pub(super) fn written(policy: &OutlierPolicy) -> Vec<(&'static str, String)> {
            vec![$((stringify!($field), policy.$field.written()),)*]
        }
    };
}

outlier! {
    enforcement: Mode,
    interval: Duration,
    base_ejection_time: Duration,
    max_ejection_time: Duration,
    max_ejection_time_jitter: Duration,
    max_ejection_percent: u32,
    recovery: Recovery,
    split_external_local_origin_errors: bool,
    consecutive_5xx: Option<u32>,
    enforcing_consecutive_5xx: u32,
    consecutive_gateway_failure: Option<u32>,
    enforcing_consecutive_gateway_failure: u32,
    consecutive_local_origin_failure: Option<u32>,
    enforcing_consecutive_local_origin_failure: u32,
    unanswered_after: Option<Duration>,
    windowed_success_rate: Option<u32>,
    windowed_request_volume: u32,
    enforcing_success_rate: u32,
    enforcing_local_origin_success_rate: u32,
    success_rate_stdev_factor: u32,
    success_rate_minimum_hosts: u32,
    success_rate_request_volume: u32,
    enforcing_failure_percentage: u32,
    enforcing_failure_percentage_local_origin: u32,
    failure_percentage_threshold: u32,
    failure_percentage_minimum_hosts: u32,
    failure_percentage_request_volume: u32,
}

/// A value as it is written in a document.
trait Written {
    fn written(&self) -> String;
}

impl Written for u32 {
    fn written(&self) -> String {
        self.to_string()
    }
}

impl Written for bool {
    fn written(&self) -> String {
        self.to_string()
    }
}

impl Written for Duration {
    fn written(&self) -> String {
        super::duration::format(*self)
    }
}

impl<T: Written> Written for Option<T> {
    fn written(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), Written::written)
    }
}

impl Written for Mode {
    fn written(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Written for Recovery {
    fn written(&self) -> String {
        self.as_str().to_owned()
    }
}
