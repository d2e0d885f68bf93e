//! A listener in a process whose file descriptors are used up. It needs a process of its own, with few of them.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{ChildStdout, Command, Stdio},
};

use super::*;

/// What [`a_listener_with_few_descriptors`] is told and says.
struct Child {
    process: std::process::Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// This test binary once more, in a shell that lowers the limit: setting it here would take unsafe code.
    fn start(descriptors: u32) -> (Self, SocketAddr) {
        let name = "transport::accept::tests::exhausted::a_listener_with_few_descriptors";
        let mut process = Command::new("sh")
            .args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")])
            .arg(env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut child = Self { process, lines };
        let address = child.word("listening ").parse().unwrap();
        (child, address)
    }

    fn word(&mut self, before: &str) -> String {
        let found = self.lines.by_ref().find_map(|line| Some(line.unwrap().rsplit_once(before)?.1.to_owned()));
        found.expect("the child speaks")
    }

    /// How often accepting has failed.
    fn errors(&mut self) -> u64 {
        writeln!(self.process.stdin.as_mut().unwrap(), "errors").unwrap();
        self.word("errors ").parse().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input ends it; what hangs is ended.
        drop(self.process.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
#[ignore = "half of a test: the other half runs it"]
async fn a_listener_with_few_descriptors() {
    let server = Server::new(Limits::default());
    println!("listening {}", server.bind());
    let errors = server.registry.counter("sinew_accept_errors_total", &[("listener", "mesh")]);
    tokio::task::spawn_blocking(move || {
        for _line in std::io::stdin().lines() {
            println!("errors {}", errors.get());
        }
    })
    .await
    .unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_listener_without_descriptors_waits_serves_those_it_has_and_recovers() {
    let (mut child, address) = Child::start(40);
    let mut first = tcp(address).await;
    first.write_all(GET).await.unwrap();
    assert!(read_response(&mut first).await.ends_with("ok"));
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(tcp(address).await);
    }
    let mut last = tcp(address).await;
    last.write_all(GET).await.unwrap();
    let began = rt::now();
    while child.errors() == 0 {
        assert!(began.elapsed() < 20 * SECOND, "descriptors never ran out");
    }
    let (began, before) = (rt::now(), child.errors());
    while child.errors() < before + 3 {
        first.write_all(GET).await.unwrap();
        assert!(read_response(&mut first).await.ends_with("ok"), "those that are open are served");
        assert!(began.elapsed() < 20 * SECOND, "accepting is not tried again");
    }
    // 10 ms, doubled up to a second: eight in the first second, then one each.
    let (errors, elapsed) = (child.errors(), began.elapsed());
    assert!(errors - before <= 9 + elapsed.as_secs(), "{errors} failures after {before} within {elapsed:?}");
    drop(waiting);
    let answered = rt::timeout(20 * SECOND, read_response(&mut last)).await.expect("it is accepted at last");
    assert!(answered.ends_with("ok"));
}
