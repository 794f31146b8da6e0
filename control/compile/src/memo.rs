//! What lowering has looked at: its result is taken over for as long as all of that is as it was (architecture rule 9).
//!
//! Most kinds of documents change seldom. What depends on them alone holds while the [`Basis`] is the very same. What changes often
//! (pods, endpoints, routes, policies) and what is a proxy's own is reached only through functions that note the look, here, for
//! whoever is [`noting`]: a look deep inside lowering cannot be forgotten. Whether something is taken over or made anew makes no
//! difference but for the cost.

mod basis;
mod parts;
mod reads;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) use basis::Basis;
pub(crate) use parts::{Part, PartKey, PartValue, Parts, What};
pub(crate) use reads::{Answer, Read};

use crate::{lower::client::Proxy, resolve::Resolved};

thread_local! {
    /// Who is noting on this thread, the innermost last.
    static NOTES: RefCell<Vec<Notes>> = const { RefCell::new(Vec::new()) };
}

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    reads: Vec<Read>,
    parts: Vec<Arc<Part>>,
}

/// What was looked at, with what was seen.
#[derive(Debug)]
pub(crate) struct Trace {
    /// In the mesh.
    of_mesh: Box<[(Read, Answer)]>,
    /// At the proxy.
    of_proxy: Box<[(Read, Answer)]>,
    /// What it is made of.
    parts: Box<[Arc<Part>]>,
    /// The mesh for which what was seen in the mesh was found to hold last: parts that many proxies have are compared once.
    held_for: AtomicU64,
}

/// Notes a look.
pub(crate) fn note(read: impl FnOnce() -> Read) {
    NOTES.with_borrow_mut(|all| {
        if let Some(notes) = all.last_mut() {
            notes.reads.push(read());
        }
    });
}

/// Notes that something is made of a part, and so of all that the part was made from.
pub(crate) fn note_part(part: &Arc<Part>) {
    NOTES.with_borrow_mut(|all| {
        if let Some(notes) = all.last_mut() {
            notes.parts.push(Arc::clone(part));
        }
    });
}

/// Does something and notes what it looks at.
pub(crate) fn noting<T>(work: impl FnOnce() -> T) -> (T, Notes) {
    /// Takes its notes away also where the work panics: the thread goes on to other work.
    struct Depth(usize);
    impl Drop for Depth {
        fn drop(&mut self) {
            NOTES.with_borrow_mut(|all| all.truncate(self.0));
        }
    }
    let depth = NOTES.with_borrow_mut(|all| {
        all.push(Notes::default());
        Depth(all.len() - 1)
    });
    let done = work();
    let notes = NOTES.with_borrow_mut(Vec::pop).unwrap_or_default();
    drop(depth);
    (done, notes)
}

impl Trace {
    /// What was looked at in this mesh, for this proxy.
    pub(crate) fn new(notes: Notes, resolved: &Resolved, proxy: &Proxy) -> Self {
        let Notes { mut reads, parts } = notes;
        reads.sort();
        reads.dedup();
        let seen = |read: Read| {
            let answer = read.answer(resolved, proxy);
            (read, answer)
        };
        let (of_proxy, of_mesh): (Vec<Read>, Vec<Read>) = reads.into_iter().partition(Read::is_of_proxy);
        Self {
            of_mesh: of_mesh.into_iter().map(seen).collect(),
            of_proxy: of_proxy.into_iter().map(seen).collect(),
            parts: parts.into(),
            held_for: AtomicU64::new(resolved.serial),
        }
    }

    /// Whether all of it would be seen again, given the same basis.
    pub(crate) fn holds(&self, resolved: &Resolved, proxy: &Proxy) -> bool {
        let is_seen = |(read, answer): &(Read, Answer)| read.is_answered(answer, resolved, proxy);
        self.of_proxy.iter().all(is_seen)
            && (self.held_for.load(Ordering::Relaxed) == resolved.serial || self.of_mesh.iter().all(is_seen))
            && self.parts.iter().all(|part| part.trace.holds(resolved, proxy))
            && {
                self.held_for.store(resolved.serial, Ordering::Relaxed);
                true
            }
    }
}
