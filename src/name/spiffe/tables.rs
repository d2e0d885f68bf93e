//! The tables of go-spiffe's `TestFromString` and `TestTrustDomainFromString`, regenerated from their rules.

use super::*;

const DOMAIN: &str = "only lower-case letters, digits, `.`, `-` and `_` may appear in a trust domain";
const PATH: &str = "only letters, digits, `.`, `-` and `_` may appear in its path";
const SCHEMELESS: &str = "it does not begin with `spiffe://`";
const MISSING: &str = "the trust domain is empty";
const EMPTY: &str = "a segment of its path is empty";
const DOTS: &str = "`.` and `..` cannot be segments of its path";

fn in_trust_domain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
}

fn in_path(c: char) -> bool {
    in_trust_domain(c) || c.is_ascii_uppercase()
}

/// An input, and either the trust domain and path it means or why it is refused.
type Row = (String, Result<(String, String), &'static str>);

fn id_rows() -> Vec<Row> {
    let ok = |id: &str, path: &str| (id.to_owned(), Ok(("trustdomain".to_owned(), path.to_owned())));
    let bad = |id: &str, why| (id.to_owned(), Err(why));
    let mut rows = vec![bad("", SCHEMELESS), ok("spiffe://trustdomain", "")];
    // Every code point below 256, so that UTF-8 of two bytes is among them; `/` separates and is no character.
    for c in (0..=255u8).map(char::from).filter(|c| *c != '/') {
        rows.push((
            format!("spiffe://trustdomain{c}/path"),
            if in_trust_domain(c) { Ok((format!("trustdomain{c}"), "/path".into())) } else { Err(DOMAIN) },
        ));
        rows.push((
            format!("spiffe://trustdomain/path{c}"),
            if in_path(c) { Ok(("trustdomain".into(), format!("/path{c}"))) } else { Err(PATH) },
        ));
    }
    for (id, why) in [
        ("s", SCHEMELESS),
        ("spiffe:/", SCHEMELESS),
        ("Spiffe://", SCHEMELESS),
        ("spiffe://", MISSING),
        ("spiffe:///", MISSING),
        ("spiffe://trustdomain/", EMPTY),
        ("spiffe://trustdomain//", EMPTY),
        ("spiffe://trustdomain//path", EMPTY),
        ("spiffe://trustdomain/path/", EMPTY),
        ("spiffe://trustdomain/.", DOTS),
        ("spiffe://trustdomain/./path", DOTS),
        ("spiffe://trustdomain/path/./other", DOTS),
        ("spiffe://trustdomain/path/..", DOTS),
        ("spiffe://trustdomain/..", DOTS),
        ("spiffe://trustdomain/../path", DOTS),
        ("spiffe://trustdomain/path/../other", DOTS),
        ("spiffe://%F0%9F%A4%AF/path", DOMAIN),
        ("spiffe://trustdomain/%F0%9F%A4%AF", PATH),
        ("spiffe://%62%61%64/path", DOMAIN),
        ("spiffe://trustdomain/%62%61%64", PATH),
    ] {
        rows.push(bad(id, why));
    }
    for path in ["/.path", "/..path", "/..."] {
        rows.push(ok(&format!("spiffe://trustdomain{path}"), path));
    }
    rows
}

fn trust_domain_rows() -> Vec<(String, Result<String, &'static str>)> {
    let mut rows = vec![(String::new(), Err(MISSING))];
    for id in ["spiffe://trustdomain", "spiffe://trustdomain/path"] {
        rows.push((id.into(), Ok("trustdomain".into())));
    }
    for (id, why) in [
        ("spiffe:/trustdomain/path", SCHEMELESS),
        ("spiffe://", MISSING),
        ("spiffe:///path", MISSING),
        ("spiffe://trustdomain/", EMPTY),
        ("spiffe://trustdomain/path/", EMPTY),
        ("spiffe://%F0%9F%A4%AF/path", DOMAIN),
        ("spiffe://trustdomain/%F0%9F%A4%AF", PATH),
    ] {
        rows.push((id.into(), Err(why)));
    }
    for c in (0..=255u8).map(char::from) {
        let name = format!("trustdomain{c}");
        rows.push((name.clone(), if in_trust_domain(c) { Ok(name) } else { Err(DOMAIN) }));
    }
    rows
}

#[test]
fn all_801_rows_of_the_tables() {
    let ids = id_rows();
    assert_eq!(ids.len(), 535);
    for (input, expected) in ids {
        match (SpiffeId::new(&input), expected) {
            (Ok(id), Ok((trust_domain, path))) => {
                assert_eq!((id.as_str(), id.trust_domain(), id.path()), (&*input, &*trust_domain, &*path));
                assert!(id.is_member_of(&TrustDomain::new(&trust_domain).unwrap()));
            }
            (Err(error), Err(why)) => assert_eq!(error.why, why, "{input:?}"),
            (found, expected) => panic!("{input:?}: {found:?}, expected {expected:?}"),
        }
    }
    let domains = trust_domain_rows();
    assert_eq!(domains.len(), 266);
    for (input, expected) in domains {
        match (TrustDomain::new(&input), expected) {
            (Ok(domain), Ok(name)) => {
                assert_eq!(domain.as_str(), name);
                // A good name is also good in an id.
                let id = domain.id("").unwrap();
                assert_eq!(id.as_str(), format!("spiffe://{name}"));
                assert_eq!(TrustDomain::new(id.as_str()).unwrap(), domain);
            }
            (Err(error), Err(why)) => assert_eq!(error.why, why, "{input:?}"),
            (found, expected) => panic!("{input:?}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn an_error_does_not_repeat_hostile_text() {
    let error = SpiffeId::new(&"ä".repeat(5_000)).unwrap_err();
    assert!(error.to_string().len() < 400);
}
