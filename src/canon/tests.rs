//! Tables: what `strict` refuses and why, and whose bytes decided. What the levels of Istio make of paths, and the
//! advisories that this room answers, are vectors: `source::import`.

use http::{Method, Request, Uri, Version};

use super::{Authority, Canonical, PathNormalization, canonicalize, normalize::normalize, path, request};

fn request(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<Request<()>> {
    let uri: Uri = Uri::try_from(target.as_bytes()).ok()?;
    let mut builder =
        Request::builder().version(version).method(Method::from_bytes(method.as_bytes()).unwrap()).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    Some(builder.body(()).unwrap())
}

/// The part that is refused; `None` if the request is taken. `syntax` if it cannot even be parsed.
fn refused(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
    let Some(mut request) = request(version, method, target, headers) else { return Some("syntax") };
    let grpc = headers.iter().any(|(name, value)| *name == "content-type" && value.starts_with("application/grpc"));
    canonicalize(&mut request, grpc, PathNormalization::Strict).err().map(|ambiguous| ambiguous.part)
}

#[test]
fn strict_refuses_what_can_be_read_in_two_ways() {
    let bad = [
        "//",
        "//a",
        "/a//b",
        "/a//",
        "/.",
        "/./",
        "/./a",
        "/..",
        "/../",
        "/../a",
        "/a/.",
        "/a/..",
        "/a/./b",
        "/a/../b",
        "/%2e%2e/a",
        "/.%2e/a",
        "/%2E/a",
        "/a%2fb",
        "/a%2Fb",
        "/%2f",
        "/a%5cb",
        "/a%5Cb",
        "/a\\b",
        "/\\",
        "/a%25",
        "/%252e",
        "/%25252e",
        "/%00",
        "/a%00b",
        "/%01",
        "/%1f",
        "/%7f",
        "/%0a",
        "/%0d%0a",
        "/%41",
        "/%7e",
        "/%2d",
        "/%5f",
        "/%30",
        "/%",
        "/%2",
        "/%zz",
        "/a%",
        "/a%g0",
        "/\u{e9}",
        "/%ff",
        "/%c0%ae",
        "/%c0%af",
        "/%e2%82",
        "",
        "a",
        "a/b",
    ];
    for path in bad {
        assert!(path::strict(path).is_err(), "{path}");
    }
    for byte in (0u8..=0x20).chain([0x7f]) {
        assert!(path::strict(&format!("/a{}b", byte as char)).is_err(), "{byte:#x}");
    }
}

#[test]
fn strict_takes_the_rest_and_patterns_see_it_decoded_once() {
    let good = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/...",
        "/..a",
        "/a..",
        "/.a",
        "/.well-known/jwks.json",
        "/a.b/c",
        "/a;b=c",
        "/a,b",
        "/a:b",
        "/@a",
        "/a=b",
        "/a+b",
        "/a&b",
        "/~a",
        "/a!b$c'd(e)f*g",
        "/pkg.Service/Method",
    ];
    for path in good {
        assert_eq!(path::strict(path), Ok(None), "{path}");
    }
    let decoded = [
        ("/a%20b", "/a b"),
        ("/caf%C3%A9", "/caf\u{e9}"),
        ("/%E2%82%AC/x", "/\u{20ac}/x"),
        ("/a%3Bb", "/a;b"),
        ("/a%3Fb", "/a?b"),
        ("/a%23b", "/a#b"),
        ("/%20.%20", "/ . "),
        ("/a%2Cb%3db", "/a,b=b"),
    ];
    for (path, expected) in decoded {
        assert_eq!(path::strict(path).unwrap().as_deref(), Some(expected), "{path}");
    }
}

/// 256 encoded bytes: which are refused is what RFC 3986 §2 and the rule above say, and nothing else.
#[test]
fn every_encoded_byte_has_a_verdict() {
    for byte in 0..=255u8 {
        let refused = byte.is_ascii_control()
            || byte.is_ascii_alphanumeric()
            || b"-._~/\\%".contains(&byte)
            // Alone it is no UTF-8.
            || byte >= 0x80;
        for path in [format!("/admin%{byte:02x}"), format!("/admin%{byte:02X}")] {
            assert_eq!(path::strict(&path).is_err(), refused, "{path}");
        }
    }
}

const LEVELS: [PathNormalization; 4] = [
    PathNormalization::None,
    PathNormalization::Base,
    PathNormalization::MergeSlashes,
    PathNormalization::DecodeAndMergeSlashes,
];

/// What Istio's levels make of a path each: some of the vectors that `source::import` counts.
const BY_LEVEL: [(&str, [&str; 4]); 16] = [
    ("/", ["/"; 4]),
    ("/app#foo", ["/app"; 4]),
    ("/app/", ["/app/"; 4]),
    ("/app/../admin", ["/app/../admin", "/admin", "/admin", "/admin"]),
    ("/app", ["/app"; 4]),
    ("/app//", ["/app//", "/app//", "/app/", "/app/"]),
    ("/app/%2f", ["/app/%2f", "/app/%2f", "/app/%2f", "/app/"]),
    ("/app%2f/", ["/app%2f/", "/app%2f/", "/app%2f/", "/app/"]),
    ("/xyz%30..//abc", ["/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"]),
    ("/app/%2E./admin", ["/app/%2E./admin", "/admin", "/admin", "/admin"]),
    ("/app\\admin", ["/app\\admin", "/app/admin", "/app/admin", "/app/admin"]),
    ("/app/\\/\\/\\admin", ["/app/\\/\\/\\admin", "/app//////admin", "/app/admin", "/app/admin"]),
    (
        "/%2Fapp%5cadmin%5Cabc",
        ["/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"],
    ),
    (
        "/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc",
        [
            "/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc",
            "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
            "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
            "/app/admin/abc",
        ],
    ),
    ("/app//../admin", ["/app//../admin", "/app/admin", "/app/admin", "/app/admin"]),
    ("/app//../../admin", ["/app//../../admin", "/admin", "/admin", "/admin"]),
];

#[test]
fn levels_are_idempotent_and_keep_the_query() {
    for (path, _) in BY_LEVEL {
        for level in LEVELS {
            let path = path.split('#').next().unwrap();
            let once = normalize(path, level).unwrap().into_owned();
            assert_eq!(normalize(&once, level).unwrap(), once, "{path} at {level:?}");
        }
    }
    let mut request = request(Version::HTTP_11, "GET", "/a/../b?c=/../d", &[("host", "a")]).unwrap();
    canonicalize(&mut request, false, PathNormalization::Base).unwrap();
    assert_eq!(request.uri(), "/b?c=/../d");
    let mut request = self::request(Version::HTTP_2, "GET", "https://h/a/../b", &[]).unwrap();
    canonicalize(&mut request, false, PathNormalization::Base).unwrap();
    assert_eq!(request.uri(), "https://h/b");
}

#[test]
fn targets_are_in_origin_form_or_refused() {
    let h1 = Version::HTTP_11;
    let rows: &[(&str, &str, &str, Option<&str>)] = &[
        ("GET", "/a", "good", None),
        ("GET", "evil:80", "good", Some("host")),
        ("GET", "good:80", "good", Some("target")),
        ("GET", "good", "good", Some("target")),
        ("GET", "http://evil/", "good", Some("host")),
        ("GET", "http://good/", "good", None),
        ("GET", "http://GOOD.:80/", "good", None),
        ("GET", "http://good:81/", "good", Some("host")),
        ("GET", "https://good:443/", "good", None),
        ("OPTIONS", "*", "good", None),
        ("GET", "*", "good", Some("target")),
        ("CONNECT", "good:443", "good:443", None),
        ("CONNECT", "good:443", "good", None),
        ("CONNECT", "evil:443", "good", Some("host")),
        ("CONNECT", "/a", "good", Some("target")),
    ];
    for (method, target, host, expected) in rows {
        assert_eq!(refused(h1, method, target, &[("host", host)]), *expected, "{method} {target} Host: {host}");
    }
}

#[test]
fn a_request_has_one_host() {
    let (h1, h10, h2) = (Version::HTTP_11, Version::HTTP_10, Version::HTTP_2);
    assert_eq!(refused(h1, "GET", "/", &[]), Some("host"));
    assert_eq!(refused(h1, "GET", "/", &[("host", "a"), ("host", "a")]), Some("host"));
    assert_eq!(refused(h1, "GET", "/", &[("host", "a"), ("host", "b")]), Some("host"));
    assert_eq!(refused(h1, "GET", "/", &[("host", "")]), None);
    assert_eq!(refused(h10, "GET", "/", &[]), None);
    assert_eq!(refused(h10, "GET", "/", &[("host", "a"), ("host", "b")]), Some("host"));
    assert_eq!(refused(h2, "GET", "https://a/", &[]), None);
    assert_eq!(refused(h2, "GET", "https://a/", &[("host", "a")]), None);
    assert_eq!(refused(h2, "GET", "https://a/", &[("host", "A:443")]), None);
    assert_eq!(refused(h2, "GET", "https://a/", &[("host", "b")]), Some("host"));
    assert_eq!(refused(h2, "GET", "http://a/", &[("host", "a:443")]), Some("host"));
    for bad in
        ["user@a", "user:pw@a", "a,b", "a b", "a/b", "a:x", "a:99999", ".", "a..", "[::1", "a%2eb", "a\\b", "a;b"]
    {
        assert_eq!(refused(h1, "GET", "/", &[("host", bad)]), Some("host"), "{bad}");
    }
}

#[test]
fn authorities_have_one_spelling() {
    let parse =
        |text: &str, scheme| Authority::parse(text, scheme).map(|own| (own.host.into_owned(), own.port)).unwrap();
    for text in ["Example.COM", "example.com.", "example.com:80", "EXAMPLE.com.:80", "example.com:"] {
        assert_eq!(parse(text, Some("http")), ("example.com".into(), None), "{text}");
    }
    assert_eq!(parse("example.com:80", Some("https")), ("example.com".into(), Some(80)));
    assert_eq!(parse("example.com:8080", None), ("example.com".into(), Some(8080)));
    assert_eq!(parse("[::1]:9080", None), ("[::1]".into(), Some(9080)));
    assert_eq!(parse("10.0.0.1", None), ("10.0.0.1".into(), None));
    let uri: Uri = "https://Example.com.:443/".parse().unwrap();
    let headers = http::HeaderMap::new();
    let own = request::host(&uri, &headers).unwrap();
    assert_eq!((own.host.as_ref(), own.port), ("example.com", None));
}

#[test]
fn grpc_paths_have_one_form() {
    let grpc = [("host", "a"), ("content-type", "application/grpc+proto")];
    for good in ["/pkg.Service/Method", "/S/M", "/a_b.C_1/D_2", "/S/M.x"] {
        assert_eq!(refused(Version::HTTP_11, "POST", good, &grpc), None, "{good}");
    }
    for bad in ["/", "/S", "/S/", "/S/M/", "/a/S/M", "//M", "/S/M%20", "/S-x/M", "/S/M;x"] {
        assert_eq!(refused(Version::HTTP_11, "POST", bad, &grpc), Some("path"), "{bad}");
    }
    // Only gRPC is held to it.
    assert_eq!(refused(Version::HTTP_11, "POST", "/S-x/M", &[("host", "a")]), None);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What passes, decoded, has no second reading: no reader that decodes again, resolves dots or merges slashes
        /// finds anything to do.
        #[test]
        fn what_strict_takes_no_other_reader_changes(path in "/([a./%\\\\ ]|%2e|%2F|%41|%20|%c3%a9|\\.\\.){0,12}") {
            if path::strict(&path).is_ok() {
                for level in LEVELS {
                    prop_assert_eq!(normalize(&path, level).unwrap(), path.as_str());
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(path in "\\PC{0,40}", host in "\\PC{0,20}") {
            let _ = path::strict(&path);
            let _ = Authority::parse(&host, None);
            for level in LEVELS {
                let _ = normalize(&path, level);
            }
        }
    }
}

#[test]
fn nothing_is_kept_for_a_plain_request() {
    assert_eq!(size_of::<Canonical>(), 2 * size_of::<usize>());
    let mut request = request(Version::HTTP_11, "GET", "/a?b", &[("host", "a")]).unwrap();
    let canonical = canonicalize(&mut request, false, PathNormalization::Strict).unwrap();
    assert_eq!(canonical.path(request.uri()), "/a");
}
