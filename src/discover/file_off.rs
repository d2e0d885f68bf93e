//! Stands in for endpoint files in a build without them.

use std::path::Path;

use super::{DiscoverError, Discovery, fixed::Once};

pub(super) fn subscribe(path: &Path) -> Discovery {
    let text = format!("`{}` cannot be watched: this build lacks the feature `file` of sinew", path.display());
    Discovery::new(Once(Some(Err(DiscoverError::new(text)))))
}
