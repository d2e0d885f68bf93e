//! What a failed connection says.

use crate::error::{Code, Delivery, Error};

pub(crate) fn memory_refused(name: &str, why: &str) -> Error {
    Error::new(Code::ConnectFailed, format!("connection refused by memory:{name}: {why}"))
        .with_delivery(Delivery::Unsent)
}
