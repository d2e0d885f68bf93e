//! `sinew::testing`: what users' own tests are made of.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::get};
use sinew::{
    Code, ResponseExt,
    testing::{Action, Fault, Replicas, Script, World, WorldBuilder},
};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Three services in a row; the last one tells which instance it is.
fn three(seed: u64) -> WorldBuilder {
    World::seeded(seed)
        .service("ratings", 3, |member| {
            let name = member.name().to_owned();
            Router::new().route("/", get(move || async move { name }))
        })
        .service("reviews", 2, |member| {
            let ratings = member.client("ratings");
            let answer = move || async move {
                match ratings.get("/").send().await {
                    Ok(response) if response.status().is_success() => match response.text().await {
                        Ok(text) => (StatusCode::OK, text),
                        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
                    },
                    Ok(response) => (response.status(), String::new()),
                    Err(error) => (StatusCode::BAD_GATEWAY, error.code().to_string()),
                }
            };
            Router::new().route("/", get(answer))
        })
        .service("page", 1, |member| {
            let reviews = member.client("reviews");
            let answer =
                move || async move { reviews.get("/").send().await.map(|response| response.status()).unwrap() };
            Router::new().route("/", get(answer))
        })
}

#[tokio::test(start_paused = true)]
async fn three_services_call_each_other_through_both_stacks() {
    let world = three(1).start().await.unwrap();
    for _ in 0..30 {
        assert_eq!(world.client("page").get("/").send().await.unwrap().status(), 200);
    }
    assert_eq!(world.served("page"), [30]);
    let ratings = world.served("ratings");
    assert!(ratings.iter().sum::<u64>() == 30 && ratings.iter().all(|served| *served > 0), "{ratings:?}");
    assert!(world.journal().contains(" ratings-1 GET / 200\n"), "{}", world.journal());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_works_on_several_threads_and_real_time() {
    let world = three(1).start().await.unwrap();
    for _ in 0..30 {
        assert_eq!(world.client("page").get("/").send().await.unwrap().status(), 200);
    }
}

/// A run full of trouble, and what is known of it afterwards.
async fn troubled(seed: u64) -> String {
    let world = three(seed).start().await.unwrap();
    let script = Script::random(seed, &["ratings-0", "ratings-1", "reviews-0"], 60 * SECOND);
    let calls = async {
        let mut seen = String::new();
        for _ in 0..600 {
            let begun = Instant::now();
            let outcome = match world.client("reviews").get("/").timeout(2 * SECOND).send().await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    match response.text().await {
                        Ok(text) => format!("{status} {text}"),
                        Err(error) => format!("{status} {error}"),
                    }
                }
                Err(error) => error.to_string(),
            };
            seen.push_str(&format!("{:?} {outcome}\n", begun.elapsed()));
            sleep(Duration::from_millis(100)).await;
        }
        seen
    };
    let (played, seen) = tokio::join!(world.play(&script), calls);
    played.unwrap();
    format!("{script}\n{}\n{seen}", world.journal())
}

/// A run on a thread of its own: its dice are nobody else's.
fn run(seed: u64) -> String {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    std::thread::spawn(move || runtime().block_on(troubled(seed))).join().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    let first = run(7);
    let again = run(7);
    for (line, (a, b)) in first.lines().zip(again.lines()).enumerate() {
        assert_eq!(a, b, "line {line}");
    }
    assert_eq!(first, again);
    let other = run(8);
    assert_ne!(first, other);
    assert!(first.contains("SINEW-") && first.contains("200 ratings-"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_what_it_says() {
    let world = World::seeded(3)
        .service("a", 1, |_| Router::new().route("/", get(|| async { "x".repeat(1_000) })))
        .configure(|builder| builder.config_str("services: { a: { retry: off, outlier_detection: off } }"))
        .start()
        .await
        .unwrap();
    let (a, client) = (world.instance("a-0"), world.client("a"));
    let call = || async {
        let begun = Instant::now();
        let response = client.get("/").timeout(10 * SECOND).send().await.map_err(|error| error.code())?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|error| error.code())?;
        Ok::<_, Code>((status, body.len(), begun.elapsed().as_secs()))
    };
    assert_eq!(call().await, Ok((200, 1_000, 0)));
    a.fault(Fault::Delay(2 * SECOND));
    assert_eq!(call().await, Ok((200, 1_000, 2)));
    a.heal();
    a.fault(Fault::Abort(StatusCode::IM_A_TEAPOT));
    assert_eq!(call().await, Ok((418, 0, 0)));
    a.heal();
    a.fault(Fault::Hang);
    assert_eq!(call().await, Err(Code::TimeoutRequest));
    a.heal();
    a.fault(Fault::Drip(200));
    assert!(matches!(call().await, Ok((200, 1_000, 4 | 5))), "drop by drop");
    a.heal();
    a.fault(Fault::ResetBody(500));
    let broken = call().await.unwrap_err();
    assert!(matches!(broken, Code::PeerReset | Code::ConnectionClosed), "{broken}");
    a.heal();
    assert_eq!(call().await, Ok((200, 1_000, 0)));
    a.fault(Fault::Silent);
    assert_eq!(call().await, Err(Code::TimeoutRequest));
    a.heal();
    assert_eq!(call().await, Ok((200, 1_000, 0)));

    let served = a.served();
    a.kill().await;
    assert_eq!(call().await, Err(Code::ConnectFailed));
    assert!(a.mesh().is_none() && a.served() == served);
    a.start().await.unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(call().await, Ok((200, 1_000, 0)));
    a.kill().await;
    a.fault(Fault::Refuse);
    a.start().await.unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(call().await, Err(Code::ConnectFailed));
    a.heal();
    sleep(2 * SECOND).await;
    assert_eq!(call().await, Ok((200, 1_000, 0)));
    a.leave();
    sleep(SECOND).await;
    assert_eq!(call().await, Err(Code::NoHealthyEndpoint));
    a.join();
    sleep(SECOND).await;
    assert_eq!(call().await, Ok((200, 1_000, 0)));
}

#[tokio::test(start_paused = true)]
async fn versions_zones_and_routes_of_production_are_those_of_a_world() {
    let app = |text: &'static str| {
        move |_: &sinew::testing::Member| Router::new().route("/", get(move || async move { text }))
    };
    let document = "services:\n  reviews:\n    endpoints: { dns: \"reviews.prod:9080\" }\n    subsets: { v1: { version: v1 }, v2: { \
                    version: v2 } }\n    routes:\n    - { match: { headers: { end-user: jason } }, to: v2 }\n    - { to: v1 }\n";
    let world = World::seeded(4)
        .service("reviews", Replicas::new(1).label("version", "v1"), app("v1"))
        .service("reviews", Replicas::new(2).label("version", "v2").zone("b"), app("v2"))
        .configure(move |builder| builder.config_str(document))
        .start()
        .await
        .unwrap();
    let text = |request: sinew::RequestBuilder| async { request.send().await.unwrap().text().await.unwrap() };
    assert_eq!(text(world.client("reviews").get("/")).await, "v1");
    assert_eq!(text(world.client("reviews").get("/").header("end-user", "jason")).await, "v2");
    assert_eq!(world.instances("reviews").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_script_plays_while_calls_go_on() {
    let world = three(5).start().await.unwrap();
    let script = Script::new().at(2 * SECOND, "ratings-0", Action::Start).at(SECOND, "ratings-0", Action::Kill).at(
        3 * SECOND,
        "ratings-1",
        Action::Fault(Fault::Refuse),
    );
    assert_eq!(script.to_string().lines().next(), Some("1s ratings-0 Kill"));
    let calls = async {
        for _ in 0..100 {
            let response = world.client("ratings").get("/").send().await.unwrap();
            assert_eq!(response.status(), 200, "what is refused is sent to another");
            sleep(Duration::from_millis(50)).await;
        }
    };
    let (played, ()) = tokio::join!(world.play(&script), calls);
    played.unwrap();
    world.eventually(SECOND, |world| world.served("ratings").iter().sum::<u64>() == 100).await;
}
