//! Byte streams to addresses, raced where an endpoint has several.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::{
    error::Error,
    model::Address,
    rt,
    transport::{Dial, Dialed, Offer, error, memory::MemoryNetwork},
};

/// RFC 8305 §5: the next address is tried this long after the last, or when it fails.
const STAGGER: Duration = Duration::from_millis(250);
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long written data may stay unacknowledged before the kernel gives the connection up.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// TCP and memory.
pub(crate) struct Dialer {
    memory: MemoryNetwork,
}

impl Dialer {
    pub(crate) fn new(memory: MemoryNetwork) -> Arc<Self> {
        Arc::new(Self { memory })
    }
}

impl Dial for Dialer {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async move {
            match address {
                Address::Tcp(addr) => {
                    let stream = connect_tcp(addr).await.map_err(|failure| error::connect(address, failure))?;
                    Ok(Dialed::plain(stream))
                }
                Address::Memory(name) => Ok(Dialed::plain(self.memory.connect(name)?)),
            }
        })
    }
}

/// A stream to `host:port`, for hosts that no discovery looks after.
pub(super) async fn connect_name(host_and_port: &str) -> io::Result<TcpStream> {
    let mut last = None;
    for addr in tokio::net::lookup_host(host_and_port).await? {
        match connect_tcp(&addr).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its name has no address")))
}

pub(super) async fn connect_tcp(addr: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    // Without it a small request waits for the acknowledgement of the one before: 44 ms instead of 0.1.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

/// The first of several addresses that answers; the last failure if none does.
pub(super) async fn race(dial: &dyn Dial, addresses: &[Address], offer: Offer) -> Result<Dialed, Error> {
    if let [only] = addresses {
        return dial.dial(only, offer).await;
    }
    let order = interleave(addresses);
    let mut next = order.iter();
    let mut running: Vec<Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + '_>>> = Vec::new();
    let mut last = None;
    loop {
        if let Some(address) = next.next() {
            running.push(dial.dial(address, offer));
        }
        if running.is_empty() {
            return Err(last.unwrap_or_else(|| error::not_supported("an endpoint without addresses", "anything")));
        }
        let any = std::future::poll_fn(|cx| {
            for index in 0..running.len() {
                if let std::task::Poll::Ready(result) = running[index].as_mut().poll(cx) {
                    drop(running.swap_remove(index));
                    return std::task::Poll::Ready(result);
                }
            }
            std::task::Poll::Pending
        });
        let wait = if next.len() == 0 { Duration::from_secs(3600) } else { STAGGER };
        match rt::timeout(wait, any).await {
            Some(Ok(dialed)) => return Ok(dialed),
            Some(Err(failure)) => last = Some(failure),
            None => {}
        }
    }
}

/// RFC 8305 §4: families take turns, beginning with that of the first address.
fn interleave(addresses: &[Address]) -> Vec<&Address> {
    let v6 = |address: &&Address| matches!(address, Address::Tcp(addr) if addr.is_ipv6());
    let first_v6 = addresses.first().is_some_and(|address| v6(&address));
    let (mut same, mut other): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| v6(address) == first_v6);
    same.reverse();
    other.reverse();
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(same.pop());
        order.extend(other.pop());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted;

    impl Dial for Scripted {
        fn dial<'a>(
            &'a self,
            address: &'a Address,
            _offer: Offer,
        ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
            Box::pin(async move {
                let Address::Tcp(addr) = address else { unreachable!() };
                match addr.port() {
                    1 => std::future::pending().await,
                    2 => Err(error::connect(address, io::ErrorKind::ConnectionRefused.into())),
                    delay => {
                        rt::sleep(Duration::from_millis(delay.into())).await;
                        Ok(Dialed::plain(tokio::io::duplex(1).0))
                    }
                }
            })
        }
    }

    fn addresses(list: &[&str]) -> Vec<Address> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let list = addresses(&["[::1]:1", "[::1]:2", "127.0.0.1:3", "[::1]:4"]);
        let order: Vec<_> = interleave(&list).into_iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[::1]:1", "127.0.0.1:3", "[::1]:2", "[::1]:4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_second() {
        let start = rt::now();
        assert!(race(&Scripted, &addresses(&["[::1]:1", "127.0.0.1:10"]), Offer::Both).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_millis(260));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusing_address_costs_nothing_and_the_last_failure_is_told() {
        let start = rt::now();
        assert!(race(&Scripted, &addresses(&["[::1]:2", "127.0.0.1:10"]), Offer::Both).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_millis(10));
        let error = race(&Scripted, &addresses(&["[::1]:2", "127.0.0.1:2"]), Offer::Both).await.err().unwrap();
        assert!(error.message().contains("127.0.0.1:2") && error.never_processed());
    }
}
