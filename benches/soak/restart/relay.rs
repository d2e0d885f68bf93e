//! A TCP balancer: round robin over addresses that it hears of late.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    lag: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    addrs: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    made: AtomicU64,
    refused: AtomicU64,
}

impl Relay {
    pub(crate) async fn start(lag: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, Arc::clone(&accepting)));
            }
        });
        Self { addr, lag, shared }
    }

    pub(crate) fn add(&self, addr: SocketAddr) {
        self.later(move |addrs| addrs.push(addr));
    }

    pub(crate) fn remove(&self, addr: SocketAddr) {
        self.later(move |addrs| addrs.retain(|known| *known != addr));
    }

    fn later(&self, change: impl FnOnce(&mut Vec<SocketAddr>) + Send + 'static) {
        let (shared, lag) = (Arc::clone(&self.shared), self.lag);
        tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            change(&mut shared.addrs.lock().unwrap());
        });
    }

    pub(crate) fn made(&self) -> u64 {
        self.shared.made.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }
}

async fn pass(mut near: TcpStream, shared: Arc<Shared>) {
    let addr = {
        let addrs = shared.addrs.lock().unwrap();
        let next = shared.next.fetch_add(1, Relaxed);
        addrs.get(next % addrs.len().max(1)).copied()
    };
    let far = match addr {
        Some(addr) => TcpStream::connect(addr).await.ok(),
        None => None,
    };
    match far {
        Some(mut far) => {
            shared.made.fetch_add(1, Relaxed);
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
        None => _ = shared.refused.fetch_add(1, Relaxed),
    }
}
