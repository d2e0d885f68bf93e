//! Istio's task "JWT authentication": a token that is there has to verify; then one has to be there; then a claim decides.

use std::time::{Duration, SystemTime};

use sinew::ResponseExt;

use crate::{
    Result,
    system::System,
    tasks::Check,
    tokens::{ISSUER, Issuer},
    topology::{Access, Routes},
};

pub(crate) async fn authentication(system: &mut System) -> Result<Vec<Check>> {
    let checks = steps(system).await;
    system.topology.tokens = None;
    system.secure("permissive", None).await?;
    checks
}

async fn steps(system: &mut System) -> Result<Vec<Check>> {
    let (issuer, other) = (Issuer::new()?, Issuer::new()?);
    let now = SystemTime::now();
    let valid = issuer.token("jason", &[], now)?;
    let of_group1 = issuer.token("jason", &["group2", "group1"], now)?;
    let expired = issuer.token("jason", &["group1"], now - Duration::from_secs(7_200))?;
    let forged = other.token("jason", &["group1"], now)?;

    let mut checks = Vec::new();
    let mut step = |must: &str, answers: Vec<Answer>, wanted: &[(u16, &str)]| {
        let holds = answers.iter().zip(wanted).all(|(answer, (status, why))| answer.is(*status, why));
        let measured: Vec<_> = answers.iter().map(Answer::short).collect();
        checks.push(Check { must: must.into(), measured: measured.join("; "), holds });
    };
    system.topology.tokens = Some((ISSUER, issuer.key_set()?));
    system.route_reviews(Routes::all_to("v1")).await?;
    step(
        "a token that is there has to verify; without one the page is there as before",
        vec![ask(system, Some(&valid)).await?, ask(system, None).await?],
        &[(200, ""), (200, "")],
    );
    step(
        "one that is none, one signed by somebody else and one whose hour is over are refused, each with its reason",
        vec![
            ask(system, Some("invalid.token")).await?,
            ask(system, Some(&forged)).await?,
            ask(system, Some(&expired)).await?,
        ],
        &[(401, "malformed"), (401, "signature"), (401, "expired")],
    );

    system.secure("permissive", Some(access(""))).await?;
    step(
        "once the page asks for a token: denied without, there with any that verifies",
        vec![ask(system, None).await?, ask(system, Some(&valid)).await?],
        &[(403, "SINEW-E051"), (200, "")],
    );

    system.secure("permissive", Some(access("groups: group1"))).await?;
    step(
        "once it asks for group1: denied without a token and with one that does not name it, there with one that does",
        vec![ask(system, None).await?, ask(system, Some(&valid)).await?, ask(system, Some(&of_group1)).await?],
        &[(403, "SINEW-E051"), (403, "SINEW-E051"), (200, "")],
    );
    step("expired, that one is refused as well", vec![ask(system, Some(&expired)).await?], &[(401, "expired")]);
    Ok(checks)
}

/// The page for tokens with these claims; members may go on asking each other.
fn access(claims: &str) -> Access {
    let mut access = Access::default();
    access.allow_tokens("signed-in", ISSUER, claims, "productpage");
    access.allow("details", Some("productpage"), "details");
    access.allow("reviews", Some("productpage"), "reviews");
    access.allow("ratings", Some("reviews"), "ratings");
    access
}

struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    /// A page has to be whole, a refusal has to say why.
    fn is(&self, status: u16, why: &str) -> bool {
        let as_it_must = match status {
            200 => self.text.contains("id=reviews>reviews-v1") && !self.text.contains("currently unavailable"),
            _ => self.text.contains(why),
        };
        self.status == status && as_it_must
    }

    fn short(&self) -> String {
        match self.status {
            200 => "200".into(),
            status => format!("{status} {}", self.text.lines().next().unwrap_or_default()),
        }
    }
}

async fn ask(system: &System, token: Option<&str>) -> Result<Answer> {
    let mut request = system.load.client("productpage").get("/productpage");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = request.send().await?;
    Ok(Answer { status: response.status().as_u16(), text: response.text().await? })
}
