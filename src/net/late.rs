//! The rest of an answer that the HTTP library has begun, here or in the program before an upgrade.
//!
//! No library takes a connection in the middle of an answer. After it the connection is one like others.

use std::io;
use std::sync::Arc;

use super::answer::{Answer, share};
use super::body::{Body, Events, Reply};
use super::conn::Conn;
use super::connection::Connection;
use super::parked::Left;
use super::respond::{answer, name_session};
use super::writer::{give, give_rest};
use crate::model::asked::Asked;

/// Gives the rest of an answer, of which something was given before if `begun`. True if the connection is good for another
/// request.
pub(super) async fn finish(
    conn: &mut Conn,
    connection: &Arc<Connection>,
    asked: &Asked,
    left: Left,
    begun: bool,
) -> io::Result<bool> {
    let Some(parts) = left.reply else { return Ok(false) };
    connection.busy(asked.chunks, asked.keeps, asked.origin.clone());
    if asked.opens_session {
        connection.opens_session();
    }
    let reply = Reply {
        client: parts.client,
        outbox: parts.outbox,
        answered: parts.answered,
        resumable: parts.resumable,
        connection: connection.clone(),
    };
    let goes_on = if begun {
        let stream = left.stream.map(|(stream, _)| stream);
        let events = Events::adopted(reply, left.queue, left.head, stream);
        connection.streams();
        give_rest(conn, Body::Events(Box::new(events)), asked.chunks).await?;
        asked.chunks && asked.keeps
    } else {
        let Some(response) = conn.unless_gone(late_answer(reply, asked)).await else { return Ok(false) };
        give(conn, connection, response, asked.chunks, asked.keeps).await?
    };
    connection.idles();
    Ok(goes_on)
}

async fn late_answer(reply: Reply, asked: &Asked) -> Answer {
    let (client, front) = (reply.client.clone(), reply.connection.front.clone());
    let mut response = answer(reply, asked.accepts).await;
    if asked.opens_session && !name_session(&mut response, &front.hub, &client, None) {
        front.hub.end_session(&client, "its handshake failed");
    }
    share(&mut response, asked.origin.as_deref());
    response
}
