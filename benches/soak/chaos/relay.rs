//! What stands between the client and an instance, and does it harm.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
    task::JoinSet,
    time::sleep,
};

/// What is done to an instance.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Harm {
    None,
    /// Its connections break and nobody listens.
    Killed,
    /// Nothing is read or written, nothing is closed.
    Stalled,
    /// What is sent to it is taken and lost.
    Swallowing,
    /// The instance has closed, and the client is not told.
    HalfOpen,
    /// Connections are reset after the next bytes of a response.
    Resetting,
    /// A few bytes at a time.
    Dripping,
}

impl Harm {
    pub(crate) const ALL: [Self; 6] =
        [Self::Killed, Self::Stalled, Self::Swallowing, Self::HalfOpen, Self::Resetting, Self::Dripping];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "well",
            Self::Killed => "killed",
            Self::Stalled => "stalled",
            Self::Swallowing => "swallowing",
            Self::HalfOpen => "half open",
            Self::Resetting => "resetting",
            Self::Dripping => "dripping",
        }
    }
}

pub(crate) struct Relay {
    addr: SocketAddr,
    behind: SocketAddr,
    harm: watch::Sender<Harm>,
    listening: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// A direction of a connection has done its part.
struct Over;

impl Relay {
    /// One for each instance, at addresses that differ in nothing but the host: a name has one port.
    pub(crate) async fn all(behind: &[SocketAddr]) -> Vec<Self> {
        let host = |index: usize| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + index as u8));
        'ports: loop {
            let first = TcpListener::bind((host(0), 0)).await.expect("a port");
            let port = first.local_addr().expect("its address").port();
            let mut listeners = vec![first];
            for index in 1..behind.len() {
                match TcpListener::bind((host(index), port)).await {
                    Ok(listener) => listeners.push(listener),
                    Err(_) => continue 'ports,
                }
            }
            let relay = |(index, listener): (usize, TcpListener)| {
                let (harm, watched) = watch::channel(Harm::None);
                let listening = tokio::spawn(listen(listener, behind[index], watched));
                let addr = SocketAddr::new(host(index), port);
                Self { addr, behind: behind[index], harm, listening: Mutex::new(Some(listening)) }
            };
            return listeners.into_iter().enumerate().map(relay).collect();
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn set(&self, harm: Harm) {
        let mut listening = self.listening.lock().await;
        if harm == Harm::Killed {
            if let Some(task) = listening.take() {
                task.abort();
                let _ = task.await;
            }
        } else if listening.is_none() {
            // Whoever had the port for a moment gives it back.
            for _ in 0..100 {
                if let Ok(listener) = TcpListener::bind(self.addr).await {
                    *listening = Some(tokio::spawn(listen(listener, self.behind, self.harm.subscribe())));
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        self.harm.send_replace(harm);
    }

    pub(crate) async fn end(&self) {
        self.set(Harm::Killed).await;
    }
}

/// Connections end with the listener.
async fn listen(listener: TcpListener, behind: SocketAddr, harm: watch::Receiver<Harm>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted {
                    connections.spawn(connection(near, behind, harm.clone()));
                }
            }
        }
    }
}

async fn connection(near: TcpStream, behind: SocketAddr, harm: watch::Receiver<Harm>) {
    let Ok(far) = TcpStream::connect(behind).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let mut half_open = harm.clone();
    let is_half_open = tokio::select! {
        biased;
        () = async { drop(half_open.wait_for(|harm| *harm == Harm::HalfOpen).await) } => true,
        () = pump(&mut near_read, &mut far_write, harm.clone(), false) => false,
        () = pump(&mut far_read, &mut near_write, harm, true) => false,
    };
    if is_half_open {
        // The far end is closed, the near one is not, until somebody notices.
        drop((far_read, far_write));
        let mut buffer = [0; 4096];
        while near_read.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    }
}

/// Carries bytes as far as the harm lets it.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut harm: watch::Receiver<Harm>, answers: bool) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        if carry(&buffer[..read], to, &mut harm, answers).await.is_err() {
            return;
        }
    }
}

async fn carry(
    mut bytes: &[u8],
    to: &mut OwnedWriteHalf,
    harm: &mut watch::Receiver<Harm>,
    answers: bool,
) -> Result<(), Over> {
    while !bytes.is_empty() {
        let now = *harm.borrow_and_update();
        match now {
            Harm::None | Harm::HalfOpen => {
                to.write_all(bytes).await.map_err(|_| Over)?;
                return Ok(());
            }
            Harm::Killed => return Err(Over),
            Harm::Stalled => harm.changed().await.map_err(|_| Over)?,
            Harm::Swallowing => return Ok(()),
            Harm::Resetting if answers => {
                // Some of it, then a reset instead of an end.
                let some = bytes.len().div_ceil(2);
                let _ = to.write_all(&bytes[..some]).await;
                let _ = SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                return Err(Over);
            }
            Harm::Resetting => {
                to.write_all(bytes).await.map_err(|_| Over)?;
                return Ok(());
            }
            Harm::Dripping => {
                let (few, rest) = bytes.split_at(bytes.len().min(64));
                to.write_all(few).await.map_err(|_| Over)?;
                bytes = rest;
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(())
}
