//! Envoy's RBAC filter: its configuration in the JSON or YAML that stands for its protobuf.

use http::HeaderName;

use super::{
    ImportError,
    tree::{At, Fields},
};
use crate::{
    authz::{
        Action, Expr, HeaderPart, HeaderTest, HostText, Operation, PathText, Policy, Rule, Source, Text, ValueTest,
    },
    matching::{IpBlock, Pattern},
};

type Result<T> = std::result::Result<T, ImportError>;

/// Reads one `envoy.config.rbac.v3.RBAC`. Several filters in a row are several policies: each has to allow on its own.
///
/// # Errors
/// If it has a field whose meaning cannot be kept: metadata, filter state, conditions, regular expressions for identities.
pub fn envoy_rbac(text: &str) -> Result<Policy> {
    let value = crate::source::file::yaml(text).map_err(|error| ImportError::new("rbac", error))?;
    let mut fields = At::new("rbac", value).fields()?;
    let action = match fields.take_some(&["action"]).map(At::text).transpose()?.as_deref() {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("LOG") => Action::Audit,
        Some(other) => return fields.fail(format!("the action `{other}` is not known")),
    };
    let mut policy = Policy { exclusive: action == Action::Allow, ..Policy::default() };
    let mut named = fields.take(&["policies"]).fields()?.rest();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, at) in named {
        let mut fields = at.fields()?;
        let mut rule = Rule::new(name, action.clone());
        rule.exact = true;
        for (keys, read) in [
            (&["permissions"][..], permission as fn(At) -> Result<Expr>),
            (&["principals"][..], principal as fn(At) -> Result<Expr>),
        ] {
            let items = fields.take(keys);
            let exprs = items.clone().items()?.into_iter().map(read).collect::<Result<Vec<_>>>()?;
            if exprs.is_empty() {
                return items.fail("it is empty");
            }
            rule.and.push(Expr::Any(exprs));
        }
        fields.end()?;
        policy.rules.push(rule);
    }
    fields.end()?;
    Ok(policy)
}

/// The one field of a union.
fn one(at: At) -> Result<(String, At)> {
    let path = at.path.clone();
    let mut fields = at.fields()?.rest();
    match (fields.pop(), fields.is_empty()) {
        (Some(field), true) => Ok(field),
        _ => Err(ImportError::new(path, "exactly one field has to stand here")),
    }
}

fn always(at: At) -> Result<Expr> {
    if at.clone().boolean()? { Ok(Expr::All(Vec::new())) } else { at.fail("it has to be `true`") }
}

fn set(at: At, keys: &[&str], read: fn(At) -> Result<Expr>) -> Result<Vec<Expr>> {
    let mut fields = at.fields()?;
    let items = fields.take(keys).items()?;
    fields.end()?;
    items.into_iter().map(read).collect()
}

fn permission(at: At) -> Result<Expr> {
    let (name, at) = one(at)?;
    Ok(match name.as_str() {
        "any" => always(at)?,
        "andRules" | "and_rules" => Expr::All(set(at, &["rules"], permission)?),
        "orRules" | "or_rules" => Expr::Any(set(at, &["rules"], permission)?),
        "notRule" | "not_rule" => Expr::Not(Box::new(permission(at)?)),
        "header" => header(at.fields()?)?,
        "urlPath" | "url_path" => url_path(at.fields()?)?,
        "uriTemplate" | "uri_template" => uri_template(at.fields()?)?,
        "destinationIp" | "destination_ip" => {
            Expr::Operation(Operation { destination_ip_blocks: vec![cidr(at.fields()?)?], ..Operation::default() })
        }
        "destinationPort" | "destination_port" => {
            let port: u16 = at.number()?;
            Expr::Ports(port, u32::from(port) + 1)
        }
        "destinationPortRange" | "destination_port_range" => {
            let mut range = at.fields()?;
            let (start, end) = (range.take(&["start"]), range.take(&["end"]).number::<u32>()?);
            let start = if start.value.is_null() { 0 } else { start.number::<u16>()? };
            range.end()?;
            Expr::Ports(start, end)
        }
        "requestedServerName" | "requested_server_name" => Expr::ServerName(plain(string(at.clone())?, &at)?),
        _ => return unknown(&at),
    })
}

fn principal(at: At) -> Result<Expr> {
    let (name, at) = one(at)?;
    let block = |at: At| cidr(at.fields()?);
    Ok(match name.as_str() {
        "any" => always(at)?,
        "andIds" | "and_ids" => Expr::All(set(at, &["ids"], principal)?),
        "orIds" | "or_ids" => Expr::Any(set(at, &["ids"], principal)?),
        "notId" | "not_id" => Expr::Not(Box::new(principal(at)?)),
        "header" => header(at.fields()?)?,
        "urlPath" | "url_path" => url_path(at.fields()?)?,
        "authenticated" => {
            let mut fields = at.fields()?;
            let name = fields.take_some(&["principalName", "principal_name"]);
            fields.end()?;
            match name {
                None => Expr::Identity(vec![Text::Prefix("".into())]),
                Some(at) => identity(at)?,
            }
        }
        // What we look at is the connection's own address; behind trusted proxies the client's.
        "sourceIp" | "source_ip" | "directRemoteIp" | "direct_remote_ip" => {
            Expr::Source(Source { ip_blocks: vec![block(at)?], ..Source::default() })
        }
        "remoteIp" | "remote_ip" => Expr::Source(Source { remote_ip_blocks: vec![block(at)?], ..Source::default() }),
        _ => return unknown(&at),
    })
}

fn unknown<T>(at: &At) -> Result<T> {
    at.fail("this is not known, or its meaning cannot be kept; nothing was imported")
}

/// Identities are compared literally. The few expressions that Istio writes for what it means literally are read as that.
fn identity(at: At) -> Result<Expr> {
    let path = at.path.clone();
    match string(at)? {
        (Text::Regex(pattern), _) => istio_identity(pattern.as_str())
            .ok_or_else(|| ImportError::new(path, "an identity is compared literally, not by a regular expression")),
        (_, true) => Err(ImportError::new(path, "an identity is compared literally, so case matters")),
        (text, false) if text.matches("") => {
            Err(ImportError::new(path, "an empty identity means TLS without a certificate there, and nothing here"))
        }
        (text, false) => Ok(Expr::Identity(vec![text])),
    }
}

/// What Istio compiles namespaces, service accounts, trust domains and `*` to.
fn istio_identity(regex: &str) -> Option<Expr> {
    let literal = |text: &str| {
        let plain = text.replace("\\.", ".").replace("\\-", "-");
        let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        plain.chars().all(ordinary).then_some(plain)
    };
    if regex == ".+" {
        return Some(Expr::Identity(vec![Text::Present]));
    }
    if let Some(name) = regex.strip_prefix(".*/ns/").and_then(|rest| rest.strip_suffix("/.*")) {
        let star = |name: &str| match (name.strip_prefix(".*"), name.strip_suffix(".*")) {
            (Some(rest), _) => literal(rest).map(|text| Text::Suffix(text.into())),
            (_, Some(rest)) => literal(rest).map(|text| Text::Prefix(text.into())),
            _ => literal(name).map(Text::exact),
        };
        return Some(Expr::Source(Source { namespaces: vec![star(name)?], ..Source::default() }));
    }
    if let Some(rest) = regex.strip_prefix("spiffe://.+/ns/").and_then(|rest| rest.strip_suffix("(/.+)?")) {
        let (namespace, name) = rest.split_once("/(.+/|)sa/")?;
        let account = (literal(namespace)?.into(), literal(name)?.into());
        return Some(Expr::Source(Source { service_accounts: vec![account], ..Source::default() }));
    }
    let domain = regex.strip_prefix("spiffe://").and_then(|rest| rest.strip_suffix("/.*"))?;
    let text = match (domain.strip_prefix("[^/]*"), domain.strip_suffix("[^/]*")) {
        (Some(rest), _) => Text::Suffix(literal(rest)?.into()),
        (_, Some(rest)) => Text::Prefix(literal(rest)?.into()),
        _ => Text::exact(literal(domain)?),
    };
    Some(Expr::Source(Source { trust_domains: vec![text], ..Source::default() }))
}

/// A `StringMatcher`, and whether it ignores case; the text is in lower case then.
fn string(at: At) -> Result<(Text, bool)> {
    let path = at.path.clone();
    let mut fields = at.fields()?;
    let folded = fields.take_some(&["ignoreCase", "ignore_case"]).map(At::boolean).transpose()?.unwrap_or_default();
    let mut found = Vec::new();
    for (name, at) in fields.rest() {
        let pattern = at.path.clone();
        let text = match name.as_str() {
            "exact" => Text::exact(at.text()?),
            "prefix" => Text::Prefix(at.text()?.into()),
            "suffix" => Text::Suffix(at.text()?.into()),
            "contains" => Text::Contains(at.text()?.into()),
            "safeRegex" | "safe_regex" => Text::Regex(regex(at).map_err(|error| ImportError::new(pattern, error))?),
            _ => return unknown(&at),
        };
        found.push(text);
    }
    match (found.pop(), found.is_empty()) {
        (Some(Text::Regex(_)), true) if folded => {
            Err(ImportError::new(path, "a regular expression says itself what case is"))
        }
        (Some(text), true) => Ok((if folded { text.lower() } else { text }, folded)),
        _ => Err(ImportError::new(path, "exactly one pattern has to stand here")),
    }
}

fn regex(at: At) -> Result<Pattern> {
    let mut fields = at.fields()?;
    // Which engine: there is one.
    let _ = fields.take(&["googleRe2", "google_re2"]);
    let at = fields.take(&["regex"]);
    fields.end()?;
    let path = at.path.clone();
    Pattern::new(&at.text()?).map_err(|error| ImportError::new(path, error))
}

fn plain((text, folded): (Text, bool), at: &At) -> Result<Text> {
    if folded { at.fail("case cannot be ignored here") } else { Ok(text) }
}

fn url_path(mut fields: Fields) -> Result<Expr> {
    let at = fields.take(&["path"]);
    fields.end()?;
    Ok(match string(at)? {
        (text, true) => Expr::PathFolded(text),
        (text, false) => Expr::Operation(Operation { paths: vec![PathText::Text(text)], ..Operation::default() }),
    })
}

/// As Istio writes it: `*` for a segment, `**` for any number.
fn uri_template(mut fields: Fields) -> Result<Expr> {
    let _ = fields.take(&["name"]);
    let mut config = fields.take(&["typedConfig", "typed_config"]).fields()?;
    fields.end()?;
    let _ = config.take(&["@type"]);
    let at = config.take(&["pathTemplate", "path_template"]);
    config.end()?;
    let path = at.path.clone();
    let template: Vec<String> = at
        .text()?
        .split('/')
        .map(|segment| match segment {
            "*" | "**" => format!("{{{segment}}}"),
            other => other.to_owned(),
        })
        .collect();
    let template = PathText::new(&template.join("/")).map_err(|error| ImportError::new(path, error))?;
    Ok(Expr::Operation(Operation { paths: vec![template], ..Operation::default() }))
}

fn cidr(mut fields: Fields) -> Result<IpBlock> {
    let at = fields.take(&["addressPrefix", "address_prefix"]);
    let path = at.path.clone();
    let prefix = at.text()?;
    let length = match fields.take_some(&["prefixLen", "prefix_len"]) {
        None => 0,
        Some(at) => {
            // A wrapped number may stand as a map of its own.
            let at = match at.value {
                serde_json::Value::Object(_) => at.fields()?.take(&["value"]),
                _ => at,
            };
            at.number::<u8>()?
        }
    };
    fields.end()?;
    format!("{prefix}/{length}").parse().map_err(|error| ImportError::new(path, error))
}

fn header(mut fields: Fields) -> Result<Expr> {
    let at = fields.take(&["name"]);
    let path = at.path.clone();
    let name = at.text()?.to_ascii_lowercase();
    let mut flag = |names: &[&str]| fields.take_some(names).map(At::boolean).transpose().map(Option::unwrap_or_default);
    let invert = flag(&["invertMatch", "invert_match"])?;
    let missing_is_empty = flag(&["treatMissingHeaderAsEmpty", "treat_missing_header_as_empty"])?;
    let name = match name.as_str() {
        ":method" => HeaderPart::Method,
        ":authority" | "host" => HeaderPart::Authority,
        ":path" => HeaderPart::Path,
        // gRFC A41.
        ":scheme" => return Err(ImportError::new(path, "the scheme may not be asked for")),
        name if name.starts_with("grpc-") => {
            return Err(ImportError::new(path, format!("`{name}` belongs to gRPC and may not be asked for")));
        }
        name => HeaderPart::Name(
            HeaderName::try_from(name).map_err(|_| ImportError::new(path, "that is not a header name"))?,
        ),
    };
    let where_ = fields.path.clone();
    let mut tests = Vec::new();
    let exact = |text: Text| ValueTest::Text { text, folded: false };
    for (key, at) in fields.rest() {
        let pattern = at.path.clone();
        tests.push(match key.as_str() {
            "stringMatch" | "string_match" => {
                let (text, folded) = string(at)?;
                ValueTest::Text { text, folded }
            }
            "exactMatch" | "exact_match" => exact(Text::exact(at.text()?)),
            "prefixMatch" | "prefix_match" => exact(Text::Prefix(at.text()?.into())),
            "suffixMatch" | "suffix_match" => exact(Text::Suffix(at.text()?.into())),
            "containsMatch" | "contains_match" => exact(Text::Contains(at.text()?.into())),
            "safeRegexMatch" | "safe_regex_match" => {
                exact(Text::Regex(regex(at).map_err(|error| ImportError::new(pattern, error))?))
            }
            "presentMatch" | "present_match" => ValueTest::Present(at.boolean()?),
            "rangeMatch" | "range_match" => {
                let mut range = at.fields()?;
                let bound = |at: At| if at.value.is_null() { Ok(0) } else { at.number::<i64>() };
                let (start, end) = (bound(range.take(&["start"]))?, bound(range.take(&["end"]))?);
                range.end()?;
                ValueTest::Range(start, end)
            }
            _ => return unknown(&at),
        });
    }
    // Without a test it is one for presence.
    let test = match (tests.pop(), tests.is_empty()) {
        (Some(test), true) => test,
        (None, _) => ValueTest::Present(true),
        _ => return Err(ImportError::new(where_, "exactly one test has to stand here")),
    };
    if let (HeaderPart::Authority, ValueTest::Text { text: Text::Exact(text), .. }) = (&name, &test) {
        // Hosts have one spelling here, whatever the request's is.
        let host = HostText::new(text).map_err(|error| ImportError::new(where_, error))?;
        let holds = Expr::Operation(Operation { hosts: vec![host], ..Operation::default() });
        return Ok(if invert { Expr::Not(Box::new(holds)) } else { holds });
    }
    let test = match test {
        ValueTest::Text { text, .. } if name == HeaderPart::Authority => {
            ValueTest::Text { text: text.lower(), folded: true }
        }
        test => test,
    };
    // Envoy looks at each value since 1.37, at all of them joined before, and so does gRFC A41: what either denies is denied.
    Ok(Expr::Header(HeaderTest { name, test, invert, missing_is_empty, each: true }))
}
