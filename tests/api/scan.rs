//! Enough of a reader of Rust to find public signatures and what their names mean.

use std::collections::{BTreeMap, BTreeSet};

/// A file without comments, strings and tests.
pub(crate) struct Source {
    code: String,
    /// Names that `use` brings in, with the paths they stand for.
    imports: BTreeMap<String, String>,
    public: BTreeSet<String>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        let code = strip(&text[..end]);
        let mut imports = BTreeMap::new();
        for at in words(&code, "use") {
            let tree = &code[at + "use".len()..];
            import("", &tree[..tree.find(';').unwrap_or(tree.len())], &mut imports);
        }
        let public = ["struct", "enum", "trait", "union"]
            .iter()
            .flat_map(|kind| words(&code, &format!("pub {kind}")).map(|at| at + 5 + kind.len()).collect::<Vec<_>>())
            .map(|at| ident(code[at..].trim_start()).to_owned())
            .collect();
        Self { code, imports, public }
    }

    /// What a user can see: items and fields that are plain `pub`, with the bodies of enums and traits, and what public
    /// types implement.
    pub(crate) fn signatures(&self) -> impl Iterator<Item = &str> {
        let items = words(&self.code, "pub").filter_map(|at| {
            let item = &self.code[at..];
            let rest = item["pub".len()..].trim_start();
            if rest.starts_with('(') || rest.starts_with("use ") || rest.starts_with("mod ") {
                return None;
            }
            if rest.starts_with("enum ") || rest.starts_with("trait ") {
                return Some(&item[..block(item)]);
            }
            let end = match ident(rest) {
                "struct" | "union" => item.find(['{', '(', ';']),
                "fn" | "const" | "async" | "unsafe" | "static" | "type" => item.find(['{', ';']),
                // A field.
                _ => item.find([',', '}', '\n']),
            };
            Some(&item[..end.unwrap_or(item.len())])
        });
        let impls = words(&self.code, "impl").flat_map(|at| {
            let item = &self.code[at..];
            let head = &item[..item.find(['{', ';']).unwrap_or(item.len())];
            let Some((_, subject)) = head.split_once(" for ") else { return Vec::new() };
            let subject = subject.trim_start_matches(['&', ' ']);
            if !self.public.contains(ident(subject)) {
                return Vec::new();
            }
            let body = &item[..block(item)];
            let types = words(body, "type").map(|at| &body[at..at + body[at..].find(';').unwrap_or(0)]);
            std::iter::once(head).chain(types).collect()
        });
        items.chain(impls)
    }

    /// Every path in a signature, as `crate::module::Name`.
    pub(crate) fn paths(&self, signature: &str) -> Vec<String> {
        let mut paths = Vec::new();
        let variants = signature.starts_with("pub enum");
        let mut rest = signature;
        while let Some(begin) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
            let before = &signature[..signature.len() - rest.len() + begin];
            rest = &rest[begin..];
            if variants && is_variant(before) {
                rest = &rest[ident(rest).len()..];
                continue;
            }
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches(':');
            let (first, tail) = path.split_once("::").unwrap_or((path, ""));
            let first = self.imports.get(first).map_or(first, String::as_str);
            paths.push(if tail.is_empty() { first.to_owned() } else { format!("{first}::{tail}") });
            rest = &rest[end..];
        }
        paths
    }
}

/// Comments and the contents of strings become spaces.
fn strip(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => _ = chars.next(),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            // A quote as a character must not open a string.
            '\'' if chars.peek() == Some(&'"') => _ = chars.next(),
            c => code.push(c),
        }
    }
    code
}

/// Where a word stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(part) && !code[*at + word.len()..].starts_with(part))
}

/// Whether what follows names a variant of an enum: it stands in the braces, and in no other bracket.
fn is_variant(before: &str) -> bool {
    let open = |brackets: [char; 2]| before.matches(brackets[0]).count() - before.matches(brackets[1]).count();
    before.trim_end().ends_with(['{', ',']) && open(['{', '}']) == 1 && open(['(', ')']) + open(['<', '>']) == 0
}

fn ident(text: &str) -> &str {
    &text[..text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())]
}

/// The end of the block that begins with the first brace.
fn block(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at,
            _ => {}
        }
    }
    item.len()
}

fn import(prefix: &str, tree: &str, imports: &mut BTreeMap<String, String>) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = format!("{prefix}{}", head.trim());
        let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
        let mut depth = 0;
        let mut begin = 0;
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    import(&prefix, &group[begin..at], imports);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = match tree.split_once(" as ") {
        Some((path, name)) => (path.trim(), name.trim()),
        None => (tree, tree.rsplit("::").next().unwrap_or(tree)),
    };
    if path == "self" {
        let path = prefix.trim_end_matches("::");
        imports.insert(path.rsplit("::").next().unwrap_or(path).to_owned(), path.to_owned());
    } else if !name.is_empty() {
        imports.insert(name.to_owned(), format!("{prefix}{path}"));
    }
}
