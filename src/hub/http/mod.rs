//! Servers elsewhere, by their URLs: a session over Streamable HTTP is the line of a child.
//!
//! What goes over HTTP is the affair of [`crate::remote`]; what becomes of messages, that of all children
//! ([`super::child`]). It must not know either.

pub(super) mod dialer;
