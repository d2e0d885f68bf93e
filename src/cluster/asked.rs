//! Which endpoints a call was sent to.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

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
    ids: Mutex<Vec<Arc<str>>>,
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
    pub(crate) fn add_to(&self, tried: &mut Vec<Arc<str>>) {
        let Some(list) = &self.list else { return };
        for id in list.ids.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if !tried.contains(id) {
                tried.push(Arc::clone(id));
            }
        }
    }
}

impl Note {
    pub(super) fn push(&self, id: &Arc<str>) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(id));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(mut list) = self.list.take() else { return };
        // Only if no attempt has it any more.
        let Some(note) = Arc::get_mut(&mut list) else { return };
        note.ids.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
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
            let mut tried = vec!["a".into()];
            asked.add_to(&mut tried);
            tried.iter().map(|id: &Arc<str>| id.to_string()).collect::<Vec<_>>()
        };
        let asked = Asked::new();
        let late = asked.note().unwrap();
        asked.note().unwrap().push(&"a".into());
        asked.note().unwrap().push(&"b".into());
        assert_eq!(noted(&asked), ["a", "b"]);
        drop(asked);
        let next = Asked::new();
        late.push(&"c".into());
        assert_eq!(noted(&next), ["a"]);
    }
}
