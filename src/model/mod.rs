//! Pure data and decisions: configuration, plan, restart policy, JSON-RPC envelope, status document.
//!
//! Nothing here opens a file, reads a clock or starts a task; time and events come in as arguments, so that every
//! rule can be tested as a table. `mcpctl` links this layer and [`crate::sys`], nothing else.

pub mod asked;
pub mod audit;
pub mod bridge;
pub mod budget;
pub mod changes;
pub mod config;
pub mod envelope;
pub mod event;
pub mod event_stream;
pub mod exit;
pub mod export;
pub mod handover;
pub mod health;
pub mod history;
pub mod ids;
pub mod import;
pub mod items;
pub mod jsonc;
pub mod jsonrpc;
pub mod last_words;
pub mod life;
pub mod logline;
pub mod lost_reply;
pub mod mcp;
pub mod meter;
pub mod method;
pub mod modern;
pub mod noise;
pub mod out;
pub mod outage;
pub mod places;
pub mod plan;
pub mod proxy;
pub mod refusals;
pub mod relay;
pub mod renewal;
pub mod restart;
pub mod sealed;
pub mod spelling;
pub mod status;
pub mod text;
pub mod torn;
pub mod trace;
pub mod transport;
pub mod upstream;
pub mod url;
pub mod words;
