//! The tasks that break something on purpose.

use std::{sync::PoisonError, time::Duration};

use sinew::ResponseExt;
use tokio::time::Instant;

use crate::{
    Result, reviews,
    system::System,
    tasks::{Check, all_pages, pages, sign_in},
    timer::let_deadlines_travel,
    topology::Routes,
};

const NO_REVIEWS: &str = "Sorry, product reviews are currently unavailable for this book.";
const NO_RATINGS: &str = "Ratings service is currently unavailable";

/// One page as a user sees it.
struct Visit {
    html: String,
    took: Duration,
}

impl Visit {
    /// The page was there between so many and so many milliseconds.
    fn within(&self, millis: std::ops::Range<u64>) -> bool {
        millis.contains(&(self.took.as_millis() as u64))
    }

    fn saw(&self) -> String {
        let what = if self.html.contains(NO_REVIEWS) {
            "no reviews"
        } else if self.html.contains(NO_RATINGS) {
            "reviews, no ratings"
        } else if self.html.contains("stars red") {
            "reviews with red stars"
        } else if self.html.contains("stars black") {
            "reviews with black stars"
        } else {
            "reviews without stars"
        };
        format!("{what} after {:.2} s", self.took.as_secs_f64())
    }
}

async fn visit(system: &System, user: &'static str) -> Result<Visit> {
    let page = system.load.client("productpage");
    let cookie = sign_in(&page, user).await?;
    let mut request = page.get("/productpage").timeout(Duration::from_secs(30));
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    let begun = Instant::now();
    let html = request.send().await?.error_for_status()?.text().await?;
    Ok(Visit { html, took: begun.elapsed() })
}

/// jason is reviewed by v2, whose stars come from `ratings`; everybody else by v1, without stars.
fn jason_on_v2() -> Routes {
    Routes::user_to("jason", "v2", Routes::all_to("v1"))
}

pub(crate) async fn delay(system: &mut System) -> Result<Vec<Check>> {
    let checks = delayed(system).await;
    let_deadlines_travel(false);
    system.route_ratings(Routes(Vec::new())).await?;
    checks
}

async fn delayed(system: &mut System) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    system.route_reviews(jason_on_v2()).await?;
    system.route_ratings(Routes::fault_for("jason", "{ delay: { fixed_delay: 7s, percentage: 100% } }")).await?;

    let (jason, other) = tokio::try_join!(visit(system, "jason"), visit(system, ""))?;
    checks.push(Check {
        must: "with 7 s in front of ratings the planted bug shows: reviews v2 would wait 10 s, the page gives up after 2 × 3 s; \
               everybody else notices nothing"
            .into(),
        measured: format!("jason: {}; others: {}", jason.saw(), other.saw()),
        holds: jason.html.contains(NO_REVIEWS)
            && jason.within(5_900..8_000)
            && other.within(0..2_500)
            && !other.html.contains("unavailable"),
    });

    let_deadlines_travel(true);
    let jason = visit(system, "jason").await?;
    let_deadlines_travel(false);
    // Had the answer of the first try been lost on a busy machine, the second would have brought it.
    checks.push(Check {
        must:
            "once deadlines travel, reviews knows of the 3 s that the page waits and answers in time, without ratings"
                .into(),
        measured: format!("jason: {}", jason.saw()),
        holds: jason.html.contains(NO_RATINGS) && !jason.html.contains(NO_REVIEWS) && jason.within(2_800..6_900),
    });

    system.route_reviews(Routes::all_to("v3")).await?;
    system.route_ratings(Routes::fault_for("jason", "{ delay: { fixed_delay: 2s } }")).await?;
    let jason = visit(system, "jason").await?;
    checks.push(Check {
        must:
            "reviews v3 waits 2.5 s only, which fits into the page's 3 s: with 2 s in front of ratings there are stars"
                .into(),
        measured: format!("jason: {}", jason.saw()),
        holds: jason.html.contains("stars red") && !jason.html.contains("unavailable") && jason.within(2_000..6_900),
    });
    Ok(checks)
}

pub(crate) async fn abort(system: &mut System) -> Result<Vec<Check>> {
    let checks = aborted(system).await;
    system.route_ratings(Routes(Vec::new())).await?;
    checks
}

async fn aborted(system: &mut System) -> Result<Vec<Check>> {
    system.route_reviews(jason_on_v2()).await?;
    system.route_ratings(Routes::fault_for("jason", "{ abort: { http_status: 500, percentage: 100% } }")).await?;
    let (jason, other) = tokio::try_join!(visit(system, "jason"), visit(system, ""))?;
    Ok(vec![Check {
        must: "with 500 in place of ratings jason's page is there at once and says so; everybody else notices nothing"
            .into(),
        measured: format!("jason: {}; others: {}", jason.saw(), other.saw()),
        holds: jason.html.contains(NO_RATINGS)
            && !jason.html.contains(NO_REVIEWS)
            && jason.within(0..2_500)
            && !other.html.contains("unavailable"),
    }])
}

pub(crate) async fn timeouts(system: &mut System) -> Result<Vec<Check>> {
    // As in the original, where nobody below learns how long the page waits.
    system.topology.ratings_inherit = false;
    let checks = timed(system).await;
    system.topology.ratings_inherit = true;
    system.route_ratings(Routes(Vec::new())).await?;
    checks
}

async fn timed(system: &mut System) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    system.route_reviews(Routes::all_to("v2")).await?;
    system.route_ratings(Routes::fault("{ delay: { fixed_delay: 2s } }")).await?;
    let page = visit(system, "").await?;
    checks.push(Check {
        must: "with 2 s in front of ratings the page takes 2 s and has stars".into(),
        measured: page.saw(),
        holds: page.html.contains("stars black") && !page.html.contains("unavailable") && page.within(2_000..6_900),
    });

    system.route_reviews(Routes::timed("v2", "500ms")).await?;
    let page = visit(system, "").await?;
    checks.push(Check {
        must: "with 0.5 s for reviews the page takes 1 s, since it tries twice, and has no reviews".into(),
        measured: page.saw(),
        holds: page.html.contains(NO_REVIEWS) && page.within(900..1_900),
    });

    system.topology.ratings_inherit = true;
    system.apply().await?;
    let page = visit(system, "").await?;
    checks.push(Check {
        must: "once calls to ratings inherit what is left of the 0.5 s, the page has reviews in half a second, without ratings"
            .into(),
        measured: page.saw(),
        holds: page.html.contains(NO_RATINGS) && !page.html.contains(NO_REVIEWS) && page.within(400..1_900),
    });
    Ok(checks)
}

pub(crate) async fn mirroring(system: &mut System, calls: usize) -> Result<Vec<Check>> {
    let copies = |version| {
        reviews::COPIES.lock().unwrap_or_else(PoisonError::into_inner).get(version).copied().unwrap_or_default()
    };
    let before = (copies("v1"), copies("v2"));
    system.route_reviews(Routes::mirrored("v1", "v2", calls)).await?;
    let measured = pages(system, "everybody to v1, copies to v2", calls, &[""]).await?;
    let mut checks =
        vec![all_pages("copies to v2 change nothing: v1 reviews every page, without stars", &measured, |page| {
            page.reviews == "v1" && page.stars == "no stars"
        })];
    // Nobody waits for copies, so the last ones may still be on their way.
    let deadline = Instant::now() + Duration::from_secs(15);
    while copies("v2") - before.1 < calls as u64 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (v1, v2) = (copies("v1") - before.0, copies("v2") - before.1);
    checks.push(Check {
        must: "v2 sees each of these requests as a copy for the host `reviews-shadow`, v1 sees none".into(),
        measured: format!("{v2} copies of {calls} requests at v2, {v1} at v1"),
        holds: v2 == calls as u64 && v1 == 0,
    });
    Ok(checks)
}
