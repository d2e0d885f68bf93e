//! `sinew explain`: a row of the table of error codes.

use std::process::ExitCode;

use sinew::Code;

pub(crate) fn run(text: &str) -> ExitCode {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_prefix("SINEW-").unwrap_or(&upper);
    let number = number.strip_prefix('E').unwrap_or(number);
    match number.parse().ok().and_then(Code::from_number) {
        Some(code) => super::config::print(&row(code)),
        None => {
            eprintln!("error: `{}` is not an error code\n", text.escape_debug());
            for code in Code::ALL {
                eprintln!("{code}  {}", code.reason());
            }
            ExitCode::from(2)
        }
    }
}

fn row(code: Code) -> String {
    let mut text = format!("{code} {}\n\n", code.reason());
    for line in code.explanation().lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text.push_str(&format!(
        "\nHTTP status   {}\ngRPC status   {}\nEnvoy flag    {}\nProxy-Status  {}\n",
        code.http_status(),
        code.grpc_status(),
        code.flag(),
        code.proxy_status()
    ));
    text
}
