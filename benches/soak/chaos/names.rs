//! A name server that changes its mind.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::{net::UdpSocket, task::JoinHandle};

#[derive(Clone)]
pub(crate) enum Answer {
    Addresses(Vec<IpAddr>),
    /// The name is there, and stands for nobody.
    Nobody,
    NoSuchName,
    Failure,
    Silence,
}

impl Answer {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Addresses(_) => "name: addresses",
            Self::Nobody => "name: nobody",
            Self::NoSuchName => "name: NXDOMAIN",
            Self::Failure => "name: SERVFAIL",
            Self::Silence => "name: silence",
        }
    }
}

pub(crate) struct Names {
    addr: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    task: JoinHandle<()>,
}

impl Names {
    pub(crate) async fn start(name: &'static str) -> Arc<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let (addr, answer) = (socket.local_addr().expect("its address"), Arc::new(Mutex::new(Answer::Silence)));
        let says = Arc::clone(&answer);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let now = says.lock().unwrap().clone();
                if let Some(bytes) = respond(name, &buffer[..len], &now) {
                    let _ = socket.send_to(&bytes, from).await;
                }
            }
        });
        Arc::new(Self { addr, answer, task })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub(crate) fn end(&self) {
        self.task.abort();
    }
}

fn respond(name: &str, query: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    match answer {
        Answer::Silence => return None,
        Answer::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Answer::Failure => message.metadata.response_code = ResponseCode::ServFail,
        Answer::Nobody => {}
        Answer::Addresses(addresses) if question.query_type() == RecordType::A => {
            let owner = Name::from_ascii(name).ok()?;
            for address in addresses {
                if let IpAddr::V4(address) = address {
                    message.add_answer(Record::from_rdata(owner.clone(), 1, RData::A(A(*address))));
                }
            }
        }
        Answer::Addresses(_) => {}
    }
    message.to_vec().ok()
}
