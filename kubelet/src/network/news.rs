//! News of interfaces, addresses and routes, as the kernel tells them.

use std::io;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use tokio_util::task::AbortOnDropHandle;

/// News since this was made, in the network namespace it was made in.
///
/// They have a socket of their own: when many come, some are lost, and on a shared socket the
/// answers to requests were lost with them. So news are hints, and whoever waits for one looks at
/// the thing itself.
pub(crate) struct News {
    // Before the receiver, as it is dropped: it warns of each message that nobody takes.
    _connection: AbortOnDropHandle<()>,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl News {
    /// News of these groups.
    pub(crate) fn of(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(groups)?;
        Ok(Self { messages, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// The next one; nothing when the connection was lost.
    pub(crate) async fn next(&mut self) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
        self.messages.next().await.map(|(message, _)| message)
    }

    /// Passes over what is there already: one look at the thing itself covers it.
    pub(crate) fn skip(&mut self) {
        while self.messages.try_recv().is_ok() {}
    }
}
