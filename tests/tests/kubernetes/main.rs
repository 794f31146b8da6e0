//! The Kubernetes of the tests works as one.

mod identity;
mod restarts;
mod served;
mod source;
mod tokens;
mod workloads;
