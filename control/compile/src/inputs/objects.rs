//! Objects of one kind by namespace and name, shared: a copy costs nothing, and a change to one leaves the others as they are.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use crate::object::{Object, ObjectKey};

/// Objects of one kind by namespace and name.
#[derive(Debug)]
pub struct Objects<T>(Arc<BTreeMap<ObjectKey, Object<T>>>);

impl<T> Objects<T> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: PartialEq> Objects<T> {
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
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T> Deref for Objects<T> {
    type Target = BTreeMap<ObjectKey, Object<T>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: Clone> DerefMut for Objects<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Objects<T> {
    type Item = (&'a ObjectKey, &'a Object<T>);
    type IntoIter = btree_map::Iter<'a, ObjectKey, Object<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T: Clone> IntoIterator for &'a mut Objects<T> {
    type Item = (&'a ObjectKey, &'a mut Object<T>);
    type IntoIter = btree_map::IterMut<'a, ObjectKey, Object<T>>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::make_mut(&mut self.0).iter_mut()
    }
}
