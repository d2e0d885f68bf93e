//! `sinew explain`: a row of the table of error codes, or of the one of warnings.

use std::process::ExitCode;

use sinew::{Code, model::LintCode};

pub(crate) fn run(text: &str) -> ExitCode {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_prefix("SINEW-").unwrap_or(&upper);
    if let Some(warning) = number.strip_prefix('W') {
        return match warning.parse().ok().and_then(LintCode::from_number) {
            Some(code) => {
                let text = said(&format!("{code} {}", code.reason()), code.explanation());
                super::config::print(&format!("{text}\nWhat to do: {}\n", code.cure()))
            }
            None => unknown(text, "a warning", LintCode::ALL.iter().map(|code| (code.to_string(), code.reason()))),
        };
    }
    let number = number.strip_prefix('E').unwrap_or(number);
    match number.parse().ok().and_then(Code::from_number) {
        Some(code) => super::config::print(&row(code)),
        None => unknown(text, "an error code", Code::ALL.iter().map(|code| (code.to_string(), code.reason()))),
    }
}

fn unknown(text: &str, what: &str, known: impl Iterator<Item = (String, &'static str)>) -> ExitCode {
    eprintln!("error: `{}` is not {what}\n", text.escape_debug());
    for (code, reason) in known {
        eprintln!("{code}  {reason}");
    }
    ExitCode::from(2)
}

fn said(title: &str, explanation: &str) -> String {
    let mut text = format!("{title}\n\n");
    for line in explanation.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

fn row(code: Code) -> String {
    let mut text = said(&format!("{code} {}", code.reason()), code.explanation());
    text.push_str(&format!(
        "\nHTTP status   {}\ngRPC status   {}\nEnvoy flag    {}\nProxy-Status  {}\n",
        code.http_status(),
        code.grpc_status(),
        code.flag(),
        code.proxy_status()
    ));
    text
}
