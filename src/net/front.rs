//! What all connections share: the hub, the pages about the instance, and the connections at rest.
//!
//! The ground of this folder. It must not know how a connection is served.

use std::sync::Arc;

use event_listener::Event;

use super::door::Door;
use super::origin::Told;
use super::pages::App;
use super::parked::Parked;
use crate::hub::Hub;
use crate::model::refusals::Refusals;
use crate::rt::seldom::Seldom;
use crate::sys::lock::Lock;

/// What all connections share.
pub(crate) struct Front {
    pub hub: Arc<Hub>,
    pub app: App,
    /// The connections that have a place.
    pub door: Door,
    /// The tokens that were refused lately.
    pub refusals: Lock<Refusals>,
    /// When a refusal with 401 was last logged.
    pub refused: Seldom,
    /// The hosts and origins whose refusal was logged.
    pub strangers: Lock<Told>,
    /// Whose tokens were said to be hashed with a line feed.
    pub odd_tokens: Lock<Told>,
    /// A connection was closed.
    pub closed: Event,
    /// Connections at rest.
    pub parked: Parked,
}
