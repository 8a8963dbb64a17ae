//! A server whose children are shared by all sessions (`sharing: Shared` and `Pool`): a kind of server.
//!
//! It must not know the other kinds, nor how a client is connected.

pub(super) mod backend;
pub(super) mod changes;
pub(super) mod children;
pub(super) mod modern;
pub(super) mod observer;
