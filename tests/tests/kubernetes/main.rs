//! The Kubernetes of the tests works as one.

mod restarts;
mod served;
mod tokens;
mod workloads;
