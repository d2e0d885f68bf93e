//! Command line.

use std::{net::SocketAddr, path::PathBuf};

use crate::topology::INSTANCES;

pub(crate) const HELP: &str = "\
bookinfo [--calls N]           all services, the tasks, then a page for the browser until Ctrl-C
bookinfo --check [--calls N]   the tasks only; exits with 1 if one fails
bookinfo --role ROLE --config FILE [--version V] [--listen ADDR]
                               one service: productpage, details, reviews or ratings

  --calls N      calls per traffic split, default 10000
  --config FILE  a sinew.yaml, such as examples/bookinfo/sinew.yaml
  --version V    v1 (default), v2 or v3 of reviews; ratings also knows v-faulty, v-delayed, v-unavailable, v-unhealthy
  --listen ADDR  default: the address that the file gives to this role and version";

pub(crate) enum Command {
    Help,
    Show { calls: usize },
    Check { calls: usize },
    Role(Role),
}

pub(crate) struct Role {
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) config: PathBuf,
    pub(crate) listen: Option<SocketAddr>,
}

pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut check, mut calls, mut role, mut version, mut config, mut listen) = (false, None, None, None, None, None);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("`{flag}` needs a value"));
        match flag.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--check" => check = true,
            "--calls" => {
                let text = value()?;
                let number = text.parse().ok().filter(|number| *number >= 100);
                calls = Some(number.ok_or_else(|| format!("`{text}` is not a number of calls: at least 100"))?);
            }
            "--role" => {
                let text = value()?;
                if !INSTANCES.iter().any(|(service, ..)| *service == text) {
                    return Err(format!("`{text}` is not a role: productpage, details, reviews or ratings"));
                }
                role = Some(text);
            }
            "--version" => version = Some(value()?),
            "--config" => config = Some(PathBuf::from(value()?)),
            "--listen" => {
                let text = value()?;
                listen = Some(text.parse().map_err(|_| format!("`{text}` is not an address such as 127.0.0.1:9080"))?);
            }
            _ => return Err(format!("`{flag}` is not known")),
        }
    }
    if let Some(service) = role {
        if check || calls.is_some() {
            return Err("`--check` and `--calls` are for all services together, not for one `--role`".into());
        }
        let config = config.ok_or("`--role` needs `--config`")?;
        let version = version.unwrap_or_else(|| "v1".into());
        return Ok(Command::Role(Role { service, version, config, listen }));
    }
    if version.is_some() || config.is_some() || listen.is_some() {
        return Err("`--version`, `--config` and `--listen` belong to a `--role`".into());
    }
    let calls = calls.unwrap_or(10_000);
    Ok(if check { Command::Check { calls } } else { Command::Show { calls } })
}
