//! When a session gets a later id: its first one would open it for some days only.
//!
//! A client that takes an id from any answer, as the official TypeScript one does, has the newest one then. Others keep the
//! one of their handshake, which stays good as long as the session is known. Pure: times are arguments, in seconds.

/// An id is renewed when it is this old and used, in seconds. So long after a handshake nothing has to be done.
pub const AGE: u64 = 24 * 60 * 60;
/// It is looked whether a client has taken its later id after this, in seconds.
const AGAIN: u64 = 60 * 60;
/// A session has so many later ids: the newest, and one that its client may still use.
pub const LATER: usize = 2;

/// What is done about the ids of a session; looked at again after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The newest one is young, and its client has it.
    None(u64),
    /// Its client is told the newest one.
    Tell(u64),
    /// There is to be a new one, which its client is told.
    New(u64),
}

/// What is to be done where the newest id is this old, None if that cannot be known any more, and the client has named it or
/// an earlier one.
pub fn renewal(newest: Option<u64>, named: bool) -> Renewal {
    match newest {
        Some(age) if age < AGE && named => Renewal::None(AGE - age),
        Some(age) if age < AGE => Renewal::Tell(AGAIN),
        _ => Renewal::New(AGAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_renewed_after_a_day_and_told_until_it_is_taken() {
        for (newest, named, what) in [
            (Some(0), true, Renewal::None(AGE)),
            (Some(AGE - 1), true, Renewal::None(1)),
            (Some(AGE), true, Renewal::New(AGAIN)),
            (Some(10 * AGE), false, Renewal::New(AGAIN)),
            (Some(10), false, Renewal::Tell(AGAIN)),
            (None, true, Renewal::New(AGAIN)),
        ] {
            assert_eq!(renewal(newest, named), what, "{newest:?} {named}");
        }
    }
}
