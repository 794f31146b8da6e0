//! The proxy beside a pod's application: the parts that only a pod needs.

pub mod dns;
pub mod redirect;
