//! What becomes of a client's message: checked, counted, and handed to the endpoint of its session.
//!
//! Knows clients and their endpoints. It must not know of what kind these are.

mod batch;
pub(super) mod message;
mod receive;

pub(crate) use batch::{batch, collect};
pub(crate) use message::{BATCHES, check_headers, fault_text, message, modern_message};
pub(crate) use receive::receive;
