//! In place of conditions in CEL, where they are not built in.

use http::HeaderName;

use crate::{canon::View, matching::PatternError};

/// A condition in the Common Expression Language. Needs the feature `cel`, without which there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cel(std::convert::Infallible);

impl Cel {
    /// Always fails.
    ///
    /// # Errors
    /// That names the feature.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        Err(PatternError::new(source, "conditions in CEL need the feature `cel`"))
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        match self.0 {}
    }

    pub(super) fn headers(&self) -> &[HeaderName] {
        match self.0 {}
    }

    pub(super) fn reads_any_header(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn holds(&self, _view: &View<'_>) -> Option<bool> {
        match self.0 {}
    }
}
