//! The load generator: so many calls at a time, with a progress bar.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use crate::{Result, stats::percentile};

/// What a load has measured.
pub(crate) struct Measured<T> {
    pub(crate) answers: Vec<T>,
    times: Vec<Duration>,
    took: Duration,
}

impl<T> Measured<T> {
    pub(crate) fn count(&self, which: impl Fn(&T) -> bool) -> u64 {
        self.answers.iter().filter(|answer| which(answer)).count() as u64
    }

    pub(crate) fn speed(&self) -> String {
        let per_second = self.answers.len() as f64 / self.took.as_secs_f64();
        let millis = |share| percentile(&self.times, share).as_secs_f64() * 1e3;
        format!("{per_second:.0} calls/s, p50 {:.2} ms, p99 {:.2} ms", millis(0.5), millis(0.99))
    }
}

/// Calls `call` with 0, 1, 2, .. until `total` calls are made, `width` at a time.
pub(crate) async fn run<T, F>(
    title: &str,
    total: usize,
    width: usize,
    call: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<Measured<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let bar = Bar::new(title, Some(total));
    let made = Arc::new(AtomicUsize::new(0));
    let next = Arc::clone(&made);
    let measured = workers(width, call, move || Some(next.fetch_add(1, Relaxed)).filter(|index| *index < total));
    bar.show_until(measured, &made).await
}

/// A load that goes on until it is told to stop.
pub(crate) struct Running<T> {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Result<Measured<T>>>,
}

impl<T: Send + 'static> Running<T> {
    pub(crate) fn start<F>(width: usize, call: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, next) = (Arc::clone(&stop), Arc::clone(&made));
        let pull = move || (!stopped.load(Relaxed)).then(|| next.fetch_add(1, Relaxed));
        Self { stop, made, task: tokio::spawn(workers(width, call, pull)) }
    }

    pub(crate) fn made(&self) -> usize {
        self.made.load(Relaxed)
    }

    pub(crate) async fn stop(self) -> Result<Measured<T>> {
        self.stop.store(true, Relaxed);
        self.task.await?
    }
}

async fn workers<T, F>(
    width: usize,
    call: impl Fn(usize) -> F + Clone + Send + 'static,
    next: impl Fn() -> Option<usize> + Clone + Send + 'static,
) -> Result<Measured<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..width {
        let (call, next) = (call.clone(), next.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while let Some(index) = next() {
                let started = Instant::now();
                done.push((call(index).await, started.elapsed()));
            }
            done
        });
    }
    let (mut answers, mut times) = (Vec::new(), Vec::new());
    while let Some(done) = workers.join_next().await {
        for (answer, took) in done? {
            answers.push(answer);
            times.push(took);
        }
    }
    times.sort_unstable();
    Ok(Measured { answers, times, took: started.elapsed() })
}

/// A progress bar on standard error, drawn only where somebody watches.
pub(crate) struct Bar {
    title: String,
    total: Option<usize>,
    drawn: bool,
}

impl Bar {
    pub(crate) fn new(title: &str, total: Option<usize>) -> Self {
        Self { title: title.to_owned(), total, drawn: stderr().is_terminal() }
    }

    pub(crate) fn draw(&self, done: usize) {
        const WIDTH: usize = 30;
        if !self.drawn {
            return;
        }
        let line = match self.total {
            Some(total) => {
                let done = done.min(total);
                let full = done * WIDTH / total.max(1);
                format!("{}{} {done}/{total}", "█".repeat(full), "░".repeat(WIDTH - full))
            }
            None => format!("{done} calls"),
        };
        let _ = write!(stderr(), "\r\x1b[2K  {line}  {}", self.title);
        let _ = stderr().flush();
    }

    async fn show_until<T>(self, work: impl Future<Output = T>, done: &AtomicUsize) -> T {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                _ = tick.tick() => self.draw(done.load(Relaxed)),
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(stderr(), "\r\x1b[2K");
            let _ = stderr().flush();
        }
    }
}
