//! Conditions in CEL, bounded before anything is parsed.
//!
//! CEL terminates, but an expression may still be large enough to overflow a stack while it is parsed, or slow enough to
//! hold a thread. So its source is at most 1 KiB, the tree at most 256 nodes, no comprehension stands inside of another,
//! it is parsed on a stack of its own, and patterns of `matches` are texts that are compiled when it is read. An
//! expression that fails while it is evaluated denies: a rule that denies holds, one that allows does not.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use ::cel::{
    Context, Env, ExecutionError, IdedExpr, Program, Value as CelValue,
    common::ast::{EntryExpr, Expr, LiteralValue},
    extractors::This,
    objects::{Key, Map},
};
use http::HeaderName;
use serde_json::Value;

use crate::{
    canon::{HttpView, Principal, View},
    matching::{Pattern, PatternError},
    rt,
};

/// The largest source, in bytes.
const MAX_SOURCE: usize = 1024;
/// The largest tree, after macros have been expanded.
const MAX_NODES: usize = 256;
const STACK: usize = 16 * 1024 * 1024;

/// A condition in the Common Expression Language.
///
/// It sees `request` (`method`, `path`, `host`, `headers`), `source` (`address`, `principal`, `namespace`,
/// `service_account`, `trust_domain`), `destination` (`address`, `port`), `connection` (`mtls`,
/// `requested_server_name`), `token` (`issuer`, `subject`, `claims`) and `api_key`. What is absent is not in its map:
/// ask with `has(source.principal)` or `"x-role" in request.headers`.
#[derive(Clone)]
pub struct Cel {
    inner: Arc<Inner>,
}

struct Inner {
    source: String,
    program: Program,
    env: Arc<Env>,
    patterns: Arc<HashMap<String, Pattern>>,
    roots: BTreeSet<String>,
    headers: Vec<HeaderName>,
    any_header: bool,
}

/// What expressions may name.
const ROOTS: [&str; 6] = ["request", "source", "destination", "connection", "token", "api_key"];

impl Cel {
    /// Compiles an expression.
    ///
    /// # Errors
    /// If it is no CEL, exceeds a bound, or names what is not there.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let fail = |why: String| PatternError::new(source, why);
        if source.len() > MAX_SOURCE {
            let start: String = source.chars().take(40).collect();
            return Err(PatternError::new(&start, "it has more than 1 KiB"));
        }
        let text = source.to_owned();
        // What was parsed and is refused is dropped there as well.
        let inner = rt::on_stack(STACK, move || compile(text)).map_err(|error| fail(error.to_string()))?;
        inner.map(|inner| Self { inner: Arc::new(inner) }).map_err(fail)
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.inner.source
    }

    /// The headers that it names. A request that has one of them twice has no one meaning; those that are reached in
    /// another way, as by `exists`, are joined by commas.
    pub(super) fn headers(&self) -> &[HeaderName] {
        &self.inner.headers
    }

    /// Whether it may look at headers that it does not name.
    pub(super) fn reads_any_header(&self) -> bool {
        self.inner.any_header
    }

    /// Whether it holds; `None` if it cannot be told.
    pub(super) fn holds(&self, view: &View<'_>) -> Option<bool> {
        let mut context = Context::with_env(Arc::clone(&self.inner.env));
        let patterns = Arc::clone(&self.inner.patterns);
        if !patterns.is_empty() {
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                let known = patterns.get(&*pattern);
                known
                    .map(|pattern| pattern.is_match(&text))
                    .ok_or_else(|| ExecutionError::function_error("matches", "its pattern was not known beforehand"))
            };
            context.add_function("matches", matches).ok()?;
        }
        for root in &self.inner.roots {
            context.add_variable_from_value(root.as_str(), variable(root, view)?);
        }
        match self.inner.program.execute(&context) {
            Ok(CelValue::Bool(holds)) => Some(holds),
            _ => None,
        }
    }
}

impl PartialEq for Cel {
    fn eq(&self, other: &Self) -> bool {
        self.inner.source == other.inner.source
    }
}

impl Eq for Cel {}

impl fmt::Debug for Cel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cel({:?})", self.inner.source)
    }
}

fn compile(source: String) -> Result<Inner, String> {
    let env = Arc::new(Env::stdlib());
    let program = env.compile(&source).map_err(|errors| {
        let text = errors.to_string();
        text.lines().next().unwrap_or("it is no CEL").trim().trim_start_matches("ERROR: ").to_owned()
    })?;
    let mut bounds = Bounds { nodes: 0, patterns: HashMap::new(), headers: Vec::new(), whole: 0 };
    bounds.visit(program.expression(), false)?;
    let references = program.references();
    let roots: BTreeSet<String> = references.variables().iter().map(|name| (*name).to_owned()).collect();
    // Comprehensions have variables of their own.
    let roots = roots.into_iter().filter(|name| ROOTS.contains(&name.as_str())).collect();
    if let Some(unknown) = unknown(program.expression(), &mut Vec::new()) {
        return Err(format!("`{unknown}` is not known; known are {}", ROOTS.join(", ")));
    }
    Ok(Inner {
        source,
        program,
        env,
        patterns: Arc::new(bounds.patterns),
        roots,
        headers: bounds.headers,
        any_header: bounds.whole != 0,
    })
}

struct Bounds {
    nodes: usize,
    patterns: HashMap<String, Pattern>,
    headers: Vec<HeaderName>,
    /// How often `request` stands for more than one field or one header.
    whole: i32,
}

impl Bounds {
    fn visit(&mut self, at: &IdedExpr, inside: bool) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} nodes"));
        }
        if let Expr::Comprehension(_) = &at.expr
            && inside
        {
            return Err("a comprehension stands inside of another".into());
        }
        if let Expr::Call(call) = &at.expr
            && call.func_name == "matches"
        {
            let pattern = match call.args.last().map(|arg| &arg.expr) {
                Some(Expr::Literal(LiteralValue::String(text))) => text.inner().to_owned(),
                _ => return Err("the pattern of `matches` has to be a text".into()),
            };
            let compiled = Pattern::new(&format!(".*(?:{pattern}).*")).and_then(|_| Pattern::new(&search(&pattern)));
            self.patterns.insert(pattern, compiled.map_err(|error| error.to_string())?);
        }
        if let Some(name) = named_header(&at.expr) {
            self.headers.extend(name.parse::<HeaderName>());
            self.whole -= 1;
        }
        match &at.expr {
            Expr::Ident(name) if name == "request" => self.whole += 1,
            Expr::Select(select) if is_ident(&select.operand, "request") && select.field != "headers" => {
                self.whole -= 1
            }
            _ => {}
        }
        let inside = inside || matches!(at.expr, Expr::Comprehension(_));
        children(&at.expr, &mut |child| self.visit(child, inside))
    }
}

/// `request.headers["x"]`, `"x" in request.headers`, `request.headers.x`.
fn named_header(expr: &Expr) -> Option<&str> {
    let text = |at: &'_ IdedExpr| matches!(&at.expr, Expr::Literal(LiteralValue::String(_)));
    let (map, name) = match expr {
        Expr::Select(select) => return is_headers(&select.operand).then_some(&*select.field),
        Expr::Call(call) => match (&*call.func_name, &*call.args) {
            ("_[_]", [map, name]) | ("@in", [name, map]) if text(name) => (map, name),
            _ => return None,
        },
        _ => return None,
    };
    match &name.expr {
        Expr::Literal(LiteralValue::String(name)) if is_headers(map) => Some(name.inner()),
        _ => None,
    }
}

fn is_headers(at: &IdedExpr) -> bool {
    match &at.expr {
        Expr::Select(select) => select.field == "headers" && is_ident(&select.operand, "request"),
        _ => false,
    }
}

fn is_ident(at: &IdedExpr, wanted: &str) -> bool {
    matches!(&at.expr, Expr::Ident(name) if name == wanted)
}

/// CEL's `matches` searches; ours match the whole text.
fn search(pattern: &str) -> String {
    format!("(?s:.*)(?:{pattern})(?s:.*)")
}

fn children(expr: &Expr, visit: &mut impl FnMut(&IdedExpr) -> Result<(), String>) -> Result<(), String> {
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).try_for_each(visit),
        Expr::Comprehension(inner) => {
            [&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
                .into_iter()
                .try_for_each(visit)
        }
        Expr::List(list) => list.elements.iter().try_for_each(visit),
        Expr::Select(select) => visit(&select.operand),
        Expr::Map(map) => entries(&map.entries, visit),
        Expr::Struct(map) => entries(&map.entries, visit),
    }
}

fn entries(
    entries: &[::cel::common::ast::IdedEntryExpr],
    visit: &mut impl FnMut(&IdedExpr) -> Result<(), String>,
) -> Result<(), String> {
    entries.iter().try_for_each(|entry| match &entry.expr {
        EntryExpr::StructField(field) => visit(&field.value),
        EntryExpr::MapEntry(entry) => visit(&entry.key).and_then(|()| visit(&entry.value)),
    })
}

/// The first name that stands for nothing.
fn unknown(at: &IdedExpr, bound: &mut Vec<String>) -> Option<String> {
    match &at.expr {
        Expr::Ident(name) => {
            let known = ROOTS.contains(&name.as_str()) || bound.iter().any(|other| other == name);
            (!known).then(|| name.clone())
        }
        Expr::Comprehension(inner) => {
            let outer = unknown(&inner.iter_range, bound);
            let before = bound.len();
            bound.push(inner.iter_var.clone());
            bound.extend(inner.iter_var2.clone());
            bound.push(inner.accu_var.clone());
            let parts = [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result];
            let inside = parts.into_iter().find_map(|part| unknown(part, bound));
            bound.truncate(before);
            outer.or(inside)
        }
        expr => {
            let mut found = None;
            let _ = children(expr, &mut |child| {
                found = found.take().or_else(|| unknown(child, bound));
                Ok(())
            });
            found
        }
    }
}

type Entries = Vec<(&'static str, Option<CelValue>)>;

fn map(entries: Entries) -> CelValue {
    let entries = entries.into_iter().filter_map(|(name, value)| Some((Key::from(name), value?)));
    CelValue::Map(Map { map: Arc::new(entries.collect()) })
}

fn variable(name: &str, view: &View<'_>) -> Option<CelValue> {
    let text = |text: &str| Some(CelValue::from(text));
    Some(match name {
        "request" => map(view.http.as_ref().map(request).unwrap_or_default()),
        "source" => {
            let id = view.principal.map(Principal);
            map(vec![
                ("address", view.client.map(|address| address.to_string().into())),
                ("principal", view.principal.and_then(text)),
                ("trust_domain", id.and_then(|id| text(id.trust_domain()))),
                ("namespace", id.and_then(Principal::namespace).and_then(text)),
                ("service_account", id.and_then(Principal::service_account).and_then(text)),
            ])
        }
        "destination" => map(vec![
            ("address", view.local.map(|local| local.ip().to_string().into())),
            ("port", view.local.map(|local| CelValue::Int(local.port().into()))),
        ]),
        "connection" => map(vec![
            ("mtls", Some(CelValue::Bool(view.principal.is_some()))),
            ("requested_server_name", view.server_name.and_then(text)),
        ]),
        "token" => map(match view.token {
            None => Vec::new(),
            Some(token) => vec![
                ("issuer", text(token.issuer())),
                ("subject", token.subject().and_then(text)),
                ("claims", token.claims::<Value>().map(|claims| json(&claims))),
            ],
        }),
        "api_key" => view.api_key.map_or(CelValue::Null, CelValue::from),
        _ => return None,
    })
}

fn request(http: &HttpView<'_>) -> Entries {
    let mut headers: HashMap<Key, CelValue> = HashMap::new();
    for name in http.headers.keys() {
        let values: Vec<_> =
            http.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        headers.insert(name.as_str().into(), values.join(",").into());
    }
    vec![
        ("method", Some(http.method.as_str().into())),
        ("path", http.path.map(CelValue::from)),
        ("host", http.authority.as_ref().map(|own| CelValue::from(&*own.host))),
        ("headers", Some(CelValue::Map(Map { map: Arc::new(headers) }))),
    ]
}

fn json(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => CelValue::Int(number),
            None => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(json).collect())),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| (Key::from(name.as_str()), json(value)));
            CelValue::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}
