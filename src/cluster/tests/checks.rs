//! Active health checks over connections in memory, in paused time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::{
    enforcement::Percent,
    error::Delivery,
    health::{Flag, HealthCheck, Sample, StatusRange},
    model::EndpointId,
    rt,
};

/// How an endpoint answers.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Http(u16),
    /// It accepts, and that is all.
    Silence,
    Refuse,
    /// It does not like our certificate.
    RefuseUs,
    /// It says this and closes.
    Says(&'static [u8]),
    Grpc(Grpc),
}

/// How a server of `grpc.health.v1` answers: the status that each of its two methods gives, `None` without the method.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Grpc {
    watch: Option<u8>,
    check: Option<u8>,
}

/// Endpoints by name, and how often each was dialled and asked.
#[derive(Default)]
struct Town {
    answers: Mutex<HashMap<String, Answer>>,
    changed: Notify,
    dials: Mutex<HashMap<String, usize>>,
    asked: Mutex<HashMap<String, usize>>,
}

impl Town {
    fn set(&self, name: &str, answer: Answer) {
        lock(&self.answers).insert(name.into(), answer);
        self.changed.notify_waiters();
    }

    fn of(&self, name: &str) -> Answer {
        lock(&self.answers).get(name).copied().unwrap_or(Answer::Http(200))
    }

    fn dials(&self, name: &str) -> usize {
        lock(&self.dials).get(name).copied().unwrap_or(0)
    }

    fn asked(&self, name: &str) -> usize {
        lock(&self.asked).get(name).copied().unwrap_or(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Streets(Arc<Town>);

impl Dial for Streets {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async move {
            let name = address.to_string().trim_start_matches("memory:").to_owned();
            *lock(&self.0.dials).entry(name.clone()).or_default() += 1;
            let (near, far) = duplex(64 * 1024);
            let town = Arc::clone(&self.0);
            match town.of(&name) {
                Answer::Refuse => return Err(Error::new(Code::ConnectFailed, "nobody is there")),
                Answer::RefuseUs => {
                    let error = Error::new(Code::TlsFailed, "it refused our certificate");
                    return Err(error.with_delivery(Delivery::TlsRefused));
                }
                Answer::Grpc(_) => drop(tokio::spawn(grpc(town, name, far))),
                _ => drop(tokio::spawn(http(town, name, far))),
            }
            Ok(Dialed::plain(near))
        })
    }
}

async fn http(town: Arc<Town>, name: String, mut io: DuplexStream) {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if let Answer::Says(bytes) = town.of(&name) {
            let _ = io.write_all(bytes).await;
            return;
        }
        if io.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        *lock(&town.asked).entry(name.clone()).or_default() += 1;
        match town.of(&name) {
            Answer::Http(status) => {
                let answer = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 2\r\n\r\nhi");
                if io.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Answer::Refuse => return,
            _ => std::future::pending().await,
        }
    }
}

async fn grpc(town: Arc<Town>, name: String, io: DuplexStream) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let watches = request.uri().path().ends_with("/Watch");
        *lock(&town.asked).entry(name.clone()).or_default() += usize::from(!watches);
        let (town, name) = (Arc::clone(&town), name.clone());
        tokio::spawn(async move {
            let status = |town: &Town| match town.of(&name) {
                Answer::Grpc(grpc) if watches => Some(grpc.watch),
                Answer::Grpc(grpc) => Some(grpc.check),
                _ => None,
            };
            let head = http::Response::builder().header("content-type", "application/grpc");
            match status(&town) {
                None => std::future::pending::<()>().await,
                Some(None) => {
                    let head = head.header("grpc-status", "12").body(()).unwrap();
                    let _ = respond.send_response(head, true);
                }
                Some(Some(mut said)) => {
                    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    let message = |said: u8| Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, said]);
                    stream.send_data(message(said), false).unwrap();
                    loop {
                        let changed = town.changed.notified();
                        let mut changed = std::pin::pin!(changed);
                        changed.as_mut().enable();
                        match status(&town) {
                            _ if !watches => break,
                            Some(Some(now)) if now != said => {
                                said = now;
                                stream.send_data(message(said), false).unwrap();
                            }
                            Some(Some(_)) => changed.await,
                            Some(None) => break,
                            None => std::future::pending().await,
                        }
                    }
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let _ = stream.send_trailers(trailers);
                }
            }
        });
    }
}

use tokio::sync::Notify;

struct Ward {
    town: Arc<Town>,
    dial: Arc<dyn Dial>,
    home: Arc<crate::cluster::Home>,
    bench: Bench,
    spec: ServiceSpec,
}

fn check() -> HealthCheck {
    let mut check = HealthCheck::http("/healthz").unwrap();
    check.initial_jitter = Some(Duration::ZERO);
    check.interval_jitter_percent = 0;
    // Nobody calls in most of these tests.
    check.no_traffic_interval = check.interval;
    check
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Ward {
    async fn new(names: &[&str], checks: Vec<HealthCheck>) -> Self {
        Self::of(names, checks, SetKind::Replicas, |_| {}).await
    }

    async fn of(names: &[&str], checks: Vec<HealthCheck>, kind: SetKind, before: impl FnOnce(&Town)) -> Self {
        let town = Arc::new(Town::default());
        before(&town);
        let dial: Arc<dyn Dial> = Arc::new(Streets(Arc::clone(&town)));
        let mut spec = ServiceSpec::new(ServiceName::new("target").unwrap());
        spec.protocol = Protocol::Http1;
        spec.health_checks = checks;
        let home = crate::cluster::Home::new(Arc::clone(&dial));
        let cluster =
            Cluster::new(&Arc::new(spec.clone()), &home, Arc::clone(&dial), TaskSet::new(), &Registry::default());
        let ward = Self { town, dial, home, bench: Bench { cluster }, spec };
        ward.have(names, kind).await;
        ward
    }

    async fn have(&self, names: &[&str], kind: SetKind) {
        let endpoints = names.iter().map(|name| EndpointSpec::new(address(name))).collect();
        self.bench.cluster.apply(EndpointUpdate::Reset { endpoints, kind });
        self.bench.settle().await;
    }

    fn out(&self) -> Vec<String> {
        let status = self.bench.cluster.status();
        let out = status.endpoints.iter().filter(|endpoint| endpoint.health.contains(&"health_check_failed"));
        out.map(|endpoint| endpoint.id.trim_start_matches("memory:").to_owned()).collect()
    }

    fn says(&self, name: &str) -> (&'static str, String) {
        let status = self.bench.cluster.status();
        let endpoint = status.endpoints.iter().find(|endpoint| endpoint.id == format!("memory:{name}")).unwrap();
        (endpoint.health_checks[0].status, endpoint.health_checks[0].last.clone())
    }

    fn reload(&mut self, change: impl FnOnce(&mut ServiceSpec)) {
        change(&mut self.spec);
        self.bench.cluster.update(&Arc::new(self.spec.clone()), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_out_after_as_many_failures_and_back_after_as_many_passes() {
    let mut slow = check();
    let crate::health::CheckKind::Http(http) = &mut slow.kind else { panic!("not http") };
    http.retriable_statuses = vec!["5xx".parse::<StatusRange>().unwrap()];
    let ward = Ward::new(&["a", "b", "c"], vec![slow]).await;
    assert_eq!(ward.says("b"), ("healthy", String::new()));
    ward.town.set("b", Answer::Http(503));
    rt::sleep(seconds(7)).await;
    assert_eq!(ward.says("b"), ("healthy", "it answered 503".into()));
    assert!(ward.out().is_empty());
    rt::sleep(seconds(3)).await;
    assert_eq!((ward.says("b").0, ward.out()), ("unhealthy", vec!["b".to_owned()]));
    assert_eq!(ward.bench.picked(), ["a", "c"]);
    ward.town.set("b", Answer::Http(200));
    rt::sleep(seconds(3)).await;
    assert_eq!(ward.out(), ["b"]);
    rt::sleep(seconds(3)).await;
    assert!(ward.out().is_empty());
    assert_eq!(ward.town.dials("a"), 2, "one connection for calls, one for all the checks");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_must_not_be_given_counts_at_once_and_silence_after_a_timeout() {
    let ward = Ward::new(&["a", "b", "c", "d"], vec![check()]).await;
    ward.town.set("b", Answer::Http(404));
    ward.town.set("c", Answer::Silence);
    rt::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(ward.out(), ["b"]);
    rt::sleep(seconds(1)).await;
    assert_eq!(ward.says("c"), ("healthy", "no answer within 1s".into()));
    rt::sleep(seconds(8)).await;
    assert_eq!(ward.out(), ["b", "c"]);
    ward.town.set("d", Answer::Refuse);
    rt::sleep(seconds(10)).await;
    assert_eq!(ward.out(), ["b", "c", "d"]);
    assert!(ward.bench.cluster.status().priorities[0].panic, "one of four is left");
}

#[tokio::test(start_paused = true)]
async fn the_last_usable_endpoint_stays_until_another_one_is_usable() {
    let ward = Ward::new(&["a", "b", "c"], vec![check()]).await;
    for name in ["a", "b", "c"] {
        ward.town.set(name, Answer::Http(500));
    }
    rt::sleep(seconds(4)).await;
    let out = ward.out();
    assert_eq!(out.len(), 2, "{out:?}");
    let last = ["a", "b", "c"].into_iter().find(|name| !out.contains(&(*name).to_owned())).unwrap();
    assert_eq!(ward.says(last).0, "unhealthy");
    assert_eq!(ward.bench.picked(), [last]);
    ward.town.set(&out[0], Answer::Http(200));
    rt::sleep(seconds(10)).await;
    assert_eq!(ward.bench.picked(), [out[0].as_str()]);
    assert!(ward.out().contains(&last.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_share_of_those_found_unhealthy_is_passed_over_and_drawn_anew_each_time() {
    let names: Vec<String> = (0..40).map(|n| format!("a{n}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let (ill, well) = names.split_at(30);
    let check = HealthCheck { percentage: Percent::of_millionths(500_000), ..check() };
    let ward = Ward::new(&names, vec![check]).await;
    let mut drawn = Vec::new();
    for _ in 0..2 {
        ill.iter().for_each(|name| ward.town.set(name, Answer::Http(500)));
        rt::sleep(seconds(4)).await;
        let out = ward.out();
        assert!((8..=22).contains(&out.len()), "{out:?}");
        assert!(
            ill.iter().all(|name| ward.says(name).0 == "unhealthy")
                && well.iter().all(|name| !out.contains(&(*name).to_owned()))
        );
        let unhurt = ill.iter().find(|name| !out.contains(&(**name).to_owned())).unwrap();
        assert!(ward.bench.picked().iter().any(|picked| picked == unhurt), "it is called all the same");
        drawn.push(out);
        ill.iter().for_each(|name| ward.town.set(name, Answer::Http(200)));
        rt::sleep(seconds(10)).await;
        assert!(ward.out().is_empty());
    }
    assert_ne!(drawn[0], drawn[1]);
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_and_a_virtual_ip_are_only_reported_on() {
    for (names, kind) in [(&["a"][..], SetKind::Replicas), (&["a", "b"], SetKind::Vip)] {
        let ward = Ward::of(names, vec![check()], kind, |_| {}).await;
        ward.town.set("a", Answer::Http(500));
        rt::sleep(seconds(4)).await;
        assert_eq!((ward.says("a").0, ward.out().len()), ("unhealthy", 0), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_lifts_an_ejection_for_failed_connects_and_no_other() {
    let ward = Ward::new(&["a", "b", "c"], vec![check()]).await;
    let cluster = &ward.bench.cluster;
    let feed = |name: &str, sample: Sample| {
        for _ in 0..5 {
            cluster.observed(&ward.bench.member(name), sample, rt::now());
        }
    };
    let ejected = |name: &str| ward.bench.member(name).availability.has(Flag::EJECTED);
    for (sample, lifted) in [(Sample::Connect, true), (Sample::Local, false), (Sample::Gateway, false)] {
        feed("a", sample);
        assert!(ejected("a"), "{sample:?}");
        rt::sleep(Duration::from_millis(3_500)).await;
        assert_eq!(!ejected("a"), lifted, "{sample:?}");
        rt::sleep(seconds(400)).await;
        // The probe of probation.
        cluster.pardon();
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_the_same_of_the_same_address_asks_once() {
    let ward = Ward::new(&["a", "b"], vec![check()]).await;
    let mut other = ward.spec.clone();
    other.name = ServiceName::new("target").unwrap();
    let second = Cluster::new(
        &Arc::new(other.clone()),
        &ward.home,
        Arc::clone(&ward.dial),
        TaskSet::new(),
        &Registry::default(),
    );
    let endpoints = ["a", "b", "c"].map(|name| EndpointSpec::new(address(name)));
    second.apply(EndpointUpdate::Reset { endpoints: endpoints.into(), kind: SetKind::Replicas });
    ward.bench.settle().await;
    assert_eq!(ward.home.checks().len(), 3);
    assert_eq!(second.status().endpoints[0].health_checks[0].status, "healthy", "known before it was asked");
    ward.town.set("a", Answer::Http(500));
    let before = ward.town.asked("b");
    rt::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(ward.town.asked("b"), before + 1);
    let failed = |cluster: &Cluster| cluster.status().endpoints[0].health == ["health_check_failed"];
    assert!(failed(&ward.bench.cluster) && failed(&second));
    // Whoever came first may go first.
    ward.bench.cluster.close();
    assert_eq!(ward.home.checks().len(), 3);
    ward.town.set("a", Answer::Http(200));
    rt::sleep(seconds(7)).await;
    assert!(!failed(&second));
    second.close();
    assert_eq!(ward.home.checks().len(), 0);
    let before = ward.town.asked("b");
    rt::sleep(seconds(60)).await;
    assert_eq!(ward.town.asked("b"), before, "nobody wants to know");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_with_the_endpoint_when_the_check_changes() {
    let mut ward = Ward::new(&["a", "b"], vec![check()]).await;
    ward.town.set("a", Answer::Http(500));
    rt::sleep(seconds(4)).await;
    assert_eq!(ward.out(), ["a"]);
    ward.reload(|spec| spec.health_checks[0].interval = seconds(30));
    assert_eq!((ward.out(), ward.says("a").0), (vec!["a".to_owned()], "unhealthy"));
    ward.have(&["a", "b", "c"], SetKind::Replicas).await;
    assert_eq!(ward.out(), ["a"]);
    ward.reload(|spec| spec.health_checks.clear());
    assert!(ward.out().is_empty(), "without checks nobody fails them");
    ward.reload(|spec| spec.health_checks = vec![check()]);
    rt::sleep(seconds(1)).await;
    assert_eq!(ward.out(), ["a"]);
    ward.bench.cluster.apply(EndpointUpdate::Remove(vec![EndpointId::new("memory:a")]));
    ward.town.set("a", Answer::Http(200));
    ward.have(&["a", "b", "c"], SetKind::Replicas).await;
    assert!(ward.out().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_calls_endpoints_are_asked_less_often() {
    let mut idle = check();
    idle.no_traffic_interval = seconds(60);
    let ward = Ward::new(&["a", "b"], vec![idle]).await;
    assert_eq!(ward.town.asked("a"), 1);
    rt::sleep(seconds(59)).await;
    // The interval after it became healthy, and then nobody called.
    assert_eq!(ward.town.asked("a"), 2);
    ward.bench.cluster.attempts.record(crate::retry::AttemptKind::First, crate::classify::Outcome::Success);
    rt::sleep(seconds(5)).await;
    assert_eq!(ward.town.asked("a"), 3);
    rt::sleep(seconds(30)).await;
    assert_eq!(ward.town.asked("a"), 13);
    rt::sleep(seconds(80)).await;
    assert_eq!(ward.town.asked("a"), 23, "a minute without calls");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_may_have_to_show_itself_first() {
    let mut strict = check();
    strict.ignore_new_hosts_until_first_hc = true;
    let ward = Ward::new(&["a", "b"], vec![strict]).await;
    assert_eq!(ward.bench.picked(), ["a", "b"], "all are new: nobody waits");
    ward.town.set("c", Answer::Silence);
    ward.have(&["a", "b", "c"], SetKind::Replicas).await;
    assert_eq!(ward.out(), ["c"]);
    rt::sleep(seconds(2)).await;
    ward.town.set("c", Answer::Http(200));
    rt::sleep(seconds(3)).await;
    assert!(ward.out().is_empty());
    let ward = Ward::new(&["a", "b"], vec![check()]).await;
    ward.town.set("c", Answer::Silence);
    ward.have(&["a", "b", "c"], SetKind::Replicas).await;
    assert!(ward.out().is_empty(), "by default it is trusted");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_say_so_itself_in_answer_to_a_call() {
    let ward = Ward::new(&["a", "b"], vec![check()]).await;
    ward.bench.cluster.failed_by_its_word(&ward.bench.member("a"));
    assert_eq!(ward.out(), ["a"]);
    rt::sleep(seconds(4)).await;
    assert_eq!(ward.out(), ["a"]);
    rt::sleep(seconds(3)).await;
    assert!(ward.out().is_empty(), "two passes");
}

#[tokio::test(start_paused = true)]
async fn what_this_process_had_no_time_to_see_counts_for_nothing() {
    let mut strict = check();
    strict.unhealthy_threshold = 1;
    let ward = Ward::of(&["a", "b"], vec![strict], SetKind::Replicas, |town| town.set("a", Answer::Silence)).await;
    // The process stands still while it waits for an answer.
    tokio::time::advance(seconds(10)).await;
    ward.bench.settle().await;
    assert_eq!((ward.says("a").0, ward.out().len()), ("unknown", 0));
    rt::sleep(seconds(5)).await;
    assert_eq!(ward.out(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_of_our_own_that_is_refused_is_nobodys_fault() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut ward = Ward::of(&["a", "b"], vec![check()], SetKind::Replicas, |town| {
            town.set("a", Answer::RefuseUs);
        })
        .await;
        ward.reload(|spec| spec.protocol = protocol);
        rt::sleep(seconds(60)).await;
        assert_eq!(ward.says("a"), ("unknown", "it refused our certificate".into()), "{protocol:?}");
        assert!(!ward.out().contains(&"a".to_owned()), "{protocol:?}");
    }
}

/// As TLS with a peer that does not speak it.
struct NoTls;

impl Dial for NoTls {
    fn dial<'a>(
        &'a self,
        _address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async { Err(Error::new(Code::TlsFailed, "it does not speak TLS")) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_may_ask_in_plaintext_whatever_protects_calls() {
    let mut plain = check();
    plain.plaintext = true;
    let ward = Ward::new(&["a", "b"], vec![plain, check()]).await;
    ward.bench.cluster.update(&Arc::new(ward.spec.clone()), Some(Arc::new(NoTls)));
    rt::sleep(seconds(20)).await;
    let status = &ward.bench.cluster.status().endpoints[0].health_checks;
    assert_eq!(status.iter().map(|check| check.status).collect::<Vec<_>>(), ["healthy", "unhealthy"]);
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_or_not_as_the_check_says() {
    let mut fresh = check();
    fresh.reuse_connection = false;
    for (check, dials) in [(check(), 1), (fresh, 11)] {
        let ward = Ward::new(&["a", "b"], vec![check]).await;
        let for_calls = 1;
        rt::sleep(seconds(31)).await;
        assert_eq!((ward.town.asked("a"), ward.town.dials("a")), (11, dials + for_calls));
    }
}

#[tokio::test(start_paused = true)]
async fn all_of_several_checks_have_to_pass() {
    let mut tcp = HealthCheck::tcp();
    tcp.initial_jitter = Some(Duration::ZERO);
    tcp.unhealthy_threshold = 1;
    let crate::health::CheckKind::Tcp(greeting) = &mut tcp.kind else { panic!("not tcp") };
    greeting.receive = vec!["HTTP".parse().unwrap(), "hi".parse().unwrap()];
    greeting.send = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".parse().unwrap();
    let ward = Ward::new(&["a", "b", "c"], vec![check(), tcp]).await;
    let status = &ward.bench.cluster.status().endpoints[0].health_checks;
    assert_eq!(
        status.iter().map(|check| (check.kind, check.status)).collect::<Vec<_>>(),
        [("http", "healthy"), ("tcp", "healthy")]
    );
    ward.town.set("b", Answer::Says(b"-ERR\r\n"));
    rt::sleep(seconds(70)).await;
    assert_eq!(ward.out(), ["b"]);
    let last = &ward.bench.cluster.status().endpoints[1].health_checks[1].last;
    assert!(last.contains("closed the connection before"), "{last}");
}

fn grpc_check() -> HealthCheck {
    HealthCheck { kind: HealthCheck::grpc("x").kind, ..check() }
}

const SERVING: Answer = Answer::Grpc(Grpc { watch: Some(1), check: Some(1) });

async fn grpc_ward(answer: Answer) -> Ward {
    Ward::of(&["a", "b", "c"], vec![grpc_check()], SetKind::Replicas, |town| {
        for name in ["a", "b", "c"] {
            town.set(name, if name == "a" { answer } else { SERVING });
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_watches_itself_is_believed_as_it_speaks() {
    let ward = grpc_ward(SERVING).await;
    assert_eq!(ward.says("a").0, "healthy");
    ward.town.set("a", Answer::Grpc(Grpc { watch: Some(2), check: Some(2) }));
    ward.bench.settle().await;
    assert_eq!((ward.says("a").1.as_str(), ward.out()), ("it says NOT_SERVING", vec!["a".to_owned()]));
    ward.town.set("a", SERVING);
    ward.bench.settle().await;
    assert_eq!(ward.out(), ["a"], "two passes");
    rt::sleep(Duration::from_millis(3_100)).await;
    assert!(ward.out().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_without_watch_is_asked_and_one_without_either_passes() {
    let ward = grpc_ward(Answer::Grpc(Grpc { watch: None, check: Some(1) })).await;
    rt::sleep(seconds(7)).await;
    assert_eq!((ward.says("a").0, ward.town.asked("a")), ("healthy", 3));
    ward.town.set("a", Answer::Grpc(Grpc { watch: None, check: Some(3) }));
    rt::sleep(seconds(3)).await;
    assert_eq!((ward.says("a").1.as_str(), ward.out()), ("it says SERVICE_UNKNOWN", vec!["a".to_owned()]));
    let ward = grpc_ward(Answer::Grpc(Grpc { watch: None, check: None })).await;
    rt::sleep(seconds(7)).await;
    assert_eq!((ward.says("a").0, ward.out().len()), ("healthy", 0));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_server_that_falls_silent_is_noticed_though_its_stream_is_open() {
    let ward = grpc_ward(SERVING).await;
    ward.town.set("a", Answer::Silence);
    rt::sleep(seconds(13)).await;
    assert_eq!((ward.says("a").1.as_str(), ward.out()), ("no answer within 1s", vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_followed_by_a_question_but_not_by_many() {
    let ward = grpc_ward(SERVING).await;
    rt::sleep(seconds(4)).await;
    let dials = ward.town.dials("a");
    // Ends every stream at once.
    ward.town.set("a", Answer::Grpc(Grpc { watch: None, check: Some(1) }));
    rt::sleep(seconds(9)).await;
    assert_eq!((ward.says("a").0, ward.town.dials("a") - dials), ("healthy", 1));
}
