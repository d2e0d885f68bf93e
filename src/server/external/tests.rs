//! What may be changed, and what no answer may.

use http::{HeaderMap, HeaderValue};

use super::answer::{Changes, Denied, How};

#[test]
fn headers_are_set_appended_and_removed_in_this_order() {
    let mut changes = Changes::default();
    changes.remove("x-old").unwrap();
    changes.of_request("x-user", b"alice", How::Set).unwrap();
    changes.of_request("x-group", b"b", How::Append).unwrap();
    changes.of_request("x-there", b"new", How::IfAbsent).unwrap();
    changes.of_request("x-absent", b"new", How::IfPresent).unwrap();
    changes.of_request("x-old", b"new", How::IfAbsent).unwrap();
    changes.of_response("set-cookie", b"a=1", How::Append).unwrap();
    let mut request = HeaderMap::new();
    for (name, value) in [("x-user", "mallory"), ("x-group", "a"), ("x-there", "old"), ("x-old", "old")] {
        request.insert(name, HeaderValue::from_static(value));
    }
    let mut response = HeaderMap::new();
    changes.apply(&mut request, &mut response);
    let values = |name: &str| request.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(values("x-user"), ["alice"]);
    assert_eq!(values("x-group"), ["a", "b"]);
    assert_eq!(values("x-there"), ["old"]);
    assert_eq!(values("x-absent"), [""; 0]);
    assert_eq!(values("x-old"), ["new"]);
    assert_eq!(response["set-cookie"], "a=1");
}

#[test]
fn what_rules_have_seen_and_what_holds_a_message_together_stays() {
    for name in [
        ":path",
        ":method",
        ":authority",
        "host",
        "Host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "x-forwarded-client-cert",
        "sinew-ctx",
        "x-sinew-user",
        "x-envoy-peer-metadata",
        "grpc-timeout",
        "",
        "a b",
    ] {
        let mut changes = Changes::default();
        assert_eq!(changes.of_request(name, b"x", How::Set).unwrap_err().reason, "mutation", "{name}");
        assert_eq!(changes.of_response(name, b"x", How::Set).unwrap_err().reason, "mutation", "{name}");
        assert_eq!(changes.remove(name).unwrap_err().reason, "mutation", "{name}");
    }
    assert!(Changes::default().of_request("x-a", b"a\r\nb: c", How::Set).is_err());
}

#[test]
fn a_denial_is_never_a_success() {
    for (said, told) in [(401, 401), (302, 302), (503, 503), (200, 403), (101, 403), (0, 403), (700, 403)] {
        assert_eq!(Denied::new(said).status.as_u16(), told);
    }
    let grpc = Denied::new(401).finish(true);
    assert_eq!((grpc.status().as_u16(), &grpc.headers()["grpc-status"]), (200, &HeaderValue::from_static("16")));
}
