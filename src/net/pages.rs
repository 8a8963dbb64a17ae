//! What the pages about the instance are made of.

use std::sync::Arc;

use super::metrics::Measured;
use super::page::Shown;

/// The router; made once.
pub(super) type App = tide::Server<Admin>;

/// What the pages are made of.
#[derive(Clone)]
pub(crate) struct Admin {
    /// The status document as JSON.
    pub status: Arc<dyn Fn() -> String + Send + Sync>,
    /// None once it is over.
    pub metrics: Arc<dyn Fn() -> Option<Measured> + Send + Sync>,
    pub page: Arc<dyn Fn() -> Option<Shown> + Send + Sync>,
    /// Why the instance is not ready; empty if it is.
    pub not_ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}
