//! The detectors that compare endpoints with each other, once an interval.

use super::{Cause, OutlierPolicy, Window};

/// Finds the outliers among the endpoints of one priority: their places and why, each at most once. `None` stands for
/// one that is not judged, because it is out already.
pub(crate) fn outliers(windows: &[Option<Window>], policy: &OutlierPolicy) -> Vec<(usize, Cause)> {
    let mut found = Vec::new();
    let split = policy.split_external_local_origin_errors;
    if let Some(percent) = policy.windowed_success_rate {
        let rates = enough(windows, policy.windowed_request_volume, Window::all);
        below_median(&rates, f64::from(percent) / 100.0, |at| found.push((at, Cause::WindowedSuccessRate)));
    }
    let answered = |window: &Window| if split { window.external() } else { window.all() };
    for (enforcing, of, cause) in [
        (policy.enforcing_success_rate, &answered as &dyn Fn(&Window) -> Counted, Cause::SuccessRate),
        (
            if split { policy.enforcing_local_origin_success_rate } else { 0 },
            &Window::local_origin,
            Cause::LocalOriginSuccessRate,
        ),
    ] {
        let rates = enough(windows, policy.success_rate_request_volume, of);
        if enforcing > 0 && rates.len() >= policy.success_rate_minimum_hosts as usize {
            let floor = floor(&rates, policy.success_rate_stdev_factor);
            found.extend(rates.iter().filter(|rated| rated.rate < floor).map(|rated| (rated.at, cause)));
        }
    }
    for (enforcing, of, cause) in [
        (policy.enforcing_failure_percentage, &answered as &dyn Fn(&Window) -> Counted, Cause::FailurePercentage),
        (
            if split { policy.enforcing_failure_percentage_local_origin } else { 0 },
            &Window::local_origin,
            Cause::LocalOriginFailurePercentage,
        ),
    ] {
        let rates = enough(windows, policy.failure_percentage_request_volume, of);
        if enforcing > 0 && rates.len() >= policy.failure_percentage_minimum_hosts as usize {
            let most = 1.0 - f64::from(policy.failure_percentage_threshold) / 100.0;
            found.extend(rates.iter().filter(|rated| rated.rate <= most).map(|rated| (rated.at, cause)));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.dedup_by_key(|(at, _)| *at);
    found
}

/// Calls and how many of them failed.
type Counted = (u32, u32);

impl Window {
    /// Everything.
    fn all(&self) -> Counted {
        (self.answers + self.unanswered, self.failures + self.unanswered)
    }

    /// What the endpoint answered.
    fn external(&self) -> Counted {
        (self.answers, self.failures)
    }

    /// Whether it answered.
    fn local_origin(&self) -> Counted {
        (self.answers + self.unanswered, self.unanswered)
    }
}

struct Rated {
    at: usize,
    rate: f64,
}

/// The success rates of those with enough calls.
fn enough(windows: &[Option<Window>], volume: u32, of: impl Fn(&Window) -> Counted) -> Vec<Rated> {
    let rated = |(at, window): (usize, &Option<Window>)| {
        let (calls, failures) = of(window.as_ref()?);
        (calls >= volume.max(1)).then(|| Rated { at, rate: 1.0 - f64::from(failures) / f64::from(calls) })
    };
    windows.iter().enumerate().filter_map(rated).collect()
}

/// Finds those below `share` of the median of the others, of whom there must be two.
fn below_median(rates: &[Rated], share: f64, mut found: impl FnMut(usize)) {
    let others = rates.len().saturating_sub(1);
    if others < 2 {
        return;
    }
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|a, b| rates[*a].rate.total_cmp(&rates[*b].rate));
    for (rank, index) in order.iter().enumerate() {
        // The list without this one.
        let other = |at: usize| rates[order[at + usize::from(at >= rank)]].rate;
        let median = (other((others - 1) / 2) + other(others / 2)) / 2.0;
        if rates[*index].rate < share * median {
            found(rates[*index].at);
        }
    }
}

/// Envoy's floor: the mean less so many thousandths of a (population) standard deviation.
fn floor(rates: &[Rated], stdev_factor: u32) -> f64 {
    let n = rates.len() as f64;
    let mean = rates.iter().map(|rated| rated.rate).sum::<f64>() / n;
    let variance = rates.iter().map(|rated| (rated.rate - mean).powi(2)).sum::<f64>() / n;
    mean - variance.sqrt() * f64::from(stdev_factor) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Success rates in per cent, of a hundred calls each.
    fn windows(rates: &[u32]) -> Vec<Option<Window>> {
        rates.iter().map(|rate| Some(Window { answers: 100, failures: 100 - rate, unanswered: 0 })).collect()
    }

    fn off() -> OutlierPolicy {
        OutlierPolicy { windowed_success_rate: None, ..OutlierPolicy::default() }
    }

    #[test]
    fn success_rate_ejects_below_the_mean_less_so_many_deviations() {
        let policy = OutlierPolicy { enforcing_success_rate: 100, ..off() };
        let rates = enough(&windows(&[50, 100, 100, 100, 100]), 100, Window::external);
        assert!((floor(&rates, 1_900) - 0.52).abs() < 1e-9);
        assert_eq!(outliers(&windows(&[50, 100, 100, 100, 100]), &policy), [(0, Cause::SuccessRate)]);
        assert_eq!(outliers(&windows(&[99, 100, 100, 100]), &policy), [], "four are too few");
        assert_eq!(outliers(&windows(&[0, 0, 0, 0, 0]), &policy), [], "nobody stands out");
        let mut few = windows(&[50, 100, 100, 100, 100]);
        few[4] = Some(Window { answers: 99, failures: 0, unanswered: 0 });
        assert_eq!(outliers(&few, &policy), [], "four with enough calls are too few");
    }

    #[test]
    fn windowed_success_rate_compares_with_the_median_of_the_others() {
        let policy = OutlierPolicy::default();
        for (rates, expected) in [
            (&[79, 100, 100][..], &[0][..]),
            (&[80, 100, 100], &[]),
            (&[0, 100], &[]),
            (&[0, 0, 0], &[]),
            (&[50, 50, 50], &[]),
            (&[100, 40, 60], &[1]),
            (&[0, 0, 100, 100, 100], &[0, 1]),
        ] {
            let found: Vec<_> = outliers(&windows(rates), &policy).into_iter().map(|(at, _)| at).collect();
            assert_eq!(found, expected, "{rates:?}");
        }
        let few = Some(Window { answers: 19, failures: 19, unanswered: 0 });
        assert_eq!(outliers(&[few, windows(&[100])[0], windows(&[100])[0]], &policy), []);
        let silent = Some(Window { answers: 0, failures: 0, unanswered: 20 });
        assert_eq!(
            outliers(&[silent, windows(&[100])[0], windows(&[100])[0]], &policy),
            [(0, Cause::WindowedSuccessRate)]
        );
    }

    #[test]
    fn failure_percentage_counts_from_its_threshold_and_answers_apart() {
        let policy = OutlierPolicy { enforcing_failure_percentage: 100, ..off() };
        assert_eq!(outliers(&windows(&[15, 100, 100]), &policy), [(0, Cause::FailurePercentage)]);
        assert_eq!(outliers(&windows(&[16, 100, 100]), &policy), []);
        assert_eq!(outliers(&windows(&[0, 0]), &policy), [], "two are too few");
        let unanswered =
            [Some(Window { answers: 20, failures: 0, unanswered: 180 }), windows(&[100])[0], windows(&[100])[0]];
        assert_eq!(outliers(&unanswered, &policy), []);
        let local = OutlierPolicy { enforcing_failure_percentage_local_origin: 100, ..policy };
        assert_eq!(outliers(&unanswered, &local), [(0, Cause::LocalOriginFailurePercentage)]);
        let together = OutlierPolicy { split_external_local_origin_errors: false, ..policy };
        assert_eq!(outliers(&unanswered, &together), [(0, Cause::FailurePercentage)]);
    }

    #[test]
    fn an_endpoint_is_found_once_by_whatever_finds_it() {
        let policy = OutlierPolicy {
            enforcing_success_rate: 100,
            enforcing_failure_percentage: 100,
            ..OutlierPolicy::default()
        };
        assert_eq!(outliers(&windows(&[0, 100, 100, 100, 100]), &policy).len(), 1);
        let mut ejected = windows(&[0, 100, 100, 100, 100]);
        ejected[0] = None;
        assert_eq!(outliers(&ejected, &policy), []);
    }
}
