//! The loop around the engine, with answers from a script and paused time.

use std::{collections::BTreeMap, sync::Mutex};

use tokio_stream::StreamExt;

use super::{
    query::{BoxFuture, Found, Kind, Reply},
    *,
};

const SEC: Duration = Duration::from_secs(1);

/// Answers by name and kind; NXDOMAIN for the rest.
#[derive(Default)]
struct Script {
    replies: Mutex<BTreeMap<(String, Kind), Reply>>,
    asked: Mutex<Vec<(String, Kind)>>,
}

impl Script {
    fn set(&self, name: &str, kind: Kind, reply: Reply) {
        self.replies.lock().unwrap().insert((name.into(), kind), reply);
    }

    fn a(&self, name: &str, ips: &[&str], ttl: u32) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.set(name, Kind::A, Reply::Found(Found { ips, ttl: SEC * ttl, ..Found::default() }));
        self.set(name, Kind::Aaaa, Reply::Nothing { rcode: "NODATA", ttl: None });
    }

    fn count(&self, kind: Kind) -> usize {
        self.asked.lock().unwrap().iter().filter(|(_, asked)| *asked == kind).count()
    }
}

impl Lookup for Script {
    fn lookup<'a>(&'a self, name: &'a str, kind: Kind) -> BoxFuture<'a, Reply> {
        self.asked.lock().unwrap().push((name.into(), kind));
        let reply = self.replies.lock().unwrap().get(&(name.to_owned(), kind)).cloned();
        Box::pin(async move { reply.unwrap_or(Reply::Nothing { rcode: "NXDOMAIN", ttl: None }) })
    }
}

fn start(name: &str, port: Option<u16>, settings: DnsSettings) -> (Arc<Script>, Discovery) {
    let script = Arc::new(Script::default());
    let discovery = Dns::with_lookup(settings, script.clone()).subscribe(name, port);
    (script, discovery)
}

async fn ids(discovery: &mut Discovery) -> Vec<String> {
    match discovery.updates.next().await.unwrap().unwrap() {
        EndpointUpdate::Reset { endpoints, .. } => endpoints.iter().map(|spec| spec.id.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_seen_within_the_ttl_and_an_absent_one_goes_at_30_s() {
    let (script, mut dns) = start("reviews.", Some(80), DnsSettings::default());
    script.a("reviews.", &["10.0.0.1", "10.0.0.2"], 1);
    let begin = rt::now();
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:80", "10.0.0.2:80"]);
    script.a("reviews.", &["10.0.0.2", "10.0.0.3"], 1);
    assert_eq!(ids(&mut dns).await, ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"]);
    assert_eq!((rt::now() - begin).as_secs(), 5);
    assert_eq!(ids(&mut dns).await, ["10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!((rt::now() - begin).as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_bounded_to_one_round_per_second() {
    let (script, mut dns) = start("reviews.", Some(80), DnsSettings::default());
    script.a("reviews.", &["10.0.0.1"], 3600);
    ids(&mut dns).await;
    let refresh = dns.refresh.clone().unwrap();
    script.a("reviews.", &["10.0.0.9"], 3600);
    let begin = rt::now();
    for _ in 0..100 {
        refresh.refresh();
    }
    assert_eq!(ids(&mut dns).await, ["10.0.0.9:80", "10.0.0.1:80"]);
    assert_eq!(rt::now() - begin, SEC);
    assert_eq!(script.count(Kind::A), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_reported_once_per_change_of_state() {
    let (script, mut dns) = start("reviews.", Some(80), DnsSettings::default());
    let error = dns.updates.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("`reviews.`") && error.contains("NXDOMAIN") && error.contains("calls wait"), "{error}");
    assert!(rt::timeout(SEC * 120, dns.updates.next()).await.is_none(), "NXDOMAIN again is no news");
    script.a("reviews.", &["10.0.0.1"], 5);
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:80"]);
    script.set("reviews.", Kind::A, Reply::Failed("SERVFAIL from 10.96.0.10:53".into()));
    let error = dns.updates.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("SERVFAIL from 10.96.0.10:53") && error.contains("last good"), "{error}");
    assert!(rt::timeout(SEC * 600, dns.updates.next()).await.is_none(), "the last good set stays");
}

#[tokio::test(start_paused = true)]
async fn the_search_list_ends_at_the_first_name_that_exists_or_fails() {
    let settings = DnsSettings { search: vec!["ns.svc".into(), "svc".into()], ndots: 5, ..DnsSettings::default() };
    let (script, mut dns) = start("reviews", Some(80), settings.clone());
    script.a("reviews.svc.", &["10.0.0.1"], 5);
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:80"]);
    let asked: Vec<_> = script.asked.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(asked, ["reviews.ns.svc.", "reviews.ns.svc.", "reviews.svc.", "reviews.svc."]);
    let (script, mut dns) = start("reviews", Some(80), settings);
    script.a("reviews.svc.", &["10.0.0.66"], 5);
    script.set("reviews.ns.svc.", Kind::A, Reply::Failed("SERVFAIL".into()));
    assert!(dns.updates.next().await.unwrap().is_err(), "another service of that name does not stand in");
}

#[tokio::test(start_paused = true)]
async fn srv_targets_without_glue_are_looked_up() {
    let (script, mut dns) = start("_grpc._tcp.reviews.", None, DnsSettings::default());
    let target = |host: &str, port| engine::Target { priority: 0, host: host.into(), port, weight: 1 };
    let mut found = Found { targets: vec![target("a.", 81), target("b.", 82)], ttl: SEC * 5, ..Found::default() };
    found.glue.insert("a.".into(), vec![("10.0.0.1".parse().unwrap(), SEC * 5)]);
    script.set("_grpc._tcp.reviews.", Kind::Srv, Reply::Found(found));
    script.a("b.", &["10.0.0.2"], 5);
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:81", "10.0.0.2:82"]);
    assert_eq!(script.count(Kind::A), 1);
    // The targets are still followed while the SRV record cannot be had.
    script.set("_grpc._tcp.reviews.", Kind::Srv, Reply::Failed("SERVFAIL".into()));
    script.a("b.", &["10.0.0.3"], 5);
    script.a("a.", &["10.0.0.1"], 5);
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:81", "10.0.0.3:82", "10.0.0.2:82"]);
}

#[tokio::test]
async fn addresses_need_no_server_and_names_need_a_port() {
    let (_, mut dns) = start("127.0.0.1", Some(80), DnsSettings::default());
    assert_eq!(ids(&mut dns).await, ["127.0.0.1:80"]);
    let (_, mut dns) = start("::1", Some(80), DnsSettings::default());
    assert_eq!(ids(&mut dns).await, ["[::1]:80"]);
    let (_, mut dns) = start("reviews", None, DnsSettings::default());
    assert!(dns.updates.next().await.unwrap().unwrap_err().to_string().contains("needs a port"));
}
