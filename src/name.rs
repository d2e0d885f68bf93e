//! Names, parsed once: a value of these types is valid wherever it is met.

mod spiffe;

pub use self::spiffe::{SpiffeId, TrustDomain};

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// A name that is not acceptable, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    what: &'static str,
    name: String,
    why: &'static str,
}

impl NameError {
    /// What is wrong, without the name.
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a {}: {}", self.name.escape_debug(), self.what, self.why)
    }
}

impl std::error::Error for NameError {}

/// Letters, digits and inner `-`, `_`, `.`; at most 253 bytes, so that every name fits a DNS name and a metric label.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 bytes");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err("only letters, digits, `-`, `_` and `.` may appear");
    }
    let edge = |b: u8| b.is_ascii_alphanumeric();
    if !edge(name.as_bytes()[0]) || !edge(name.as_bytes()[name.len() - 1]) {
        return Err("it must begin and end with a letter or digit");
    }
    Ok(())
}

macro_rules! names {
    ($( $(#[$doc:meta])* $name:ident, $what:literal; )+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name: letters, digits and inner `-`, `_`, `.`; 1 to 253 bytes.
            ///
            /// # Errors
            /// Says what is wrong with the name.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                match check_name(name) {
                    Ok(()) => Ok(Self(name.into())),
                    Err(why) => Err(NameError { what: $what, name: name.into(), why }),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )+};
}

names! {
    /// A service that can be called: a key of `services`.
    ServiceName, "service name";
    /// A subset of a service's endpoints: a key of `subsets`.
    SubsetName, "subset name";
    /// A route of a service, unique within it.
    RouteName, "route name";
}

/// Where an endpoint lives; all parts may be empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Locality {
    /// For example `eu-west-1`.
    pub region: Arc<str>,
    /// For example `eu-west-1a`.
    pub zone: Arc<str>,
    /// For example a rack.
    pub sub_zone: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_once() {
        assert_eq!(ServiceName::new("reviews-v1.prod").unwrap().as_str(), "reviews-v1.prod");
        for bad in ["", "-a", "a-", "a b", "a/b", &"x".repeat(254)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(
            ServiceName::new("a b").unwrap_err().to_string(),
            "`a b` is not a service name: only letters, digits, `-`, `_` and `.` may appear"
        );
    }
}
