//! Which changes of a child's state are worth an event (`on_event`).
//!
//! Pure: what was told before decides.

use super::status::ServerState;

/// The trouble that an administrator was told of, or would like to be told the end of.
#[derive(Debug, Default)]
pub struct Outage(Option<ServerState>);

impl Outage {
    /// The event for the way to another state, if that is worth one.
    pub fn enter(&mut self, state: ServerState) -> Option<&'static str> {
        match state {
            ServerState::Failed | ServerState::Unhealthy => {
                let before = self.0.replace(state);
                let event = if state == ServerState::Failed { "server-failed" } else { "server-unhealthy" };
                (before != Some(state)).then_some(event)
            }
            ServerState::Backoff => {
                self.0.get_or_insert(state);
                None
            }
            ServerState::Ready => match self.0.take()? {
                ServerState::Backoff => Some("server-restarted"),
                _ => Some("server-recovered"),
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_told_once_and_so_is_its_end() {
        use ServerState::{Backoff, Failed, Ready, Starting, Unhealthy};
        let mut outage = Outage::default();
        let told = [Starting, Ready, Backoff, Starting, Ready, Unhealthy, Unhealthy, Failed, Starting, Ready, Ready]
            .map(|state| outage.enter(state));
        let expected = [
            None,
            None,
            None,
            None,
            Some("server-restarted"),
            Some("server-unhealthy"),
            None,
            Some("server-failed"),
            None,
            Some("server-recovered"),
            None,
        ];
        assert_eq!(told, expected);
    }
}
