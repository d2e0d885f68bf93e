//! gRPC's authorization policies: JSON of gRFC A43.

use http::HeaderName;

use super::{
    ImportError,
    tree::{At, Fields},
};
use crate::{
    authn::object,
    authz::{Action, Expr, HeaderPart, HeaderTest, Operation, PathText, Policy, Rule, Text, ValueTest},
};

type Result<T> = std::result::Result<T, ImportError>;

/// Reads a policy. What is denied comes first, and what no rule allows is denied.
///
/// # Errors
/// If it is no JSON, has a field that is not known, or misses one that is needed.
pub fn grpc_authz(json: &str) -> Result<Policy> {
    let value =
        object(json.as_bytes()).ok_or(ImportError::new("policy", "it is no JSON object, or a name occurs twice"))?;
    let mut fields = At::new("policy", value.into()).fields()?;
    let name = fields.take(&["name"]).text()?;
    if name.is_empty() {
        return fields.fail("`name` is missing");
    }
    let mut policy = Policy { exclusive: true, ..Policy::default() };
    for (key, action) in [("deny_rules", Action::Deny), ("allow_rules", Action::Allow)] {
        let rules = fields.take(&[key]).items()?;
        if rules.is_empty() && action == Action::Allow {
            return fields.fail("`allow_rules` is missing");
        }
        for at in rules {
            policy.rules.push(rule(at.fields()?, &name, action.clone())?);
        }
    }
    if let Some(audit) = fields.take_some(&["audit_logging_options"]) {
        // Loggers belong to the other library; what is denied is an event here anyway.
        let mut audit = audit.fields()?;
        let condition = audit.take(&["audit_condition"]);
        if !condition.value.is_null() && condition.clone().text()? != "NONE" {
            return condition.fail("audit by decision cannot be kept; add a rule under `audit`, or read the events");
        }
        let _ = audit.take(&["audit_loggers"]);
        audit.end()?;
    }
    fields.end()?;
    Ok(policy)
}

fn rule(mut fields: Fields, policy: &str, action: Action) -> Result<Rule> {
    let name = fields.take(&["name"]).text()?;
    if name.is_empty() {
        return fields.fail("`name` is missing");
    }
    let mut rule = Rule::new(format!("{policy}_{name}"), action);
    rule.exact = true;
    let mut source = fields.take(&["source"]).fields()?;
    let principals = source.take(&["principals"]);
    if !principals.value.is_null() {
        let texts = principals.each(pattern)?;
        if !texts.is_empty() {
            rule.and.push(Expr::Identity(texts));
        }
    }
    source.end()?;
    let mut request = fields.take(&["request"]).fields()?;
    let paths = request.take(&["paths"]).each(|text| pattern(text).map(PathText::Text))?;
    if !paths.is_empty() {
        rule.to.push(Operation { paths, ..Operation::default() });
    }
    for header in request.take(&["headers"]).items()? {
        let mut header = header.fields()?;
        let key = header.take(&["key"]).text()?;
        let path = header.path.clone();
        let values = header.take(&["values"]).each(pattern)?;
        if values.is_empty() {
            return header.fail("`values` is missing");
        }
        header.end()?;
        let test = |text: Text| {
            let test = ValueTest::Text { text, folded: false };
            Ok(Expr::Header(HeaderTest {
                name: part(&key, &path)?,
                test,
                invert: false,
                missing_is_empty: false,
                each: false,
            }))
        };
        rule.and.push(Expr::Any(values.into_iter().map(test).collect::<Result<_>>()?));
    }
    request.end()?;
    fields.end()?;
    Ok(rule)
}

/// A43: exact, `abc*`, `*abc`, or `*` for anything that is not empty. Nothing else is special.
fn pattern(text: &str) -> std::result::Result<Text, String> {
    Ok(match text.as_bytes() {
        b"*" => Text::Present,
        [.., b'*'] => Text::Prefix(text[..text.len() - 1].into()),
        [b'*', ..] => Text::Suffix(text[1..].into()),
        _ => Text::exact(text),
    })
}

/// A43 names what may not be asked for: what belongs to gRPC or ends at a hop.
fn part(key: &str, path: &str) -> Result<HeaderPart> {
    let lower = key.to_ascii_lowercase();
    let forbidden = lower.is_empty()
        || lower.starts_with(':')
        || lower.starts_with("grpc-")
        || matches!(
            lower.as_str(),
            "host"
                | "connection"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        );
    match HeaderName::try_from(lower) {
        Ok(name) if !forbidden => Ok(HeaderPart::Name(name)),
        _ => Err(ImportError::new(format!("{path}.key"), format!("the header `{key}` may not be asked for"))),
    }
}
