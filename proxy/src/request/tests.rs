//! The pipeline as a whole, on hand-made snapshots.
