//! The grammar of `outlier_detection`.

use std::time::Duration;

use serde_json::json;

use super::cursor::{Cursor, Wrong};
use crate::{
    enforcement::Mode,
    health::Recovery,
    model::Origin,
    source::{
        document::{Field, Set},
        outlier::PartialOutlier,
    },
};

/// Shorter intervals and ejections judge by a handful of calls.
const SECOND: Duration = Duration::from_secs(1);

/// A map, or `enforcement` alone.
pub(super) fn outlier(at: Cursor<'_, '_, '_>) -> Option<PartialOutlier> {
    at.scalar_or(
        |at| {
            let place = at.node.map(|node| at.reading.place(node.mark));
            let enforcement = enforcement(at)?;
            let origin = place.map_or(Origin::Default, Origin::File);
            Some(PartialOutlier { enforcement: Some(Set::new(enforcement, origin)), ..PartialOutlier::default() })
        },
        map,
    )
}

fn map(at: Cursor<'_, '_, '_>) -> Option<PartialOutlier> {
    at.map("`off`, `shadow`, `enforce`, or a map", |fields| {
        let mut in_a_row = |key: &'static str, doc| -> Field<Option<u32>> {
            fields.field(key, doc, |at| count_or_off(at, 1_000_000))
        };
        let consecutive_5xx = in_a_row(
            "consecutive_5xx",
            "Answers in a row with 500 to 599, UNKNOWN, INTERNAL, DATA_LOSS, UNAVAILABLE or DEADLINE_EXCEEDED. Default off.",
        );
        let consecutive_gateway_failure = in_a_row(
            "consecutive_gateway_failure",
            "Answers in a row with 502, 503, 504, UNAVAILABLE or DEADLINE_EXCEEDED, except those marked as shed. Default 5.",
        );
        let consecutive_local_origin_failure = in_a_row(
            "consecutive_local_origin_failure",
            "Calls in a row without an answer: no connection, a reset, a timeout. Default 5.",
        );
        let mut percent = |key: &'static str, doc| -> Field<u32> { fields.field(key, doc, |at| at.integer(0..=100)) };
        let max_ejection_percent = percent(
            "max_ejection_percent",
            "Most of the endpoints of one priority that are out at once, though one may be of two or more. Default 50; 0 \
             ejects nothing.",
        );
        let enforcing = "In how many of 100 cases the detector is acted upon. Default 100.";
        let enforcing_consecutive_5xx = percent("enforcing_consecutive_5xx", enforcing);
        let enforcing_consecutive_gateway_failure = percent("enforcing_consecutive_gateway_failure", enforcing);
        let enforcing_consecutive_local_origin_failure =
            percent("enforcing_consecutive_local_origin_failure", enforcing);
        let enforcing = "In how many of 100 cases the detector is acted upon. Default 0: it is off.";
        let enforcing_success_rate = percent("enforcing_success_rate", enforcing);
        let enforcing_local_origin_success_rate = percent("enforcing_local_origin_success_rate", enforcing);
        let enforcing_failure_percentage = percent("enforcing_failure_percentage", enforcing);
        let enforcing_failure_percentage_local_origin = percent("enforcing_failure_percentage_local_origin", enforcing);
        let failure_percentage_threshold = percent(
            "failure_percentage_threshold",
            "Per cent of its calls that an endpoint must fail in an interval. Default 85.",
        );
        let mut number = |key: &'static str, doc| -> Field<u32> {
            fields.field(key, doc, |at| at.integer(1..=1_000_000))
        };
        let windowed_request_volume = number(
            "windowed_request_volume",
            "Calls in an interval without which an endpoint is not judged by `windowed_success_rate`. Default 20.",
        );
        let success_rate_stdev_factor = number(
            "success_rate_stdev_factor",
            "Thousandths of standard deviations below the mean of all. Default 1900.",
        );
        let success_rate_minimum_hosts =
            number("success_rate_minimum_hosts", "Endpoints of enough calls without which none is judged. Default 5.");
        let success_rate_request_volume =
            number("success_rate_request_volume", "Calls in an interval that are enough. Default 100.");
        let failure_percentage_minimum_hosts = number(
            "failure_percentage_minimum_hosts",
            "Endpoints of enough calls without which none is judged. Default 3.",
        );
        let failure_percentage_request_volume =
            number("failure_percentage_request_volume", "Calls in an interval that are enough. Default 20.");
        PartialOutlier {
            enforcement: fields.field(
                "enforcement",
                "Whether outliers are ejected, only reported (`shadow`), or not looked for. Default `enforce`.",
                enforcement,
            ),
            interval: fields.field(
                "interval",
                "How often rates are judged, and an endpoint that stayed well is forgiven one ejection. Default 10s; at \
                 least 1s.",
                |at| at.duration(SECOND),
            ),
            base_ejection_time: fields.field(
                "base_ejection_time",
                "How long the first ejection lasts; the n-th lasts n times as long. Default 30s; at least 1s.",
                |at| at.duration(SECOND),
            ),
            max_ejection_time: fields.field(
                "max_ejection_time",
                "No ejection lasts longer, before jitter. Default 300s; at least `base_ejection_time`.",
                |at| at.duration(SECOND),
            ),
            max_ejection_time_jitter: fields.field(
                "max_ejection_time_jitter",
                "Up to this much is added by chance. Default 3s.",
                |at| at.duration(Duration::ZERO),
            ),
            recovery: fields.field(
                "recovery",
                "How an endpoint comes back: by one call that goes well (`probation`, default), or by `time` alone.",
                |at| {
                    let words = [("probation", Recovery::Probation), ("time", Recovery::Time)];
                    at.choice("a way to recover", &words, &[])
                },
            ),
            split_external_local_origin_errors: fields.field(
                "split_external_local_origin_errors",
                "Whether calls without an answer are counted apart from answers that are failures; if not, they count as \
                 gateway failures. Default true.",
                |at| at.boolean(),
            ),
            unanswered_after: fields.field(
                "unanswered_after",
                "A call without response headers is a failure once it is this old and ten times as old as the service's \
                 median. Default 1s; at least 100ms, or `off`.",
                |at| at.duration_or_off(Duration::from_millis(100)),
            ),
            windowed_success_rate: fields.field(
                "windowed_success_rate",
                "A success rate in an interval below this share of the median of its peers, in per cent. Default 80.",
                |at| count_or_off(at, 100),
            ),
            max_ejection_percent,
            consecutive_5xx,
            enforcing_consecutive_5xx,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            windowed_request_volume,
            enforcing_success_rate,
            enforcing_local_origin_success_rate,
            success_rate_stdev_factor,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            failure_percentage_threshold,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
        }
    })
}

fn enforcement(at: Cursor<'_, '_, '_>) -> Option<Mode> {
    let words = [Mode::Off, Mode::Shadow, Mode::Enforce].map(|word| (word.as_str(), word));
    at.choice("an enforcement", &words, &[])
}

/// A count from 1, or `off`.
fn count_or_off(at: Cursor<'_, '_, '_>, max: u32) -> Option<Option<u32>> {
    let schema = json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": max }, { "const": "off" }] });
    at.scalar("a whole number, or `off`", schema, |text| match (text, text.parse::<u32>()) {
        ("off", _) => Ok(None),
        (_, Ok(count)) if (1..=max).contains(&count) => Ok(Some(count)),
        _ => Err(Wrong::new(
            format!("`{}` is not a number of 1 to {max}", text.escape_debug()),
            format!("write digits only, 1 to {max}, or `off`"),
        )),
    })
}
