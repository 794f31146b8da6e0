//! Claims about links that need no connection.
