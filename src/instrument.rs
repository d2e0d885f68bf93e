//! Counters, gauges and histograms as our own atomics, flushed into the `metrics` facade.
//!
//! A facade handle made before a recorder is installed stays silent for ever, and a macro with labels costs 114 ns per
//! use; an atomic costs 5 ns, and a flush every few seconds feeds whatever recorder is there by then. Handles are made
//! once per service, route or endpoint, never per call.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Key, Label, Level, Metadata};

/// Counts up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(crate) fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Log-linear buckets: 4 to each power of two of microseconds, so a value is known within 12.5 %.
const SUB_BITS: u32 = 2;
const BUCKETS: usize = 34 << SUB_BITS;

/// A histogram of durations, from 1 µs to about 4 hours.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<[AtomicU64; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Arc::new([const { AtomicU64::new(0) }; BUCKETS]))
    }
}

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        self.0[bucket(duration)].fetch_add(1, Relaxed);
    }

    /// The middle of each bucket in seconds, with its count.
    fn counts(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter().enumerate().map(|(index, count)| (middle(index), count.load(Relaxed)))
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) + 1;
    let exponent = 63 - micros.leading_zeros();
    let index = if exponent < SUB_BITS {
        micros as usize
    } else {
        let sub = (micros >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
        ((exponent as usize) << SUB_BITS) + sub as usize
    };
    index.min(BUCKETS - 1)
}

fn middle(index: usize) -> f64 {
    let (low, width) = if index < 1 << SUB_BITS {
        (index as f64, 1.0)
    } else {
        let exponent = (index >> SUB_BITS) as i32;
        let sub = index & ((1 << SUB_BITS) - 1);
        let width = 2f64.powi(exponent - SUB_BITS as i32);
        (2f64.powi(exponent) + sub as f64 * width, width)
    };
    (low + width / 2.0 - 1.0).max(0.0) / 1e6
}

/// Every series of one mesh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    series: Arc<Mutex<Vec<Series>>>,
    flushed: Arc<Mutex<Flushed>>,
}

/// How far one recorder is: a recorder takes the samples of a histogram once, so each needs a place of its own.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// By the index of the series, which never changes.
    histograms: HashMap<usize, Box<[u64; BUCKETS]>>,
}

#[derive(Debug)]
struct Series {
    key: Key,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Name and value pairs.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

const METADATA: Metadata<'static> = Metadata::new("sinew", Level::INFO, Some(module_path!()));

impl Registry {
    /// The counter of this name and these labels, made at first use.
    pub(crate) fn counter(&self, name: &'static str, labels: Labels<'_>) -> Counter {
        self.get_or_add(
            name,
            labels,
            |value| if let Value::Counter(counter) = value { Some(counter.clone()) } else { None },
            || {
                let counter = Counter::default();
                (Value::Counter(counter.clone()), counter)
            },
        )
    }

    /// The gauge of this name and these labels, made at first use.
    pub(crate) fn gauge(&self, name: &'static str, labels: Labels<'_>) -> Gauge {
        self.get_or_add(
            name,
            labels,
            |value| if let Value::Gauge(gauge) = value { Some(gauge.clone()) } else { None },
            || {
                let gauge = Gauge::default();
                (Value::Gauge(gauge.clone()), gauge)
            },
        )
    }

    /// The histogram of this name and these labels, made at first use.
    pub(crate) fn histogram(&self, name: &'static str, labels: Labels<'_>) -> Histogram {
        self.get_or_add(
            name,
            labels,
            |value| if let Value::Histogram(histogram) = value { Some(histogram.clone()) } else { None },
            || {
                let histogram = Histogram::default();
                (Value::Histogram(histogram.clone()), histogram)
            },
        )
    }

    fn get_or_add<T>(
        &self,
        name: &'static str,
        labels: Labels<'_>,
        get: impl Fn(&Value) -> Option<T>,
        make: impl FnOnce() -> (Value, T),
    ) -> T {
        let labels: Vec<_> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        let key = Key::from_parts(name, labels);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = series.iter().filter(|series| series.key == key).find_map(|series| get(&series.value)) {
            return found;
        }
        let (value, handle) = make();
        series.push(Series { key, value });
        handle
    }

    /// Hands everything to the recorder that is installed now.
    pub(crate) fn flush(&self) {
        self.flush_since(&mut self.flushed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Hands everything since `flushed` to the recorder of this thread, for recorders of our own.
    pub(crate) fn flush_since(&self, flushed: &mut Flushed) {
        metrics::with_recorder(|recorder| {
            let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, Series { key, value }) in series.iter().enumerate() {
                match value {
                    Value::Counter(counter) => recorder.register_counter(key, &METADATA).absolute(counter.get()),
                    Value::Gauge(gauge) => recorder.register_gauge(key, &METADATA).set(gauge.get() as f64),
                    Value::Histogram(histogram) => {
                        let handle = recorder.register_histogram(key, &METADATA);
                        let flushed = flushed.histograms.entry(index).or_insert_with(|| Box::new([0; BUCKETS]));
                        for ((middle, count), flushed) in histogram.counts().zip(flushed.iter_mut()) {
                            if count > *flushed {
                                handle.record_many(middle, (count - *flushed) as usize);
                                *flushed = count;
                            }
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_series_is_made_once_for_its_labels() {
        let registry = Registry::default();
        registry.counter("a", &[("service", "x")]).inc();
        registry.counter("a", &[("service", "x")]).inc();
        registry.counter("a", &[("service", "y")]).inc();
        assert_eq!(registry.counter("a", &[("service", "x")]).get(), 2);
    }

    #[test]
    fn a_recorder_installed_late_still_gets_everything() {
        let registry = Registry::default();
        registry.counter("requests", &[]).add(3);
        registry.gauge("open", &[]).set(-2);
        registry.histogram("seconds", &[]).record(Duration::from_millis(10));
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || registry.flush());
        let values: Vec<_> = snapshotter.snapshot().into_vec().into_iter().map(|(_, _, _, value)| value).collect();
        assert_eq!(values.len(), 3);
        assert!(values.contains(&metrics_util::debugging::DebugValue::Counter(3)));
    }

    proptest! {
        #[test]
        fn a_duration_is_known_within_an_eighth(micros in 4u64..3_600_000_000) {
            let known = middle(bucket(Duration::from_micros(micros))) * 1e6;
            let exact = micros as f64;
            prop_assert!((known - exact).abs() <= exact / 8.0 + 1.0, "{known} for {exact}");
        }
    }
}
