//! Equal texts of one message become one text in memory: thousands of resources say the same few names.

use std::{cell::RefCell, sync::Arc};

use ahash::AHashSet;

/// Longer texts are whole documents, and there is one of each.
const LONGEST: usize = 256;

thread_local! {
    /// The texts of the message that this thread is decoding.
    static TEXTS: RefCell<Option<AHashSet<Arc<str>>>> = const { RefCell::new(None) };
}

/// Forgets the texts, however decoding ends.
struct Scope;

impl Drop for Scope {
    fn drop(&mut self) {
        TEXTS.set(None);
    }
}

/// Shares the texts that `decode` meets.
pub(crate) fn sharing<T>(decode: impl FnOnce() -> T) -> T {
    TEXTS.set(Some(AHashSet::new()));
    let _scope = Scope;
    decode()
}

/// A text of a message.
pub(crate) fn text(text: &str) -> Arc<str> {
    if text.is_empty() {
        return Arc::default();
    }
    TEXTS.with_borrow_mut(|texts| match texts {
        Some(texts) if text.len() <= LONGEST => match texts.get(text) {
            Some(known) => Arc::clone(known),
            None => {
                let new: Arc<str> = text.into();
                texts.insert(Arc::clone(&new));
                new
            }
        },
        Some(_) | None => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_of_one_message_are_one() {
        let (a, b) = sharing(|| (text("reviews"), text("reviews")));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &text("reviews")), "another message's are its own");
    }
}
