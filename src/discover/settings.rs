//! Where and how names are asked for: plain data, the same with and without the `dns` feature.

use std::{net::SocketAddr, path::Path, time::Duration};

/// How names are resolved.
///
/// By default what `/etc/resolv.conf` says, read once; give your own to point at other servers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DnsSettings {
    /// Name servers in order: the next is asked when one fails, refuses or is silent. UDP, TCP for long answers.
    pub servers: Vec<SocketAddr>,
    /// Suffixes for names without a final dot.
    pub search: Vec<String>,
    /// Names with at least this many dots are tried as they are before the search list. Default 1.
    pub ndots: usize,
    /// How long one server may take. Default 2 s; a dead first server delays each look-up by this.
    pub timeout: Duration,
    /// How often the list of servers is gone through. Default 2.
    pub attempts: usize,
}

impl Default for DnsSettings {
    /// No servers, so that nothing is asked by accident.
    fn default() -> Self {
        Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: Duration::from_secs(2), attempts: 2 }
    }
}

impl DnsSettings {
    /// Shorter TTLs count as this.
    pub(crate) const TTL_FLOOR: Duration = Duration::from_secs(5);

    /// An absent address stays at least this long after it was last seen.
    pub(crate) const ABSENT_HOLD: Duration = Duration::from_secs(30);

    /// Asks these servers, without a search list.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { servers: servers.into_iter().collect(), ..Self::default() }
    }

    /// What `/etc/resolv.conf` says; without that file nobody can be asked and each look-up says so.
    pub fn system() -> Self {
        Self::read(Path::new("/etc/resolv.conf"))
    }

    fn read(path: &Path) -> Self {
        std::fs::read_to_string(path).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// The lines of resolv.conf(5) that matter here; unknown ones are skipped, as libc does.
    fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope (`fe80::1%eth0`) needs an interface index, which std cannot look up.
                    if let Some(Ok(ip)) = words.next().map(str::parse) {
                        settings.servers.push(SocketAddr::new(ip, 53));
                    }
                }
                Some("search" | "domain") => {
                    settings.search = words.map(|word| word.trim_matches('.').into()).collect()
                }
                Some("options") => words.for_each(|option| settings.option(option)),
                _ => {}
            }
        }
        settings.search.retain(|suffix| !suffix.is_empty());
        settings
    }

    fn option(&mut self, option: &str) {
        let Some((key, Ok(value))) = option.split_once(':').map(|(key, value)| (key, value.parse::<usize>())) else {
            return;
        };
        match key {
            "ndots" => self.ndots = value.min(15),
            "attempts" => self.attempts = value.clamp(1, 5),
            // Never above our own default of 2 s: libc's 5 s outlasts the 3 s that a call waits for endpoints.
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 2) as u64),
            _ => {}
        }
    }

    /// The full names to try for `name`, in order.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let absolute = format!("{name}.");
        let mut all: Vec<_> = self.search.iter().map(|suffix| format!("{name}.{suffix}.")).collect();
        if name.matches('.').count() >= self.ndots {
            all.insert(0, absolute);
        } else {
            all.push(absolute);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_libc_does() {
        let settings = DnsSettings::parse(
            "# pod\nnameserver 10.96.0.10\nnameserver ::1 # second\nnameserver nonsense\n\
             search default.svc.cluster.local svc.cluster.local.\noptions ndots:5 timeout:9 attempts:3 rotate\n",
        );
        assert_eq!(settings.servers, ["10.96.0.10:53".parse().unwrap(), "[::1]:53".parse::<SocketAddr>().unwrap()]);
        assert_eq!(settings.search, ["default.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!((settings.ndots, settings.attempts, settings.timeout), (5, 3, Duration::from_secs(2)));
    }

    #[test]
    fn the_search_list_comes_first_only_for_names_with_few_dots() {
        let settings = DnsSettings { search: vec!["ns.svc".into()], ndots: 2, ..DnsSettings::default() };
        assert_eq!(settings.candidates("reviews"), ["reviews.ns.svc.", "reviews."]);
        assert_eq!(settings.candidates("a.b.c"), ["a.b.c.", "a.b.c.ns.svc."]);
        assert_eq!(settings.candidates("reviews."), ["reviews."]);
    }
}
