//! Policies on requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;

use super::*;
use crate::{
    enforcement::{Mode, Percent},
    error::{Code, Error},
    peer::{Peer, PeerAddr},
    rt::{self, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

fn fleet() -> Arc<Fleet> {
    shared_by(&Arc::new(AtomicU32::new(1)))
}

fn shared_by(members: &Arc<AtomicU32>) -> Arc<Fleet> {
    let registry = crate::instrument::Registry::default();
    Fleet::new(&registry, Arc::clone(members), |_| unreachable!("nothing is counted elsewhere"))
}

fn tokens(max: u32) -> BucketPolicy {
    BucketPolicy::new(max, 1, SECOND).unwrap()
}

fn limiter(policy: RateLimitPolicy) -> (Arc<RateLimiter>, Instant) {
    (RateLimiter::new(policy).unwrap(), rt::now())
}

fn request(headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::get("/a?b=c");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn header(name: &'static str) -> KeySource {
    KeySource::Header(name.parse().unwrap())
}

/// How many of `n` such requests pass.
fn passed(limiter: &RateLimiter, request: &Request<()>, now: Instant, n: usize) -> usize {
    (0..n).filter(|_| limiter.check(&Subject::of(request), now).is_ok()).count()
}

fn from(address: &str) -> Peer {
    let local: SocketAddr = "127.0.0.1:1".parse().unwrap();
    Peer::new(PeerAddr::Tcp(address.parse().unwrap()), PeerAddr::Tcp(local))
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let (limiter, now) = limiter(RateLimitPolicy::new(tokens(1)));
    assert_eq!(passed(&limiter, &request(&[]), now, 1), 1);
    let error: Error = limiter.check(&Subject::of(&request(&[])), now).unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Code::RateLimited, Some(SECOND)));
    assert!(error.never_processed() && error.headers().is_none());
}

#[test]
fn each_value_of_a_key_has_its_own_limit_and_those_without_share_one() {
    let (limiter, now) = limiter(RateLimitPolicy::new(tokens(3)).key(header("x-tenant")).key(KeySource::Method));
    for tenant in ["a", "b"] {
        assert_eq!(passed(&limiter, &request(&[("x-tenant", tenant)]), now, 10), 3);
    }
    assert_eq!(passed(&limiter, &request(&[]), now, 2), 2);
    assert_eq!(passed(&limiter, &request(&[("x-other", "c")]), now, 10), 1);
    let mut post = request(&[("x-tenant", "a")]);
    *post.method_mut() = http::Method::POST;
    assert_eq!(passed(&limiter, &post, now, 10), 3);
}

#[test]
fn a_caller_with_many_addresses_is_one_caller() {
    let (limiter, now) = limiter(RateLimitPolicy::new(tokens(2)).key(KeySource::RemoteAddress));
    let request = request(&[]);
    let pass = |address: &str| limiter.check(&Subject::of(&request).from_peer(&from(address)), now).is_ok();
    assert!(pass("[2001:db8::1]:1000") && pass("[2001:db8::ffff:1]:2000") && !pass("[2001:db8::2]:1"));
    assert!(pass("[2001:db8:0:1::1]:1000"));
    assert!(pass("10.0.0.1:1") && pass("[::ffff:10.0.0.1]:2") && !pass("10.0.0.1:3"));
}

#[test]
fn the_case_of_a_host_is_no_way_around() {
    let (limiter, now) = limiter(RateLimitPolicy::new(tokens(2)).key(KeySource::Host));
    let passed: Vec<_> = ["shop.example", "SHOP.example:443", "Shop.Example"]
        .iter()
        .map(|host| limiter.check(&Subject::of(&request(&[("host", host)])), now).is_ok())
        .collect();
    assert_eq!(passed, [true, true, false]);
}

#[test]
fn the_first_descriptor_that_matches_wholly_is_used() {
    let policy = RateLimitPolicy::new(tokens(100))
        .descriptor([(header("x-plan"), Some("gold")), (KeySource::Path, Some("/b"))], tokens(50))
        .descriptor([(header("x-plan"), Some("gold"))], tokens(5))
        .descriptor([(header("x-plan"), None)], tokens(2));
    let (limiter, now) = limiter(policy);
    assert_eq!(passed(&limiter, &request(&[("x-plan", "gold")]), now, 20), 5);
    // A wildcard has a limit for each value.
    assert_eq!(passed(&limiter, &request(&[("x-plan", "tin")]), now, 20), 2);
    assert_eq!(passed(&limiter, &request(&[("x-plan", "lead")]), now, 20), 2);
    // What was let in above also took from the default.
    assert_eq!(passed(&limiter, &request(&[]), now, 200), 100 - 9);
    assert_eq!(passed(&limiter, &request(&[("x-plan", "iron")]), now, 20), 0);
}

#[test]
fn the_default_is_spared_where_the_policy_says_so() {
    let mut policy = RateLimitPolicy::new(tokens(1)).descriptor([(KeySource::Path, Some("/a"))], tokens(3));
    policy.always_consume_default_token_bucket = false;
    let (limiter, now) = limiter(policy);
    assert_eq!(passed(&limiter, &request(&[]), now, 9), 3);
}

#[test]
fn what_the_default_refuses_costs_its_descriptor_nothing() {
    let policy = RateLimitPolicy::new(tokens(2)).descriptor([(KeySource::Path, Some("/a"))], tokens(3));
    let (limiter, now) = limiter(policy);
    assert_eq!(passed(&limiter, &request(&[]), now, 9), 2);
    assert_eq!(passed(&limiter, &request(&[]), now + SECOND, 9), 1);
}

#[test]
fn a_function_of_the_application_makes_keys() {
    let tenant = KeyFn::new("tenant", |subject| subject.path().split('/').nth(1).map(str::to_owned));
    let (limiter, now) = limiter(RateLimitPolicy::new(tokens(1)).key(KeySource::Custom(tenant)));
    let to = |path: &str| Request::get(path).body(()).unwrap();
    assert_eq!(passed(&limiter, &to("/x/1"), now, 1), 1);
    assert_eq!(passed(&limiter, &to("/x/2"), now, 1), 0);
    assert_eq!(passed(&limiter, &to("/y/1"), now, 1), 1);
}

#[test]
fn shadow_and_a_share_count_everything_and_refuse_less() {
    let shadow = RateLimitPolicy::new(tokens(1)).mode(Mode::Shadow);
    let now = rt::now();
    let (shadow, _) = limiter(shadow);
    assert_eq!(passed(&shadow, &request(&[]), now, 50), 50);
    let off = RateLimitPolicy::default().mode(Mode::Off);
    assert_eq!(passed(&limiter(off).0, &request(&[]), now, 50), 50);
    rt::Rng::seed_local(1);
    let half = RateLimitPolicy::new(tokens(1)).percentage(Percent::new(50.0).unwrap());
    let passed = passed(&limiter(half).0, &request(&[]), now, 10_000);
    assert!((4_800..5_200).contains(&passed), "{passed}");
}

#[test]
fn a_reload_keeps_what_was_taken() {
    let policy = |max| {
        RateLimitPolicy::new(tokens(max)).key(header("x-tenant")).descriptor([(KeySource::Path, Some("/b"))], tokens(9))
    };
    let (first, now) = limiter(policy(10));
    assert_eq!(passed(&first, &request(&[("x-tenant", "a")]), now, 6), 6);
    let second = RateLimiter::make(policy(8), Some(&first), Series::default(), &fleet(), now);
    assert_eq!(passed(&second, &request(&[("x-tenant", "a")]), now, 20), 2);
    assert_eq!(passed(&second, &request(&[("x-tenant", "b")]), now, 20), 8);
    // Calls that still hold the first one count together with the others.
    assert_eq!(passed(&first, &request(&[("x-tenant", "b")]), now, 20), 0);
    let other_keys = RateLimitPolicy::new(tokens(8)).key(KeySource::Path);
    let third = RateLimiter::make(other_keys, Some(&second), Series::default(), &fleet(), now);
    assert_eq!(passed(&third, &request(&[]), now, 20), 8);
}

#[test]
fn what_limits_nothing_is_refused() {
    let check = |policy: RateLimitPolicy| policy.check().map_err(|(path, _)| path);
    assert_eq!(check(RateLimitPolicy::default()), Err(String::new()));
    assert_eq!(check(RateLimitPolicy::default().mode(Mode::Off)), Ok(()));
    let empty = RateLimitPolicy::default().descriptor([], tokens(1));
    assert_eq!(check(empty), Err("descriptors[0].entries".into()));
    assert!(BucketPolicy::new(0, 1, SECOND).is_err() && BucketPolicy::new(1, 1, Duration::ZERO).is_err());
    assert!(BucketPolicy::new(1_000_000, 1, SECOND * 3600).is_err());
    assert!(QuotaPolicy::new(1, Duration::from_millis(999)).is_err());
}

#[test]
fn a_limit_is_divided_among_the_members_and_what_was_taken_stays_taken() {
    let members = Arc::new(AtomicU32::new(3));
    let (fleet, now) = (shared_by(&members), rt::now());
    let quota = QuotaPolicy::new(100, SECOND * 3600).unwrap();
    let policy = RateLimitPolicy::new(quota)
        .descriptor([(header("x-tenant"), None)], tokens(30))
        .share_with(ShareWith::LocalCluster);
    let limiter = RateLimiter::make(policy.clone(), None, Series::default(), &fleet, now);
    let of = |tenant: &str| request(&[("x-tenant", tenant)]);
    assert_eq!(passed(&limiter, &of("a"), now, 99), 10);
    // A third of 100 is 33, of which 10 are gone.
    assert_eq!(passed(&limiter, &request(&[]), now, 99), 23);
    members.store(2, Relaxed);
    assert_eq!(passed(&limiter, &request(&[]), now, 99), 17);
    members.store(1, Relaxed);
    // The share of a third is used up, not the whole.
    assert_eq!(passed(&limiter, &of("a"), now, 99), 20);
    assert_eq!(passed(&limiter, &of("b"), now, 99), 30);
    // Whoever still holds the one before divides no more.
    let next = RateLimiter::make(policy, Some(&limiter), Series::default(), &fleet, now);
    members.store(100, Relaxed);
    assert_eq!(passed(&next, &of("c"), now, 99), 0, "one of the hundred that the quota lets pass was taken long ago");
    assert_eq!(limiter.policy(), next.policy());
}
