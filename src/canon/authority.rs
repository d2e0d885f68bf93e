//! Which host a request is for.

use std::borrow::Cow;

use super::Ambiguous;

/// A host in lower case without its final dot, and a port that is not the scheme's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Authority<'a> {
    pub(crate) host: Cow<'a, str>,
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses `host` or `host:port`. Without a scheme both 80 and 443 count as the default.
    ///
    /// # Errors
    /// If there is user information, a list, or a byte that no host has.
    pub(crate) fn parse(text: &'a str, scheme: Option<&str>) -> Result<Self, Ambiguous> {
        if text.contains('@') {
            return Err(Ambiguous::host("it has user information"));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some(end) = rest.find(']') else { return Err(Ambiguous::host("a `[` is not closed")) };
                let (host, rest) = text.split_at(end + 2);
                if rest.is_empty() { (host, "") } else { (host, rest.strip_prefix(':').ok_or(FOREIGN)?) }
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let port = match port {
            "" => None,
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse::<u16>().map_err(|_| Ambiguous::host("its port is above 65535"))?)
            }
            _ => return Err(Ambiguous::host("its port is not a number")),
        };
        let port = port.filter(|port| match scheme {
            Some("http") => *port != 80,
            Some("https") => *port != 443,
            _ => !matches!(port, 80 | 443),
        });
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.is_empty() || name.ends_with('.') {
            return Err(Ambiguous::host("it is empty"));
        }
        let bracketed = name.starts_with('[');
        let valid = |byte: u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'.' | b'_' | b'~')
                || bracketed && matches!(byte, b'[' | b']' | b':')
        };
        if !name.bytes().all(valid) {
            return Err(FOREIGN);
        }
        let host = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        Ok(Self { host, port })
    }
}

const FOREIGN: Ambiguous = Ambiguous::host("it has a character that no host has");
