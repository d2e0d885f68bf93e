//! What a decision costs: `cargo bench --bench authz`.
//!
//! One request against a thousand rules, its view included, by what the rules are filed under, beside `Instant::now()` of
//! the same run and with the allocations of the loop. `-- --test` decides briefly and checks the answers and the
//! allocations only; `--turns SHAPE N` decides N times and nothing else, for counting instructions
//! (tests/gates/instructions.rs, which builds this file by itself, so it takes the sources and not the crate).

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, clippy::disallowed_methods)]
#![allow(unused_qualifications, clippy::all, reason = "the sources are checked where they belong")]

#[path = "support/alloc.rs"]
mod alloc;
#[path = "support/nanos.rs"]
mod nanos;

#[path = "../src/authz"]
mod authz {
    #[path = "cel_off.rs"]
    mod cel;
    mod condition;
    mod engine;
    mod expr;
    mod external;
    mod index;
    mod path;
    mod policy;
    mod possible;
    mod prefix;
    mod text;

    pub(crate) use self::{
        cel::Cel,
        engine::{Authorizer, Baseline, Why},
        path::PathText,
        policy::{HostText, Operation, Policy, Rule, Source, When, WhenKey},
        text::Text,
    };
}

#[path = "../src/canon"]
mod canon {
    mod authority;
    mod view;

    pub(crate) use self::{
        authority::Authority,
        view::{HttpView, Principal, View},
    };

    /// Why an authority is none.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Ambiguous(&'static str);

    impl Ambiguous {
        const fn host(why: &'static str) -> Self {
            Self(why)
        }
    }
}

#[path = "../src/rt"]
mod rt {
    mod rng;
    pub(crate) use self::rng::Rng;
}

mod context {
    /// Nothing arrives here.
    pub(crate) struct Inbound {
        pub(crate) caller: crate::caller::Caller,
    }

    impl Inbound {
        pub(crate) fn of(_: &http::Extensions) -> Option<&Self> {
            None
        }
    }
}

#[path = "../src"]
mod sources {
    pub(crate) mod caller;
    pub(crate) mod enforcement;
    pub(crate) mod instrument;
    pub(crate) mod matching;
    pub(crate) mod name;
}

use std::{env, hint::black_box, time::Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use self::{
    authz::{Authorizer, Baseline, HostText, Operation, PathText, Policy, Rule, Source, Text, When, WhenKey},
    canon::{Authority, HttpView, View},
    nanos::nanos,
    sources::{caller, enforcement, instrument, instrument::Registry, matching, name},
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const RULES: u32 = 1_000;
const CALLER: &str = "spiffe://td.example/ns/n500/sa/web";
const PATH: &str = "/t/500/a/x";

/// The most that a decision may take, in nanoseconds.
const MOST: f64 = 1_000.0;

fn principal(id: &str) -> Source {
    Source::principals([id]).expect("a SPIFFE ID")
}

fn paths(path: &str) -> Operation {
    Operation { paths: vec![PathText::new(path).expect("a path")], ..Operation::default() }
}

/// How rules of one kind tell requests apart, and their rule number `n`, of which the request meets number 500.
const SHAPES: [(&str, fn(u32) -> Rule); 9] = [
    ("principal", |n| Rule::allow("r").from(principal(&format!("spiffe://td.example/ns/n{n}/sa/web")))),
    ("principal_prefix", |n| Rule::allow("r").from(principal(&format!("spiffe://td.example/ns/n{n}/*")))),
    ("namespace", |n| {
        let namespaces = vec![Text::exact(format!("n{n}"))];
        Rule::allow("r").from(Source { namespaces, ..Source::default() })
    }),
    ("path", |n| Rule::allow("r").from(principal(CALLER)).to(paths(&format!("/t/{n}/a/x")))),
    ("path_prefix", |n| Rule::allow("r").from(principal(CALLER)).to(paths(&format!("/t/{n}/*")))),
    ("template", |n| Rule::allow("r").to(paths(&format!("/t/{n}/{{*}}/x")))),
    ("host", |n| {
        let hosts = vec![HostText::new(&format!("h{n}.example")).expect("a host")];
        Rule::allow("r").to(Operation { hosts, ..Operation::default() })
    }),
    ("network", |n| {
        let ip_blocks = vec![format!("10.{}.{}.0/24", n / 256, n % 256).parse().expect("a network")];
        Rule::allow("r").from(Source { ip_blocks, ..Source::default() })
    }),
    ("mixed", |n| {
        // Half deny, and each asks for a header besides.
        let role = When::new(WhenKey::Header(HeaderName::from_static("x-role")), [Text::exact("user")]);
        let rule = if n % 2 == 0 { Rule::allow("r") } else { Rule::deny("r") };
        let from = principal(&format!("spiffe://td.example/ns/n{n}/*"));
        let mut to = paths(&format!("/t/{n}/*"));
        to.methods = vec![Method::GET, Method::POST];
        rule.from(from).to(to).when(role)
    }),
];

fn policy(shape: &str) -> Policy {
    let (_, rule) = SHAPES.iter().find(|(name, _)| *name == shape).expect("a shape");
    Policy::new((0..RULES).map(|n| Rule { name: format!("rule {n}").into(), ..rule(n) }))
}

struct Request {
    headers: HeaderMap,
    method: Method,
}

impl Request {
    fn new() -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-role", "user"), ("accept", "*/*"), ("traceparent", "00-1-1-00")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Self { headers, method: Method::GET }
    }

    fn view(&self) -> View<'_> {
        View {
            principal: Some(black_box(CALLER)),
            in_process: false,
            peer: Some([10, 1, 244, 7].into()),
            client: Some([10, 1, 244, 7].into()),
            token: None,
            api_key: None,
            local: Some(([127, 0, 0, 1], 9080).into()),
            server_name: None,
            http: Some(HttpView {
                authority: Authority::parse(black_box("h500.example"), None).ok(),
                method: &self.method,
                path: Some(black_box(PATH)),
                target: Some(PATH),
                headers: &self.headers,
            }),
            draw: 0,
        }
    }
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let request = Request::new();
    if let Some(at) = args.iter().position(|arg| arg == "--turns") {
        let authorizer = Authorizer::new(&[&policy(&args[at + 1])], &Registry::default());
        for _ in 0..args[at + 2].parse().expect("a number of turns") {
            assert!(black_box(authorizer.decide(&request.view(), &Baseline::Nobody)).allowed);
        }
        return;
    }
    let test = args.iter().any(|arg| arg == "--test");
    let (runs, turns) = if test { (1, 1_000) } else { (15, 100_000) };
    let clock = nanos(runs, turns, || {
        black_box(Instant::now());
    });
    println!(
        "Instant::now() {clock:.1} ns; a decision among {RULES} rules in ns, the fastest of {runs} runs of {turns}"
    );
    println!("{:<18} {:>8} {:>8} {:>12}", "filed under", "ns", "ratio", "allocations");
    let mut missed = Vec::new();
    for (shape, _) in SHAPES {
        let authorizer = Authorizer::new(&[&policy(shape)], &Registry::default());
        let decide = || assert!(black_box(authorizer.decide(&request.view(), &Baseline::Nobody)).allowed, "{shape}");
        decide();
        alloc::count(true);
        let before = alloc::thread();
        (0..1_000).for_each(|_| decide());
        let allocations = (alloc::thread() - before).allocations;
        alloc::count(false);
        let ns = nanos(runs, turns, decide);
        println!("{shape:<18} {ns:>8.1} {:>8.2} {allocations:>12}", ns / clock);
        if allocations > 0 {
            missed.push(format!("{shape}: allocates"));
        }
        if !test && ns > MOST {
            missed.push(format!("{shape}: {ns:.0} ns, at most {MOST:.0}"));
        }
    }
    if !missed.is_empty() {
        eprintln!("{}", missed.join("\n"));
        std::process::exit(1);
    }
}
