//! Which endpoints a call was sent to.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

use crate::transport::ConnectionId;

/// The endpoints that the attempts of one call were sent to. The call cannot learn it from their answers: an answer names
/// no endpoint, and an attempt that is late has none.
///
/// Lists are used again by the calls of the same thread, so that a call that succeeds allocates none.
#[derive(Debug)]
pub(crate) struct Asked {
    /// `None` once it was given back.
    list: Option<Arc<Note>>,
}

/// Where an attempt notes its endpoint.
#[derive(Debug, Default)]
pub(crate) struct Note {
    went: Mutex<Vec<Went>>,
}

/// Where an attempt went.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Went {
    endpoint: Arc<str>,
    /// Where an endpoint stands for many, what tells them apart.
    connection: Option<ConnectionId>,
}

impl Went {
    pub(crate) fn to(endpoint: Arc<str>) -> Self {
        Self { endpoint, connection: None }
    }

    pub(super) fn over(endpoint: Arc<str>, connection: ConnectionId) -> Self {
        Self { endpoint, connection: Some(connection) }
    }

    /// Whether that would be the same again.
    pub(super) fn is(&self, endpoint: &str, connection: ConnectionId) -> bool {
        *self.endpoint == *endpoint && self.connection.is_none_or(|known| known == connection)
    }
}

/// Whether they went to this endpoint, and another should be asked rather than that one.
pub(super) fn went_to(tried: &[Went], endpoint: &str) -> bool {
    tried.iter().any(|went| went.connection.is_none() && *went.endpoint == *endpoint)
}

/// The connections to pass over. Allocates nothing where there are none.
pub(super) fn connections(tried: &[Went]) -> Vec<ConnectionId> {
    tried.iter().filter_map(|went| went.connection).collect()
}

thread_local! {
    static SPARE: RefCell<Vec<Arc<Note>>> = const { RefCell::new(Vec::new()) };
}

/// How many lists a thread keeps.
const SPARE_LISTS: usize = 64;

impl Asked {
    pub(crate) fn new() -> Self {
        let spare = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten();
        Self { list: Some(spare.unwrap_or_default()) }
    }

    /// For an attempt.
    pub(crate) fn note(&self) -> Option<Arc<Note>> {
        self.list.clone()
    }

    /// Adds them to a list that may have some of them.
    pub(crate) fn add_to(&self, tried: &mut Vec<Went>) {
        let Some(list) = &self.list else { return };
        for went in list.went.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if !tried.contains(went) {
                tried.push(went.clone());
            }
        }
    }
}

impl Note {
    pub(super) fn push(&self, went: Went) {
        self.went.lock().unwrap_or_else(PoisonError::into_inner).push(went);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(mut list) = self.list.take() else { return };
        // Only if no attempt has it any more.
        let Some(note) = Arc::get_mut(&mut list) else { return };
        note.went.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE_LISTS
            {
                spare.push(list);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_used_again_only_when_nobody_has_it() {
        let noted = |asked: &Asked| {
            let mut tried = vec![Went::to("a".into())];
            asked.add_to(&mut tried);
            tried.iter().map(|went| went.endpoint.to_string()).collect::<Vec<_>>()
        };
        let asked = Asked::new();
        let late = asked.note().unwrap();
        asked.note().unwrap().push(Went::to("a".into()));
        asked.note().unwrap().push(Went::to("b".into()));
        assert_eq!(noted(&asked), ["a", "b"]);
        drop(asked);
        let next = Asked::new();
        late.push(Went::to("c".into()));
        assert_eq!(noted(&next), ["a"]);
    }
}
