//! Finding, installing and ending peers.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

fn folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SINEW_PEERS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(env::temp_dir).join("sinew-peers")
    })
}

/// The program of a peer, or `None` after having said that its test is skipped.
pub fn peer(name: &str) -> Option<PathBuf> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let program = folder().join("bin").join(name);
    if program.exists() {
        return Some(program);
    }
    if env::var_os("SINEW_INTEROP_INSTALL").is_some() {
        let _one_at_a_time = INSTALLING.lock().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peers.sh");
        let _ = Command::new(script).arg(name).stdout(Stdio::null()).status();
        if program.exists() {
            return Some(program);
        }
    }
    // Written past the test harness, which shows what passing tests print to nobody.
    let _ = writeln!(
        std::io::stderr(),
        "\n*** SKIPPED: {name} is not in {}; run tests/interop/peers.sh, or set SINEW_INTEROP_INSTALL=1\n",
        folder().display()
    );
    None
}

/// Runs a peer to its end, off the runtime's threads.
pub async fn run(program: PathBuf, args: Vec<String>) -> Output {
    tokio::task::spawn_blocking(move || Command::new(program).args(args).output().unwrap()).await.unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A running peer, told to end when dropped, and made to if it does not.
pub struct Running(Child);

impl Running {
    pub fn start(program: &Path, args: &[&str]) -> Self {
        Self(Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What it says goes to a file.
    pub fn logged(program: &Path, args: &[&str], log: &Path) -> Self {
        Self::with(Command::new(program).args(args), log)
    }

    /// As [`logged`](Self::logged), with an environment.
    pub fn with(command: &mut Command, log: &Path) -> Self {
        let out = std::fs::File::create(log).unwrap();
        let said = out.try_clone().unwrap();
        Self(command.stdin(Stdio::null()).stdout(out).stderr(said).spawn().unwrap())
    }
}

impl Running {
    /// With variables of the environment in place of arguments.
    pub fn with_env(program: &Path, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.envs(env.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Its process id.
    #[allow(dead_code, reason = "a bench asks")]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(told.success());
    }
}

/// A port that was free a moment ago.
pub fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
