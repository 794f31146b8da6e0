//! Objects of one kind by namespace and name, shared: a copy costs nothing, and a change to one leaves the others as they are.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
    ops::RangeBounds,
    sync::Arc,
};

use crate::{
    object::{Object, ObjectKey},
    reports::ObjectName,
};

/// Objects of one kind by namespace and name.
#[derive(Debug)]
pub struct Objects<T>(Arc<BTreeMap<ObjectKey, Arc<Object<T>>>>);

/// The objects with their keys, in order.
#[derive(Debug)]
pub struct Iter<'a, T>(btree_map::Iter<'a, ObjectKey, Arc<Object<T>>>);

impl<T> Objects<T> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether both are the very same memory.
    #[cfg(test)]
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object of that name.
    pub fn get(&self, key: &ObjectKey) -> Option<&Object<T>> {
        self.0.get(key).map(|object| &**object)
    }

    /// Whether there is one of that name.
    pub fn contains_key(&self, key: &ObjectKey) -> bool {
        self.0.contains_key(key)
    }

    /// All with their names, in order.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self.0.iter())
    }

    /// All with their names, as they are shared.
    pub(crate) fn shared(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Object<T>>)> {
        self.0.iter()
    }

    /// All names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.0.keys()
    }

    /// All, in the order of their names.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Object<T>> + Clone {
        self.0.values().map(|object| &**object)
    }

    /// Those in a range of names.
    pub fn range<K: Ord + ?Sized>(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&ObjectKey, &Object<T>)>
    where
        ObjectKey: Borrow<K>,
    {
        self.0.range(range).map(|(key, object)| (key, &**object))
    }

    /// Puts an object in the place of the one with its name.
    pub(crate) fn insert(&mut self, key: ObjectKey, object: Object<T>) {
        Arc::make_mut(&mut self.0).insert(key, Arc::new(object));
    }

    /// Takes an object away, if it is one of these.
    pub(crate) fn remove(&mut self, name: &ObjectName, key: &ObjectKey) {
        if self.get(key).is_some_and(|object| object.head.group == name.group && object.head.kind == name.kind) {
            Arc::make_mut(&mut self.0).remove(key);
        }
    }

    /// Keeps those whose names are wanted.
    pub(crate) fn retain(&mut self, mut is_wanted: impl FnMut(&ObjectKey) -> bool) {
        if !self.keys().all(&mut is_wanted) {
            Arc::make_mut(&mut self.0).retain(|key, _| is_wanted(key));
        }
    }
}

impl<T: Clone> Objects<T> {
    /// All, to be changed. Those that others hold as well are copied.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Object<T>> {
        self.iter_mut().map(|(_, object)| object)
    }

    /// All with their names, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&ObjectKey, &mut Object<T>)> {
        Arc::make_mut(&mut self.0).iter_mut().map(|(key, object)| (key, Arc::make_mut(object)))
    }
}

impl<T: Clone + PartialEq> Objects<T> {
    /// Changes one of them.
    pub(crate) fn change(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Object<T>)) {
        if let Some(object) = Arc::make_mut(&mut self.0).get_mut(key) {
            change(Arc::make_mut(object));
        }
    }

    /// Changes all of them; those that are equal afterwards stay shared.
    pub(crate) fn change_all(&mut self, mut change: impl FnMut(&mut Object<T>)) {
        for object in Arc::make_mut(&mut self.0).values_mut() {
            let mut changed = (**object).clone();
            change(&mut changed);
            if changed != **object {
                *object = Arc::new(changed);
            }
        }
    }
}

impl<T: PartialEq> Objects<T> {
    /// Names of those that one has and the other has not, or has otherwise; with both objects.
    pub(crate) fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a ObjectKey, Option<&'a Object<T>>, Option<&'a Object<T>>)> {
        let is_shared = Arc::ptr_eq(&self.0, &other.0);
        let own = self.0.iter().filter(move |_| !is_shared).filter_map(|(key, object)| match other.0.get(key) {
            Some(same) if Arc::ptr_eq(same, object) || same == object => None,
            found => Some((key, Some(&**object), found.map(|found| &**found))),
        });
        let gone = other.0.iter().filter(move |(key, _)| !is_shared && !self.0.contains_key(key));
        own.chain(gone.map(|(key, object)| (key, None, Some(&**object))))
    }

    /// Takes the place of equal objects, so that the next comparison costs nothing.
    pub(crate) fn adopt(&mut self, other: &Self) {
        if self == other {
            self.0 = Arc::clone(&other.0);
        }
    }
}

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: PartialEq> PartialEq for Objects<T> {
    fn eq(&self, other: &Self) -> bool {
        // What is shared is equal without being looked at.
        let is_same = |(a, b): (&Arc<Object<T>>, &Arc<Object<T>>)| Arc::ptr_eq(a, b) || a == b;
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.len() == other.0.len()
                && self.0.keys().eq(other.0.keys())
                && self.0.values().zip(other.0.values()).all(is_same))
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (&'a ObjectKey, &'a Object<T>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, object)| (key, &**object))
    }
}

impl<'a, T> IntoIterator for &'a Objects<T> {
    type Item = (&'a ObjectKey, &'a Object<T>);
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
