//! Stands in for DNS discovery in a build without it.

use super::{DiscoverError, Discovery, DnsSettings, fixed::Once};

#[derive(Clone, Debug)]
pub(super) struct Dns;

impl Dns {
    pub(super) fn new(_: DnsSettings) -> Self {
        Self
    }

    pub(super) fn subscribe(&self, name: &str, _: Option<u16>) -> Discovery {
        let text = format!("`{name}` cannot be resolved: this build lacks the feature `dns` of sinew");
        Discovery::new(Once(Some(Err(DiscoverError::new(text)))))
    }
}
