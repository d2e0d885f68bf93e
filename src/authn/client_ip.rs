//! Where a request came from, if the proxies in front may be believed.
//!
//! Each proxy appends the address of its peer, so with N trusted proxies the client is the Nth entry from the right; what
//! stands left of it anybody may have written. Fewer entries, or one that is no address: the peer.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use super::policy::{ClientAddress, ForwardedHeader};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED: HeaderName = http::header::FORWARDED;

/// The client's address, in canonical form.
pub(crate) fn client_ip(policy: &ClientAddress, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    let trusted = policy.trusted_proxies.is_empty() || policy.trusted_proxies.iter().any(|net| net.contains(peer));
    if policy.trusted_hops == 0 || !trusted {
        return peer;
    }
    let (name, entry): (_, fn(&str) -> Option<IpAddr>) = match policy.header {
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, address),
        ForwardedHeader::Forwarded => (FORWARDED, forwarded),
    };
    // Several lines are one list; the last entry of the last line is the newest.
    let mut left = policy.trusted_hops;
    for line in headers.get_all(name).iter().rev() {
        let Ok(line) = line.to_str() else { return peer };
        for text in line.rsplit(',') {
            let Some(found) = entry(text.trim()) else { return peer };
            left -= 1;
            if left == 0 {
                return found;
            }
        }
    }
    peer
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = inner.unwrap_or(text).parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

/// `for=192.0.2.1;proto=https`, `For="[2001:db8::1]:4711"`.
fn forwarded(text: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in text.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            let value = value.trim();
            let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            if found.replace(inner.unwrap_or(value)).is_some() {
                return None;
            }
        }
    }
    found.and_then(address)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(header: ForwardedHeader, hops: u8, proxies: &[&str], peer: &str, lines: &[&str]) -> String {
        let policy = ClientAddress {
            header,
            trusted_hops: hops,
            trusted_proxies: proxies.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            let name = match header {
                ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
                ForwardedHeader::Forwarded => FORWARDED,
            };
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        client_ip(&policy, peer.parse().unwrap(), &headers).to_string()
    }

    fn xff(hops: u8, peer: &str, lines: &[&str]) -> String {
        found(ForwardedHeader::XForwardedFor, hops, &[], peer, lines)
    }

    /// The examples of Envoy's documentation of `x-forwarded-for`: an edge with 0 and 2 trusted hops, inner services
    /// behind one proxy that appends its peer, and behind two.
    #[test]
    fn envoys_worked_examples() {
        assert_eq!(xff(0, "192.0.2.5", &["203.0.113.128,203.0.113.10,203.0.113.1"]), "192.0.2.5");
        assert_eq!(xff(2, "192.0.2.5", &["203.0.113.128,203.0.113.10,203.0.113.1"]), "203.0.113.10");
        assert_eq!(xff(1, "10.11.12.13", &["203.0.113.128,203.0.113.10,203.0.113.1,192.0.2.5"]), "192.0.2.5");
        assert_eq!(xff(3, "10.11.12.13", &["203.0.113.128,203.0.113.10,203.0.113.1,192.0.2.5"]), "203.0.113.10");
        assert_eq!(xff(1, "127.0.0.1", &["10.20.30.40"]), "10.20.30.40");
        assert_eq!(xff(1, "127.0.0.1", &["10.20.30.40,10.20.30.50"]), "10.20.30.50");
    }

    #[test]
    fn what_cannot_be_believed_is_the_peer() {
        let peer = "192.0.2.5";
        for lines in [
            &[][..],
            &["1.2.3.4"],
            &["garbage,1.2.3.4"],
            &["1.2.3.4,"],
            &["1.2.3.4,,5.6.7.8"],
            &["1.2.3.4,unknown"],
            &["1.2.3.4 5.6.7.8"],
        ] {
            assert_eq!(xff(2, peer, lines), peer, "{lines:?}");
        }
        // Entries further left than what is trusted do not matter.
        assert_eq!(xff(1, peer, &["garbage,1.2.3.4"]), "1.2.3.4");
        assert_eq!(xff(2, peer, &["9.9.9.9", "1.2.3.4,5.6.7.8"]), "1.2.3.4");
        assert_eq!(xff(3, peer, &["9.9.9.9", "1.2.3.4,5.6.7.8"]), "9.9.9.9");
        let long = vec!["1.2.3.4"; 1000].join(",");
        assert_eq!(xff(255, peer, &[&long]), "1.2.3.4");
    }

    #[test]
    fn addresses_are_read_in_all_their_spellings() {
        for (text, expected) in [
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(xff(1, "127.0.0.1", &[text]), expected, "{text}");
        }
    }

    #[test]
    fn only_trusted_peers_are_believed() {
        let find = |peer| found(ForwardedHeader::XForwardedFor, 1, &["10.0.0.0/8"], peer, &["1.2.3.4"]);
        assert_eq!(find("10.1.2.3"), "1.2.3.4");
        assert_eq!(find("::ffff:10.1.2.3"), "1.2.3.4");
        assert_eq!(find("11.1.2.3"), "11.1.2.3");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let find = |hops, lines: &[&str]| found(ForwardedHeader::Forwarded, hops, &[], "127.0.0.1", lines);
        assert_eq!(find(1, &["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(find(2, &["for=192.0.2.43, For=\"[2001:db8:cafe::17]:4711\""]), "192.0.2.43");
        assert_eq!(find(1, &["for=192.0.2.43, For=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        for bad in ["for=unknown", "for=_hidden", "by=1.2.3.4", "for=1.2.3.4;for=5.6.7.8", "1.2.3.4", "for=\"1.2.3.4"] {
            assert_eq!(find(1, &[bad]), "127.0.0.1", "{bad}");
        }
    }
}
