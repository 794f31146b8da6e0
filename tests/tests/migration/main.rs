//! From Istio to Palisade and back: a namespace that moves under load, and the page that says how.

mod load;
mod moving;
mod page;
