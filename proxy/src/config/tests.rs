//! The client against a control plane of its own.
