//! Networks.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::PatternError;

/// A network: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock(IpNet);

impl IpBlock {
    /// Whether an address lies in it. An IPv4 address that came as IPv6 (`::ffff:a.b.c.d`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    #[cfg(test)]
    pub(crate) const fn of(net: IpNet) -> Self {
        Self(net)
    }

    pub(crate) const fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for IpBlock {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| address())
            .map(Self)
            .map_err(|_| PatternError::new(text, "it is neither an address nor a network such as `10.0.0.0/8`"))
    }
}

impl From<IpAddr> for IpBlock {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_single_addresses_are_read_and_mapped_addresses_are_their_own() {
        let block: IpBlock = "10.0.0.0/8".parse().unwrap();
        assert!(block.contains("10.1.2.3".parse().unwrap()) && block.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!block.contains("11.0.0.0".parse().unwrap()));
        assert_eq!("192.0.2.1".parse::<IpBlock>().unwrap().to_string(), "192.0.2.1/32");
        assert!("ten".parse::<IpBlock>().is_err() && "10.0.0.0/40".parse::<IpBlock>().is_err());
    }
}
