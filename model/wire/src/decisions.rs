//! Limits of decision records on their way.

/// Bytes of records in one message; a larger record does not travel.
pub const MAX_RECORDS_BYTES: usize = 256 * 1024;

/// Bytes of one message that carries records.
pub const MAX_MESSAGE_BYTES: usize = 2 * MAX_RECORDS_BYTES;
