//! A server whose children are shared by all sessions (`sharing: Shared` and `Pool`): a kind of server.
//!
//! It must not know the other kinds, nor how a client is connected.

pub mod backend;
pub mod children;
pub mod modern;
pub mod observer;
