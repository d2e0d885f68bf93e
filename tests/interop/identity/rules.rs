//! Random rules and requests, decided by us and by those whose rules they are.
//!
//! Each policy is one that the other side reads; ours is what `sinew::import` makes of the same text. The same client sends
//! the same request to both, over mutual TLS, so both see the same bytes and the same certificate.

mod envoy;
mod grpc;

use std::{collections::BTreeMap, fmt::Write};

use axum::Router;
use sinew::{Client, authz::Policy};

use super::*;

/// How many policies, and how many requests meet each.
const POLICIES: usize = 100;
const REQUESTS: usize = 20;

/// Who calls.
const CALLERS: [&str; 3] = ["a", "b", "ab"];

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        // Knuth's constants; the upper half is the better one.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// From one up to so many.
    fn some<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let many = 1 + self.below(most);
        (0..many).map(|_| one(self)).collect()
    }
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    caller: &'static str,
    method: http::Method,
    /// With authority.
    uri: String,
    headers: Vec<(&'static str, &'static str)>,
}

impl Asked {
    /// Whether the answer is one of somebody who allows.
    async fn of(
        &self,
        client: &Client,
        policy: usize,
        allows: fn(&sinew::Body, &http::response::Parts) -> bool,
    ) -> bool {
        let mut request = client.request(self.method.clone(), &*self.uri).header("x-policy", policy.to_string());
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        let (parts, body) = request.timeout(Duration::from_secs(30)).send().await.unwrap().into_parts();
        allows(&body, &parts)
    }
}

/// Both sides, as services of meshes that call them.
struct Sides {
    callers: BTreeMap<&'static str, Mesh>,
    served: Vec<(Mesh, JoinHandle<Result<(), sinew::Error>>)>,
}

impl Sides {
    /// A server of ours for each policy, which is told its port, and the peer at this one.
    async fn start(world: &World, policy: impl Fn(usize, u16) -> Policy, app: Router, port: u16) -> Self {
        let mut ours = Vec::new();
        let mut served = Vec::new();
        for number in 0..POLICIES {
            // A policy may name the port that it is for.
            let (mesh, listener) = loop {
                let own = super::port();
                let mesh = world.builder("ours", &[]).authz(policy(number, own)).build().await.unwrap();
                match mesh.listen(format!("127.0.0.1:{own}")).await {
                    Ok(listener) => break (mesh, listener),
                    // Somebody else was faster.
                    Err(error) => assert_eq!(error.code(), sinew::Code::BindFailed, "{error}"),
                }
            };
            ours.push(listener.local_addr());
            let serve = listener.serve(app.clone()).with_graceful_shutdown(std::future::pending());
            served.push((mesh, tokio::spawn(serve.into_future())));
        }
        let mut callers = BTreeMap::new();
        for caller in CALLERS {
            let mut builder = world.builder(caller, &[]);
            let http2 = sinew::model::Protocol::Http2;
            for (number, addr) in ours.iter().enumerate() {
                builder = builder.service(&format!("ours-{number}"), |service| {
                    service.endpoints([addr.to_string()]).protocol(http2).identities([id("ours").parse().unwrap()])
                });
            }
            builder = builder.service("theirs", |service| {
                let endpoint = [format!("127.0.0.1:{port}")];
                service.endpoints(endpoint).protocol(http2).identities([id("theirs").parse().unwrap()])
            });
            callers.insert(caller, builder.build().await.unwrap());
        }
        Self { callers, served }
    }

    /// What both say to each of these, and how often that differs in a way that nobody has explained.
    async fn compare(
        &self,
        pairs: &[(usize, Asked)],
        texts: &[String],
        explained: &[(&str, fn(&str, &Asked) -> bool)],
        allows: fn(&sinew::Body, &http::response::Parts) -> bool,
    ) {
        let mut found = String::new();
        let (mut allowed, mut known, mut by_reason) = (0, 0, BTreeMap::new());
        for (policy, asked) in pairs {
            let mesh = &self.callers[asked.caller];
            let ours = asked.of(&mesh.client(&format!("ours-{policy}")), *policy, allows).await;
            let theirs = asked.of(&mesh.client("theirs"), *policy, allows).await;
            allowed += usize::from(theirs);
            if ours == theirs {
                continue;
            }
            let text = &texts[*policy];
            if let Some((why, _)) = explained.iter().find(|(_, explains)| explains(text, asked)) {
                known += 1;
                *by_reason.entry((*why, ours)).or_insert(0) += 1;
            } else {
                let _ = writeln!(found, "they {theirs}, we {ours}: {asked:?} under {text}");
            }
        }
        let pairs = pairs.len();
        println!("{pairs} pairs, {allowed} allowed, {known} differ as is explained, the rest agrees");
        by_reason.iter().for_each(|((why, ours), count)| println!("{count}: {why}, and we allow: {ours}"));
        assert!(found.is_empty(), "{found}");
        // Neither all nor nothing: they were asked about something.
        assert!(allowed > pairs / 10 && allowed < pairs * 9 / 10, "{allowed} of {pairs} are allowed");
        assert!(known < pairs / 10, "{known} of {pairs} differ");
    }

    async fn stop(self) {
        for mesh in self.callers.into_values().chain(self.served.into_iter().map(|(mesh, _)| mesh)) {
            mesh.shutdown(Duration::from_secs(5)).await;
        }
    }
}

/// As many requests of each policy, each another one.
fn pairs(mut asked: impl FnMut() -> Asked) -> Vec<(usize, Asked)> {
    let mut pairs = Vec::new();
    for policy in 0..POLICIES {
        while pairs.len() < (policy + 1) * REQUESTS {
            let pair = (policy, asked());
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}
