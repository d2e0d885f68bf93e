//! The tasks about who is calling: plaintext during a migration and after it, and who may call whom.

use sinew::ResponseExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Result,
    system::System,
    tasks::{Check, pages},
    topology::Access,
};

/// Istio's task "mutual TLS migration": callers without an identity are served until the last of them has one.
pub(crate) async fn migration(system: &mut System, calls: usize) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    system.secure("permissive", None).await?;
    let outside = plaintext(system).await?;
    checks.push(Check {
        must: "permissive: a caller without an identity gets the page".into(),
        holds: outside.starts_with("HTTP/1.1 200"),
        measured: first_line(&outside),
    });
    system.secure("strict", None).await?;
    let outside = plaintext(system).await?;
    checks.push(Check {
        must: "strict: a caller without an identity is told why, and what to do".into(),
        holds: outside.starts_with("HTTP/1.1 400")
            && outside.contains("SINEW-E014")
            && outside.contains("mtls: permissive"),
        measured: format!("{}: {}", first_line(&outside), outside.lines().last().unwrap_or_default()),
    });
    let measured = pages(system, "members under strict mutual TLS", calls, &["", "jason"]).await?;
    let failed = measured.count(Result::is_err);
    checks.push(Check {
        must: "strict: every page for members of the mesh is whole".into(),
        holds: failed == 0 && measured.answers.len() == calls,
        measured: format!("{failed} of {calls} pages failed"),
    });
    system.secure("permissive", None).await?;
    Ok(checks)
}

/// Istio's task "authorization for HTTP traffic": nobody may do anything, then one call after the other is allowed.
pub(crate) async fn authorization(system: &mut System) -> Result<Vec<Check>> {
    const DETAILS: &str = "product details are currently unavailable";
    const REVIEWS: &str = "product reviews are currently unavailable";
    const RATINGS: &str = "Ratings service is currently unavailable";
    let mut checks = Vec::new();
    let mut step = |must: &str, (status, html): (u16, String), wanted: u16, shown: &[&str], hidden: &[&str]| {
        let holds = status == wanted
            && shown.iter().all(|text| html.contains(text))
            && !hidden.iter().any(|text| html.contains(text));
        let complaints: Vec<_> = [DETAILS, REVIEWS, RATINGS].into_iter().filter(|text| html.contains(text)).collect();
        checks.push(Check { must: must.into(), measured: format!("{status}, complaints: {complaints:?}"), holds });
    };
    let mut access = Access::default();
    system.route_reviews(crate::topology::Routes::all_to("v3")).await?;
    system.secure("permissive", Some(access.clone())).await?;
    step("nobody may do anything: the page is denied", page(system).await?, 403, &[], &[]);
    access.allow("viewer", None, "productpage");
    system.secure("permissive", Some(access.clone())).await?;
    step(
        "everybody may see the page: without details, without reviews",
        page(system).await?,
        200,
        &[DETAILS, REVIEWS],
        &[],
    );
    access.allow("details", Some("productpage"), "details");
    system.secure("permissive", Some(access.clone())).await?;
    step("productpage may ask for details: without reviews", page(system).await?, 200, &[REVIEWS], &[DETAILS]);
    access.allow("reviews", Some("productpage"), "reviews");
    system.secure("permissive", Some(access.clone())).await?;
    step("productpage may ask for reviews: without ratings", page(system).await?, 200, &[RATINGS], &[DETAILS, REVIEWS]);
    access.allow("ratings", Some("reviews"), "ratings");
    system.secure("permissive", Some(access.clone())).await?;
    step(
        "reviews may ask for ratings: the page is whole",
        page(system).await?,
        200,
        &["stars red"],
        &[DETAILS, REVIEWS, RATINGS],
    );
    system.secure("permissive", None).await?;
    Ok(checks)
}

async fn page(system: &System) -> Result<(u16, String)> {
    let response = system.load.client("productpage").get("/productpage").send().await?;
    let status = response.status().as_u16();
    Ok((status, response.text().await?))
}

/// What a caller sees that is not of the mesh.
async fn plaintext(system: &System) -> Result<String> {
    let page = system.instances.iter().find(|instance| instance.service == "productpage");
    let addr = page.ok_or("there is no productpage")?.addr;
    let mut io = tokio::net::TcpStream::connect(addr).await?;
    io.write_all(b"GET /productpage HTTP/1.1\r\nhost: bookinfo.example\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    io.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn first_line(answer: &str) -> String {
    answer.lines().next().unwrap_or_default().to_owned()
}
