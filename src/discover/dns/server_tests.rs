//! Against real servers on loopback, UDP and TCP.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, SOA, SRV},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};
use tokio_stream::StreamExt;

use super::*;

const SEC: Duration = Duration::from_secs(1);
const NAME: &str = "reviews.test.";

#[derive(Clone)]
enum Say {
    Records(Vec<Record>, Vec<Record>),
    Code(ResponseCode),
    Silence,
}

/// A server whose answers can be changed; what it was not told is NODATA, or NXDOMAIN without any record of the name.
#[derive(Clone)]
struct Server {
    addr: SocketAddr,
    zone: Arc<Mutex<BTreeMap<(String, RecordType), Say>>>,
    truncate: Arc<std::sync::atomic::AtomicBool>,
    tcp: Arc<AtomicUsize>,
    udp: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self {
            addr: udp.local_addr().unwrap(),
            zone: Arc::default(),
            truncate: Arc::default(),
            tcp: Arc::default(),
            udp: Arc::default(),
        };
        let this = server.clone();
        tokio::spawn(async move {
            let mut buf = [0; 4096];
            while let Ok((len, from)) = udp.recv_from(&mut buf).await {
                this.udp.fetch_add(1, Ordering::Relaxed);
                if let Some(mut answer) = this.answer(&buf[..len]) {
                    if this.truncate.load(Ordering::Relaxed) {
                        answer = answer.truncate();
                    }
                    udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        this.tcp.fetch_add(1, Ordering::Relaxed);
                        let mut query = vec![0; len.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        let Some(answer) = this.answer(&query) else { continue };
                        let bytes = answer.to_vec().unwrap();
                        stream.write_u16(bytes.len() as u16).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                    }
                });
            }
        });
        server
    }

    fn answer(&self, query: &[u8]) -> Option<Message> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        let name = question.name().to_ascii().to_ascii_lowercase();
        let zone = self.zone.lock().unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        let say = match zone.get(&(name.clone(), question.query_type())) {
            Some(say) => say.clone(),
            None if zone.keys().any(|(known, _)| *known == name) => Say::Code(ResponseCode::NoError),
            None => Say::Code(ResponseCode::NXDomain),
        };
        match say {
            Say::Records(answers, additionals) => {
                answer.add_answers(answers);
                answer.add_additionals(additionals);
            }
            Say::Code(code) => {
                answer.metadata.response_code = code;
                if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                    let root = Name::from_str("test.").unwrap();
                    let soa = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 5);
                    answer.add_authority(Record::from_rdata(root, 5, RData::SOA(soa)));
                }
            }
            Say::Silence => return None,
        }
        Some(answer)
    }

    fn say(&self, name: &str, kind: RecordType, say: Say) {
        self.zone.lock().unwrap().insert((name.into(), kind), say);
    }

    fn ips(&self, name: &str, kind: RecordType, ips: &[&str]) {
        self.say(name, kind, Say::Records(ips.iter().map(|ip| record(name, ip)).collect(), Vec::new()));
    }
}

fn record(name: &str, ip: &str) -> Record {
    let data = match ip.parse::<IpAddr>().unwrap() {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(Name::from_str(name).unwrap(), 1, data)
}

fn settings(servers: &[&Server]) -> DnsSettings {
    DnsSettings { timeout: SEC / 2, ..DnsSettings::new(servers.iter().map(|server| server.addr)) }
}

fn watch(name: &str, port: Option<u16>, servers: &[&Server]) -> Discovery {
    Dns::new(settings(servers)).subscribe(name, port)
}

async fn next(discovery: &mut Discovery) -> Item {
    rt::timeout(SEC * 20, discovery.updates.next()).await.expect("an update in time").expect("an endless stream")
}

async fn ids(discovery: &mut Discovery) -> Vec<String> {
    match next(discovery).await.unwrap() {
        EndpointUpdate::Reset { endpoints, .. } => endpoints.iter().map(|spec| spec.id.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn addresses_appear_change_and_survive_every_failure() {
    let server = Server::start().await;
    let mut dns = watch(NAME, Some(80), &[&server]);
    let error = next(&mut dns).await.unwrap_err().to_string();
    assert!(error.contains("NXDOMAIN") && error.contains(&server.addr.to_string()), "{error}");
    let refresh = dns.refresh.clone().unwrap();

    server.ips(NAME, RecordType::A, &["10.0.0.1", "10.0.0.2"]);
    refresh.refresh();
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:80", "10.0.0.2:80"]);
    server.ips(NAME, RecordType::A, &["10.0.0.2", "10.0.0.3"]);
    refresh.refresh();
    assert_eq!(ids(&mut dns).await, ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"]);
    for (code, text) in [
        (ResponseCode::NoError, "A and AAAA: NODATA"),
        (ResponseCode::ServFail, "A: SERVFAIL"),
        (ResponseCode::Refused, "A: REFUSED"),
        (ResponseCode::NXDomain, "A: NXDOMAIN"),
    ] {
        server.say(NAME, RecordType::A, Say::Code(code));
        refresh.refresh();
        let error = next(&mut dns).await.unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("last good"), "{error}");
    }
    server.ips(NAME, RecordType::A, &["10.0.0.4", "10.0.0.5"]);
    refresh.refresh();
    let back = ids(&mut dns).await;
    assert!(back.starts_with(&["10.0.0.4:80".into(), "10.0.0.5:80".into()]), "{back:?}");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_or_is_silent() {
    for say in [Say::Code(ResponseCode::ServFail), Say::Code(ResponseCode::Refused), Say::Silence] {
        let (bad, good) = (Server::start().await, Server::start().await);
        bad.say(NAME, RecordType::A, say.clone());
        bad.say(NAME, RecordType::AAAA, say);
        good.ips(NAME, RecordType::A, &["10.0.0.1"]);
        let mut dns = watch(NAME, Some(80), &[&bad, &good]);
        assert_eq!(ids(&mut dns).await, ["10.0.0.1:80"]);
        assert!(bad.udp.load(Ordering::Relaxed) > 0);
    }
}

#[tokio::test]
async fn an_existing_server_that_denies_the_name_is_believed() {
    let (first, second) = (Server::start().await, Server::start().await);
    second.ips(NAME, RecordType::A, &["10.0.0.1"]);
    let mut dns = watch(NAME, Some(80), &[&first, &second]);
    assert!(next(&mut dns).await.is_err());
    assert_eq!(second.udp.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_broken_family_keeps_its_addresses_while_the_other_moves() {
    let server = Server::start().await;
    server.ips(NAME, RecordType::A, &["10.0.0.1", "10.0.0.2"]);
    server.ips(NAME, RecordType::AAAA, &["fd00::1"]);
    let mut dns = watch(NAME, Some(80), &[&server]);
    assert_eq!(ids(&mut dns).await, ["[fd00::1]:80", "10.0.0.1:80", "10.0.0.2:80"]);
    server.say(NAME, RecordType::A, Say::Code(ResponseCode::ServFail));
    server.ips(NAME, RecordType::AAAA, &["fd00::1", "fd00::2"]);
    dns.refresh.as_ref().unwrap().refresh();
    assert_eq!(ids(&mut dns).await, ["[fd00::1]:80", "[fd00::2]:80", "10.0.0.1:80", "10.0.0.2:80"]);
    assert!(next(&mut dns).await.unwrap_err().to_string().contains("A: SERVFAIL"));
}

#[tokio::test]
async fn long_answers_come_over_tcp() {
    let server = Server::start().await;
    server.ips(NAME, RecordType::A, &["10.0.0.1", "10.0.0.2"]);
    server.truncate.store(true, Ordering::Relaxed);
    let mut dns = watch(NAME, Some(80), &[&server]);
    assert_eq!(ids(&mut dns).await, ["10.0.0.1:80", "10.0.0.2:80"]);
    assert!(server.tcp.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn srv_uses_glue_and_asks_for_the_rest() {
    let server = Server::start().await;
    let name = "_grpc._tcp.reviews.test.";
    let srv = |priority, weight, port, target: &str| {
        let data = RData::SRV(SRV::new(priority, weight, port, Name::from_str(target).unwrap()));
        Record::from_rdata(Name::from_str(name).unwrap(), 1, data)
    };
    let answers = vec![srv(0, 7, 81, "a.test."), srv(1, 0, 82, "b.test.")];
    server.say(name, RecordType::SRV, Say::Records(answers, vec![record("a.test.", "10.0.0.1")]));
    server.ips("b.test.", RecordType::A, &["10.0.0.2"]);
    let mut dns = watch(name, None, &[&server]);
    let Ok(EndpointUpdate::Reset { endpoints, kind }) = next(&mut dns).await else { panic!("a set") };
    let got: Vec<_> = endpoints.iter().map(|spec| (spec.id.as_str(), spec.weight, spec.priority)).collect();
    assert_eq!(got, [("10.0.0.1:81", 7, 0), ("10.0.0.2:82", 1, 1)]);
    assert_eq!(kind, SetKind::Replicas);
    assert_eq!(server.udp.load(Ordering::Relaxed), 3, "SRV, and both families of the target without glue");
}

#[tokio::test]
async fn a_ttl_of_one_second_is_asked_no_sooner_than_five() {
    let server = Server::start().await;
    server.ips(NAME, RecordType::A, &["10.0.0.1"]);
    let mut dns = watch(NAME, Some(80), &[&server]);
    let begin = Instant::now();
    ids(&mut dns).await;
    server.ips(NAME, RecordType::A, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(ids(&mut dns).await.len(), 2);
    assert!(begin.elapsed() >= SEC * 5, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn nobody_to_ask_is_said() {
    let mut dns = watch(NAME, Some(80), &[]);
    let error = next(&mut dns).await.unwrap_err().to_string();
    assert!(error.contains("no name server is configured"), "{error}");
}
