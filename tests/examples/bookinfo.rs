//! Bookinfo: the tasks, one process per role, and the mode for a browser.

use std::{net::TcpListener, time::Duration};

use serde_json::{Value, json};
use sinew::{Client, Mesh, ResponseExt};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use super::{LIMIT, expect, run, start};

const CONFIG: &str = include_str!("../../examples/bookinfo/sinew.yaml");

/// The tasks look at how long things take, so they have the machine to themselves.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn every_task_passes() {
    let _alone = ALONE.lock().await;
    let output = run("bookinfo", &["--check"]).await;
    expect(
        &output,
        &[
            "✓ Request routing",
            "✓ Traffic shifting",
            "over 10000 calls",
            "✓ Delay fault",
            "✓ Abort fault",
            "✓ Request timeouts",
            "✓ Circuit breaking",
            "20 got E030, 0 failed otherwise; the service saw 40, UO counts 20",
            "✓ An instance goes bad",
            "✓ it has its third back",
            "✓ Mirroring",
            "✓ Locality failover",
            "the reserve, ap-1a",
            "✓ Mutual TLS migration",
            "✓ Authorization for HTTP traffic",
            "✓ JWT authentication",
            "403 SINEW-E051",
            "✓ Rolling restart",
            "0 of",
            "and 0 calls between services",
            "13 tasks passed, 0 failed",
        ],
    );
}

#[tokio::test]
async fn roles_run_as_processes_of_their_own_from_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sinew.yaml");
    let mut config = CONFIG.to_owned();
    // Held together, so that no two are the same.
    let ports: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (fixed, free) in (9080..).zip(&ports) {
        config = config.replace(&format!("[\"127.0.0.1:{fixed}\"]"), &format!("[\"{}\"]", free.local_addr().unwrap()));
    }
    drop(ports);
    std::fs::write(&file, &config).unwrap();

    let roles = [
        ("ratings", "v1"),
        ("details", "v1"),
        ("reviews", "v1"),
        ("reviews", "v2"),
        ("reviews", "v3"),
        ("productpage", "v1"),
    ];
    let mut children = Vec::new();
    for (role, version) in roles {
        let arguments = ["--role", role, "--version", version, "--config", file.to_str().unwrap()];
        let mut child = start("bookinfo", &arguments);
        let line = line_with(&mut child, "listens on").await;
        assert!(line.starts_with(&format!("{role} {version} listens on 127.0.0.1:")), "{line}");
        children.push(child);
    }

    let mesh = Mesh::builder("test").config_file(&file).build().await.unwrap();
    payloads_are_exact(&mesh).await;
    versions_differ_by_their_stars(&mesh).await;
    login_sends_the_user_along(&mesh.client("productpage")).await;
    the_page_says_what_is_missing(&mesh, &mut children).await;

    for mut child in children {
        terminate(&child, "-TERM");
        let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}

async fn get(client: &Client, path: &str) -> (u16, Value) {
    let response = client.get(path).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn payloads_are_exact(mesh: &Mesh) {
    let details = mesh.client("details");
    let text = details.get("/details/0").send().await.unwrap().text().await.unwrap();
    let expected = r#"{"id":0,"author":"William Shakespeare","year":1595,"type":"paperback","pages":200,"publisher":"PublisherA","language":"English","ISBN-10":"1234567890","ISBN-13":"123-1234567890"}"#;
    assert_eq!(text, expected);
    let (status, error) = get(&details, "/details/x").await;
    assert_eq!(status, 400);
    assert!(error["error"].is_string());
    assert_eq!(get(&details, "/health").await, (200, json!({ "status": "Details is healthy" })));

    let ratings = mesh.client("ratings");
    let text = ratings.get("/ratings/0").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, r#"{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}"#);
    let stored = ratings.post("/ratings/7").json(&json!({ "Reviewer1": 1, "Reviewer2": 2 })).send().await.unwrap();
    assert_eq!(stored.status(), 200);
    let expected = json!({ "id": 7, "ratings": { "Reviewer1": 1, "Reviewer2": 2 } });
    assert_eq!(get(&ratings, "/ratings/7").await, (200, expected));

    let page = mesh.client("productpage");
    let (_, products) = get(&page, "/api/v1/products").await;
    assert_eq!(products[0]["id"], 0);
    assert!(products[0]["title"].is_string() && products[0]["descriptionHtml"].is_string());
    assert_eq!(get(&page, "/api/v1/products/0").await.1["ISBN-13"], "123-1234567890");
    assert_eq!(get(&page, "/api/v1/products/0/ratings").await.1["ratings"]["Reviewer1"], 5);
    assert_eq!(get(&page, "/api/v1/products/x").await.0, 400);
}

async fn versions_differ_by_their_stars(mesh: &Mesh) {
    let reviews = mesh.client("reviews");
    let mut seen = std::collections::BTreeSet::new();
    for call in 0..200 {
        let mut request = reviews.get("/reviews/0");
        if call % 2 == 0 {
            request = request.header("end-user", "jason");
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["id"], "0");
        assert!(answer["clustername"].is_string());
        let first = &answer["reviews"][0];
        assert_eq!(first["reviewer"], "Reviewer1");
        let version = answer["podname"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
        match version.as_str() {
            "v1" => assert!(first.get("rating").is_none()),
            "v2" => assert_eq!(first["rating"], json!({ "stars": 5, "color": "black" })),
            "v3" => assert_eq!(first["rating"], json!({ "stars": 5, "color": "red" })),
            other => panic!("{other}"),
        }
        assert_eq!(version == "v2", call % 2 == 0);
        seen.insert(version);
    }
    assert!(seen.contains("v1") && seen.contains("v2"));
}

async fn login_sends_the_user_along(page: &Client) {
    let form = page.post("/login").header("content-type", "application/x-www-form-urlencoded");
    let response = form.body("username=jason").send().await.unwrap();
    assert_eq!(response.status(), 303);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let html = page.get("/productpage").header("cookie", cookie).send().await.unwrap().text().await.unwrap();
    assert!(html.contains("signed in as <b>jason</b>") && html.contains("stars black"), "{html}");
    let response = page.get("/logout").send().await.unwrap();
    assert!(response.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

/// Takes ratings away, then everything that reviews.
async fn the_page_says_what_is_missing(mesh: &Mesh, children: &mut Vec<Child>) {
    let page = mesh.client("productpage");
    let jason = async || {
        let request = page.get("/productpage").header("cookie", "session=jason").timeout(Duration::from_secs(60));
        request.send().await.unwrap().text().await.unwrap()
    };
    let mut ratings = children.remove(0);
    ratings.kill().await.unwrap();
    let (_, answer) = {
        let request =
            mesh.client("reviews").get("/reviews/0").header("end-user", "jason").timeout(Duration::from_secs(30));
        let response = request.send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(answer["reviews"][1]["rating"], json!({ "error": "Ratings service is currently unavailable" }));

    for _ in 0..3 {
        // After ratings: details, then three versions of reviews.
        children.remove(1).kill().await.unwrap();
    }
    let html = jason().await;
    assert!(html.contains("Sorry, product reviews are currently unavailable for this book."), "{html}");
    assert!(html.contains("William Shakespeare"), "{html}");
}

#[tokio::test]
async fn without_flags_it_serves_a_browser_until_interrupted() {
    let _alone = ALONE.lock().await;
    let mut child = start("bookinfo", &["--calls", "200"]);
    let (line, tasks) = line_after(&mut child, "open  ").await;
    assert!(tasks.iter().any(|line| line.ends_with(" 0 failed")), "{}", tasks.join("\n"));
    let addr = line.trim_start_matches("open  http://").split('/').next().unwrap().to_owned();
    let mesh = Mesh::builder("browser").service("page", |service| service.endpoints([addr])).build().await.unwrap();
    let html = mesh.client("page").get("/productpage").send().await.unwrap().error_for_status().unwrap().text().await;
    let html = html.unwrap();
    assert!(html.contains("The Comedy of Errors"), "{html}");
    assert!(!html.contains("src=") && !html.contains("@import"), "the page must need nothing from elsewhere");
    terminate(&child, "-INT");
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn variants_of_ratings_misbehave() {
    let faulty = Variant::start("v-faulty").await;
    let mut failed = 0;
    for _ in 0..200 {
        match faulty.ratings().await.unwrap() {
            200 => {}
            503 => failed += 1,
            other => panic!("{other}"),
        }
    }
    // 99.9999 % of fair coins.
    assert!((65..=135).contains(&failed), "{failed}");

    let delayed = Variant::start("v-delayed").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let call = delayed.ratings();
        calls.spawn(call);
    }
    let calls = calls.join_all().await;
    // A delayed answer takes 7 s; none of them waits so long.
    let in_time = calls.iter().filter(|call| matches!(call, Ok(200))).count();
    assert!((1..30).contains(&in_time), "{calls:?}");

    for good_at_first in ["v-unavailable", "v-unhealthy"] {
        let variant = Variant::start(good_at_first).await;
        assert_eq!(variant.ratings().await.unwrap(), 200);
        assert_eq!(variant.client.get("/health").send().await.unwrap().status(), 200);
    }
}

struct Variant {
    client: Client,
    _mesh: Mesh,
    _child: Child,
}

impl Variant {
    async fn start(version: &str) -> Self {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bookinfo/sinew.yaml");
        let arguments = ["--role", "ratings", "--version", version, "--config", config, "--listen", "127.0.0.1:0"];
        let mut child = start("bookinfo", &arguments);
        let line = line_with(&mut child, "listens on").await;
        let addr = line.rsplit(' ').next().unwrap().to_owned();
        let mesh = Mesh::builder("test").service("ratings", |service| service.endpoints([addr])).build().await.unwrap();
        Self { client: mesh.client("ratings"), _mesh: mesh, _child: child }
    }

    fn ratings(&self) -> impl Future<Output = Result<u16, sinew::Error>> + use<> {
        let request = self.client.get("/ratings/0").timeout(Duration::from_secs(3));
        async move { Ok(request.send().await?.status().as_u16()) }
    }
}

/// As [`line_after`], without what was said before.
async fn line_with(child: &mut Child, text: &str) -> String {
    line_after(child, text).await.0
}

/// Reads until a line has this in it, and goes on to read what follows, so that the child is never blocked. With the
/// lines before it.
async fn line_after(child: &mut Child, text: &str) -> (String, Vec<String>) {
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    tokio::spawn(async move { while let Ok(Some(_)) = errors.next_line().await {} });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut before = Vec::new();
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(text) {
                return Some(line);
            }
            before.push(line);
        }
        None
    };
    let found = tokio::time::timeout(LIMIT, found).await;
    let Ok(Some(line)) = found else { panic!("no line with `{text}`:\n{}", before.join("\n")) };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (line, before)
}

fn terminate(child: &Child, signal: &str) {
    let pid = child.id().expect("it still runs");
    let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}
