//! The product page: one file without anything from elsewhere, so that it looks the same without a network.

use std::fmt::Write;

use serde_json::Value;

use crate::productpage::{Answer, Product};

pub(crate) fn render(product: &Product, user: Option<&str>, details: &Answer, reviews: &Answer, pod: &str) -> String {
    let mut page = String::with_capacity(8 * 1024);
    let _ = write!(
        page,
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body><header><b>Bookinfo</b><span>joined by sinew</span>\
         <nav>{session}<button onclick=\"{TOGGLE}\" title=\"dark or light\">◐</button></nav></header><main>\
         <h1>{title}</h1><p class=lead>{description}</p><div class=columns>",
        title = escape(product.title),
        description = product.description,
        session = session(user),
    );
    page.push_str("<section><h2>Details</h2>");
    match details {
        Ok(details) => details_table(&mut page, details),
        Err((_, error)) => failure(&mut page, error),
    }
    page.push_str("</section><section><h2>Reviews</h2>");
    match reviews {
        Ok(reviews) => review_cards(&mut page, reviews),
        Err((_, error)) => failure(&mut page, error),
    }
    let served_by = reviews.as_ref().ok().and_then(|reviews| reviews["podname"].as_str()).unwrap_or("nobody");
    let _ = write!(
        page,
        "</section></div></main><footer>page by <code>{}</code> · reviews by <code id=reviews>{}</code> · reload to \
         call again</footer></body></html>",
        escape(pod),
        escape(served_by),
    );
    page
}

fn session(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("signed in as <b>{}</b> <a href=/logout>Sign out</a>", escape(user)),
        None => "<form method=post action=/login><input name=username placeholder=\"a name, say jason\" required \
                 maxlength=64 aria-label=name><button>Sign in</button></form>"
            .into(),
    }
}

fn details_table(page: &mut String, details: &Value) {
    const ROWS: [(&str, &str); 8] = [
        ("Author", "author"),
        ("Year", "year"),
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ];
    page.push_str("<table>");
    for (title, field) in ROWS {
        let _ = write!(page, "<tr><th>{title}<td>{}", text(&details[field]));
    }
    page.push_str("</table>");
}

fn review_cards(page: &mut String, reviews: &Value) {
    for review in reviews["reviews"].as_array().into_iter().flatten() {
        let _ =
            write!(page, "<article><p>{}</p><div class=by><b>{}</b>", text(&review["text"]), text(&review["reviewer"]));
        let rating = &review["rating"];
        if let Some(stars) = rating["stars"].as_u64() {
            let stars = stars.min(5) as usize;
            let _ = write!(
                page,
                "<span class=\"stars {}\" role=img aria-label=\"{stars} of 5 stars\">{}<i>{}</i></span>",
                text(&rating["color"]),
                "★".repeat(stars),
                "★".repeat(5 - stars),
            );
        } else if !rating["error"].is_null() {
            let _ = write!(page, "<span class=failure>{}</span>", text(&rating["error"]));
        }
        page.push_str("</div></article>");
    }
}

fn failure(page: &mut String, error: &str) {
    let _ = write!(page, "<p class=failure>{}</p>", escape(error));
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}

const TOGGLE: &str = "var r=document.documentElement;r.style.colorScheme=\
                      getComputedStyle(r).getPropertyValue('--dark')==1?'light':'dark';r.className=r.style.colorScheme";

const STYLE: &str = "
:root { color-scheme: light dark; --dark: 0;
  --ground: #faf8f4; --card: #fff; --ink: #23201c; --quiet: #6f675d; --line: #e4ded4; --accent: #8a3b12; --red: #c8281e; --black: #23201c; }
@media (prefers-color-scheme: dark) { :root:not(.light) { --dark: 1;
  --ground: #17161a; --card: #211f25; --ink: #ece8e1; --quiet: #9d958a; --line: #35323b; --accent: #f0a06a; --red: #ff6a5c; --black: #ece8e1; } }
:root.dark { --dark: 1;
  --ground: #17161a; --card: #211f25; --ink: #ece8e1; --quiet: #9d958a; --line: #35323b; --accent: #f0a06a; --red: #ff6a5c; --black: #ece8e1; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; min-height: 100vh; display: flex; flex-direction: column; }
header { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; padding: .75rem max(1rem, (100% - 60rem) / 2); border-bottom: 1px solid var(--line); }
header span, footer { color: var(--quiet); font-size: .9rem; }
nav { margin-left: auto; display: flex; gap: .5rem; align-items: center; }
form { display: flex; gap: .5rem; margin: 0; }
input, button { font: inherit; font-size: .9rem; padding: .3rem .7rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); color: inherit; }
button { cursor: pointer; }
a { color: var(--accent); }
main { width: 100%; padding: 2rem max(1rem, (100% - 60rem) / 2); flex: 1; }
h1 { font: 600 clamp(2rem, 6vw, 3.2rem)/1.1 Georgia, serif; margin: 0 0 .5rem; }
h2 { font-size: .8rem; letter-spacing: .12em; text-transform: uppercase; color: var(--quiet); }
.lead { max-width: 44rem; font-size: 1.1rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem 0; border-bottom: 1px solid var(--line); font-weight: normal; }
th { color: var(--quiet); width: 9rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .25rem 1.1rem .9rem; margin-bottom: 1rem; }
article p { font-family: Georgia, serif; }
.by { display: flex; justify-content: space-between; align-items: center; gap: 1rem; font-size: .9rem; }
.stars { font-size: 1.3rem; letter-spacing: .1em; }
.stars.red { color: var(--red); } .stars.black { color: var(--black); } .stars i { color: var(--line); font-style: normal; }
.failure { color: var(--red); }
footer { padding: 1rem max(1rem, (100% - 60rem) / 2); border-top: 1px solid var(--line); }
";
