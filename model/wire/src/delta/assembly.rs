//! Cutting an encoded transaction into chunks, and putting it together again.

use bytes::{Bytes, BytesMut};
use palisade_model::hash::ContentHash;

use super::{CHUNK_BYTES, Violation};
use crate::proto::v1;

/// A transaction that is arriving.
#[derive(Debug)]
pub(super) struct Assembly {
    offer: ContentHash,
    total: u64,
    data: BytesMut,
}

/// The chunks of an encoded transaction; at least one.
pub(super) fn chunks(offer: ContentHash, encoded: Bytes) -> impl Iterator<Item = v1::Chunk> {
    let total_bytes = encoded.len() as u64;
    let mut rest = encoded;
    let mut offset = 0;
    let mut is_first = true;
    std::iter::from_fn(move || {
        if rest.is_empty() && !std::mem::take(&mut is_first) {
            return None;
        }
        is_first = false;
        let data = rest.split_to(rest.len().min(CHUNK_BYTES));
        let chunk = v1::Chunk { offer: Bytes::copy_from_slice(offer.as_bytes()), total_bytes, offset, data };
        offset += chunk.data.len() as u64;
        Some(chunk)
    })
}

impl Assembly {
    /// Takes the first chunk.
    pub(super) fn begin(offer: ContentHash, chunk: v1::Chunk, limit: u64) -> Result<Self, Violation> {
        let total = chunk.total_bytes;
        if total > limit {
            return Err(Violation::Limit { what: "transaction bytes", amount: total, limit });
        }
        // Grows with what really arrives: an announced size alone reserves nothing.
        let mut assembly = Self { offer, total, data: BytesMut::new() };
        assembly.push(offer, chunk)?;
        Ok(assembly)
    }

    /// Takes the next chunk.
    pub(super) fn push(&mut self, offer: ContentHash, chunk: v1::Chunk) -> Result<(), Violation> {
        let v1::Chunk { offer: _, total_bytes, offset, data } = chunk;
        let held = self.data.len() as u64;
        let is_next = offer == self.offer && total_bytes == self.total && offset == held;
        let fits = held.checked_add(data.len() as u64).is_some_and(|end| end <= self.total);
        if !is_next || !fits || (data.is_empty() && self.total > 0) {
            return Err(Violation::Pieces);
        }
        self.data.extend_from_slice(&data);
        Ok(())
    }

    /// The offer that the transaction leads to.
    pub(super) fn offer(&self) -> ContentHash {
        self.offer
    }

    /// Whether the last byte is there.
    pub(super) fn is_complete(&self) -> bool {
        self.data.len() as u64 == self.total
    }

    /// The encoded transaction.
    pub(super) fn into_bytes(self) -> Bytes {
        self.data.freeze()
    }
}
