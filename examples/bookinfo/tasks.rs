//! The tasks: each changes the configuration file, calls, and compares what came back with what must come back.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    sync::atomic::Ordering::Relaxed,
};

use sinew::{Client, ResponseExt};

use crate::{
    FAILED_CALLS, Result, bad_instance_task, breaking_task, failover_task, fault_tasks,
    load::{self, Bar},
    security_tasks,
    stats::binomial_band,
    system::System,
    token_task,
    topology::Routes,
};

/// How many calls at a time.
const WIDTH: usize = 16;

/// One thing that must hold.
pub(crate) struct Check {
    pub(crate) must: String,
    pub(crate) measured: String,
    pub(crate) holds: bool,
}

/// Runs all tasks, prints each, and returns how many passed and failed.
pub(crate) async fn run_all(system: &mut System, calls: usize) -> (usize, usize) {
    let (mut passed, mut failed) = (0, Vec::new());
    let mut note = |title: &'static str, checks: Result<Vec<Check>>| {
        if print(title, checks) {
            passed += 1;
        } else {
            failed.push(title);
        }
    };
    note("Request routing", request_routing(system, calls / 5).await);
    note("Traffic shifting", traffic_shifting(system, calls).await);
    note("Delay fault", fault_tasks::delay(system).await);
    note("Abort fault", fault_tasks::abort(system).await);
    note("Request timeouts", fault_tasks::timeouts(system).await);
    note("Circuit breaking", breaking_task::circuit_breaking().await);
    note("An instance goes bad", bad_instance_task::goes_bad().await);
    note("Mirroring", fault_tasks::mirroring(system, calls / 5).await);
    note("Locality failover", failover_task::locality_failover().await);
    note("Mutual TLS migration", security_tasks::migration(system, calls / 50).await);
    note("Authorization for HTTP traffic", security_tasks::authorization(system).await);
    note("JWT authentication", token_task::authentication(system).await);
    note("Rolling restart", rolling_restart(system).await);
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    println!("\n{passed} tasks passed, {} failed", failed.len());
    (passed, failed.len())
}

fn print(title: &str, checks: Result<Vec<Check>>) -> bool {
    let checks = checks.unwrap_or_else(|error| {
        vec![Check { must: "the task can be run".into(), measured: error.to_string(), holds: false }]
    });
    let passed = checks.iter().all(|check| check.holds);
    println!("\n{} {title}", mark(passed));
    for check in checks {
        println!("  {} {}\n      {}", mark(check.holds), check.must, check.measured);
    }
    passed
}

fn mark(holds: bool) -> &'static str {
    match (holds, stdout().is_terminal()) {
        (true, true) => "\x1b[32m✓\x1b[0m",
        (false, true) => "\x1b[31m✗\x1b[0m",
        (true, false) => "✓",
        (false, false) => "✗",
    }
}

/// What a page shows of the versions behind it.
pub(crate) struct Page {
    pub(crate) user: &'static str,
    pub(crate) reviews: String,
    pub(crate) stars: &'static str,
}

/// Signs in as a browser would, and returns the cookie. Nobody is the empty name.
pub(crate) async fn sign_in(page: &Client, user: &'static str) -> Result<String> {
    if user.is_empty() {
        return Ok(String::new());
    }
    let form = page.post("/login").header("content-type", "application/x-www-form-urlencoded");
    let response = form.body(format!("username={user}")).send().await?;
    let cookie = response.headers().get("set-cookie").ok_or("no cookie was set")?;
    Ok(cookie.to_str()?.split(';').next().unwrap_or_default().to_owned())
}

async fn fetch(page: &Client, user: &'static str, cookie: &str) -> Result<Page> {
    let mut request = page.get("/productpage");
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    let html = request.send().await?.error_for_status()?.text().await?;
    if html.contains("currently unavailable") {
        return Err("the page says that something is currently unavailable".into());
    }
    let (_, pod) = html.split_once("id=reviews>reviews-").ok_or("the page does not say who reviewed")?;
    let reviews = pod.split('-').next().unwrap_or_default().to_owned();
    let stars = match (html.contains("stars black"), html.contains("stars red")) {
        (true, false) => "black stars",
        (false, true) => "red stars",
        (false, false) => "no stars",
        (true, true) => "stars of two colours",
    };
    Ok(Page { user, reviews, stars })
}

/// Pages by several users at once, and how each kind of page was answered.
pub(crate) async fn pages(
    system: &System,
    title: &str,
    calls: usize,
    users: &[&'static str],
) -> Result<load::Measured<Result<Page>>> {
    let page = system.load.client("productpage");
    let mut sessions = Vec::new();
    for user in users {
        sessions.push((*user, sign_in(&page, user).await?));
    }
    let call = move |index: usize| {
        let (page, (user, cookie)) = (page.clone(), sessions[index % sessions.len()].clone());
        async move { fetch(&page, user, &cookie).await }
    };
    load::run(title, calls, WIDTH, call).await
}

const USERS: [&str; 4] = ["", "jason", "Jason", "jason2"];

async fn request_routing(system: &mut System, calls: usize) -> Result<Vec<Check>> {
    let mut checks = Vec::new();

    system.route_reviews(Routes::all_to("v1")).await?;
    let measured = pages(system, "everybody to v1", calls / 2, &USERS).await?;
    checks.push(all_pages("everybody goes to reviews v1: no page has stars", &measured, |page| {
        page.reviews == "v1" && page.stars == "no stars"
    }));

    system.route_reviews(Routes::user_to("jason", "v2", Routes::all_to("v1"))).await?;
    let measured = pages(system, "jason to v2", calls, &USERS).await?;
    checks.push(all_pages(
        "the user jason goes to reviews v2 and sees black stars; nobody, Jason and jason2 stay on v1",
        &measured,
        |page| match page.user {
            "jason" => page.reviews == "v2" && page.stars == "black stars",
            _ => page.reviews == "v1" && page.stars == "no stars",
        },
    ));
    Ok(checks)
}

pub(crate) fn all_pages(must: &str, measured: &load::Measured<Result<Page>>, right: impl Fn(&Page) -> bool) -> Check {
    let good = measured.count(|page| page.as_ref().is_ok_and(&right));
    let all = measured.answers.len() as u64;
    let mut seen = BTreeMap::new();
    for page in &measured.answers {
        let what = match page {
            Ok(page) => format!("{} {}", page.reviews, page.stars),
            Err(error) => format!("failed: {error}"),
        };
        *seen.entry(what).or_insert(0) += 1;
    }
    let seen: Vec<_> = seen.iter().map(|(what, count)| format!("{count} × {what}")).collect();
    Check {
        must: must.into(),
        measured: format!("{good} of {all} pages as they must be ({}); {}", seen.join(", "), measured.speed()),
        holds: good == all,
    }
}

async fn traffic_shifting(system: &mut System, calls: usize) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (v1, v3) in [(50, 50), (90, 10), (80, 20)] {
        system.route_reviews(Routes::split(&[("v1", v1), ("v3", v3)])).await?;
        let page = system.load.client("productpage");
        let call = move |_| {
            let page = page.clone();
            async move { reviewed_by(&page).await }
        };
        let measured = load::run(&format!("{v1}/{v3}"), calls, WIDTH, call).await?;
        let count = |version: &str| measured.count(|answer| answer.as_ref().is_ok_and(|seen| seen == version));
        let (to_v1, to_v3) = (count("v1"), count("v3"));
        let band = binomial_band(calls as u64, f64::from(v3) / 100.0);
        checks.push(Check {
            must: format!(
                "a split of {v1}/{v3} over {calls} calls sends {} to {} of them to v3, the band of 99.9 % of fair splits",
                band.start(),
                band.end()
            ),
            measured: format!(
                "{to_v1} to v1, {to_v3} to v3, {} elsewhere or failed; {}",
                calls as u64 - to_v1 - to_v3,
                measured.speed()
            ),
            holds: to_v1 + to_v3 == calls as u64 && band.contains(&to_v3),
        });
    }
    Ok(checks)
}

/// Which version reviewed, by the JSON that the page is made of. v1 must come without stars and v3 with red ones.
async fn reviewed_by(page: &Client) -> Result<String> {
    let response = page.get("/api/v1/products/0/reviews").send().await?.error_for_status()?;
    let reviews: serde_json::Value = response.json().await?;
    let pod = reviews["podname"].as_str().ok_or("no podname")?;
    let version = pod.split('-').nth(1).ok_or("no version in the podname")?;
    let color = reviews["reviews"][0]["rating"]["color"].as_str();
    let expected = match version {
        "v1" => None,
        "v2" => Some("black"),
        _ => Some("red"),
    };
    if color != expected {
        return Err(format!("{version} answered with stars of {color:?}").into());
    }
    Ok(version.to_owned())
}

async fn rolling_restart(system: &mut System) -> Result<Vec<Check>> {
    // All versions of reviews take part.
    system.route_reviews(Routes::user_to("jason", "v2", Routes::split(&[("v1", 50), ("v3", 50)]))).await?;
    let page = system.load.client("productpage");
    let call = move |index: usize| {
        let page = page.clone();
        let (user, cookie) = if index.is_multiple_of(3) { ("jason", "session=jason") } else { ("", "") };
        async move { fetch(&page, user, cookie).await }
    };
    let before = FAILED_CALLS.load(Relaxed);
    let load = load::Running::start(WIDTH, call);
    let bar = Bar::new("while every instance restarts", None);
    let mut restarted = Ok(());
    for index in 0..system.instances.len() {
        let step = system.restart(index);
        let mut step = std::pin::pin!(step);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        restarted = loop {
            tokio::select! {
                biased;
                result = &mut step => break result,
                _ = tick.tick() => bar.draw(load.made()),
            }
        };
        if restarted.is_err() {
            break;
        }
    }
    drop(bar);
    let measured = load.stop().await?;
    restarted?;
    let failed = measured.count(Result::is_err);
    // A page tries its reviews twice, so it may be whole although a call has failed.
    let failed_calls = FAILED_CALLS.load(Relaxed) - before;
    let mut measures = format!(
        "{failed} of {} pages failed, and {failed_calls} calls between services, while {} instances restarted; {}",
        measured.answers.len(),
        system.instances.len(),
        measured.speed()
    );
    if let Some(Err(error)) = measured.answers.iter().find(|answer| answer.is_err()) {
        measures.push_str(&format!("; the first by: {error}"));
    }
    Ok(vec![Check {
        must: "every instance restarts under load, and nothing fails".into(),
        measured: measures,
        holds: failed == 0 && failed_calls == 0 && !measured.answers.is_empty(),
    }])
}
