//! `x-forwarded-client-cert`: who the callers before the peer were, as Envoy writes it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::policy::ClientCert;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What is said of the peer's certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CertElement<'a> {
    /// The identity of this process.
    pub(crate) by: Option<&'a str>,
    /// The identity of the peer.
    pub(crate) uri: &'a str,
}

impl CertElement<'_> {
    /// `By=..;URI=..`. Identities have no character that needs quotes.
    fn write(&self) -> String {
        match self.by {
            Some(by) => format!("By={by};URI={}", self.uri),
            None => format!("URI={}", self.uri),
        }
    }
}

/// Applies the mode. `peer` is `None` where the peer proved no identity; `believed`: it is one of the proxies that are.
pub(crate) fn forward_client_cert(
    mode: ClientCert,
    peer: Option<CertElement<'_>>,
    believed: bool,
    headers: &mut HeaderMap,
) {
    let believed = believed && peer.is_some();
    if mode == ClientCert::ForwardOnly && believed {
        return;
    }
    let mut elements: Vec<String> = Vec::new();
    if mode == ClientCert::AppendForward && believed {
        elements.extend(headers.get_all(XFCC).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned));
    }
    headers.remove(XFCC);
    if let (ClientCert::AppendForward | ClientCert::SanitizeSet, Some(peer)) = (mode, peer) {
        elements.push(peer.write());
        if let Ok(value) = HeaderValue::from_str(&elements.join(",")) {
            headers.insert(XFCC, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mode: ClientCert, peer: bool, believed: bool, before: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in before {
            headers.append(XFCC, HeaderValue::from_static(value));
        }
        let element = CertElement { by: Some("spiffe://td/server"), uri: "spiffe://td/client" };
        forward_client_cert(mode, peer.then_some(element), believed, &mut headers);
        assert!(headers.get_all(XFCC).iter().count() <= 1);
        headers.get(XFCC).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_peers_that_are_believed_are_heard() {
        let own = "By=spiffe://td/server;URI=spiffe://td/client";
        let before = "URI=spiffe://td/before";
        let both = format!("{before},{own}");
        // Believed, with an identity only, and without.
        let rows = [
            (ClientCert::Sanitize, None, None),
            (ClientCert::ForwardOnly, Some(before), None),
            (ClientCert::AppendForward, Some(both.as_str()), Some(own)),
            (ClientCert::SanitizeSet, Some(own), Some(own)),
        ];
        for (mode, believed, known) in rows {
            assert_eq!(after(mode, true, true, &[before]).as_deref(), believed, "{mode:?}");
            assert_eq!(after(mode, true, false, &[before]).as_deref(), known, "{mode:?}");
            assert_eq!(after(mode, false, true, &[before]), None, "{mode:?}");
        }
        assert_eq!(after(ClientCert::AppendForward, true, true, &[]).as_deref(), Some(own));
        assert_eq!(after(ClientCert::AppendForward, true, true, &["a", "b"]), Some(format!("a,b,{own}")));
    }
}
