//! The wire to one instance: it listens under the name that peers know and passes bytes on, or does not.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split},
    sync::watch,
};

use super::fault::Faults;
use crate::{rt::TaskSet, transport::memory::MemoryNetwork};

/// Bytes that are on the wire at a time.
const CHUNK: usize = 16 * 1024;

/// Waits until the faults are as wanted; for ever, once nobody can change them.
async fn until(faults: &mut watch::Receiver<Faults>, wanted: fn(&Faults) -> bool) {
    if faults.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves `front` by what listens on `back`, until its tasks are cancelled.
pub(super) async fn serve(
    network: MemoryNetwork,
    front: String,
    back: String,
    mut faults: watch::Receiver<Faults>,
    tasks: TaskSet,
) {
    loop {
        until(&mut faults, |faults| !faults.refuse).await;
        let Ok(mut listener) = network.listen(&front) else {
            tracing::error!("memory:{front} is taken by another listener");
            return;
        };
        loop {
            let stream = tokio::select! {
                biased;
                () = until(&mut faults, |faults| faults.refuse) => break,
                stream = listener.accept() => stream,
            };
            // An instance that is gone closes what it accepts.
            if let Some(near) = stream
                && let Ok(far) = network.connect(&back)
            {
                tasks.spawn(pass(near, far, faults.clone()));
            }
        }
    }
}

async fn pass(near: DuplexStream, far: DuplexStream, faults: watch::Receiver<Faults>) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    tokio::join!(copy(near_read, far_write, faults.clone()), copy(far_read, near_write, faults));
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut faults: watch::Receiver<Faults>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        until(&mut faults, |faults| !faults.silent).await;
        let read = from.read(&mut chunk).await.unwrap_or(0);
        until(&mut faults, |faults| !faults.silent).await;
        if read == 0 || to.write_all(&chunk[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
