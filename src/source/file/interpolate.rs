//! `${NAME}` and `${NAME:-default}` inside scalar values.
//!
//! Values only, after the document's structure is known: a variable can never add a key, and quoting it is never
//! needed. `$${` stands for a literal `${`. An empty variable counts as unset for `:-`, as in a shell.

/// What is wrong, and the cure.
type Wrong = (String, String);

/// Replaces the variables of a value.
pub(super) fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            return Err(("`${` has no closing `}`".into(), "close it, or write `$${` for a literal `${`".into()));
        };
        let inside = &rest[at + 2..at + end];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let valid = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !valid {
            return Err((
                format!("`{}` is not the name of an environment variable", name.escape_debug()),
                "write `${NAME}` or `${NAME:-default}`, or `$${` for a literal `${`".into(),
            ));
        }
        match (env(name), default) {
            (Some(value), _) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (Some(_), None) => {}
            (None, None) => {
                return Err((
                    format!("the environment variable `{name}` is not set"),
                    format!("set it, or give a default: `${{{name}:-default}}`"),
                ));
            }
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_defaults_and_escapes() {
        let env = |name: &str| match name {
            "HOST" => Some("h".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let ok = |text: &str| interpolate(text, &env).unwrap();
        assert_eq!(ok("plain $ {x}"), "plain $ {x}");
        assert_eq!(ok("${HOST}:${PORT:-80}"), "h:80");
        assert_eq!(ok("a${EMPTY}b${EMPTY:-c}"), "abc");
        assert_eq!(ok("$${HOST} ${HOST}"), "${HOST} h");
        for bad in ["${PORT}", "${HOST", "${}", "${1X}", "${a b}"] {
            assert!(interpolate(bad, &env).is_err(), "{bad}");
        }
    }
}
