//! The back-end's own requests (`BACKEND_REQ`), answered by a thread.
//!
//! A back-end may wait for the answer before it goes on with anything, so it cannot wait until the driver
//! next looks.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use std::io::{Read, Write};
use virtio_kit::device::ConfigNotice;

use crate::vhost_user::codec::{
    BackendRequest, BackendRequestDecoder, Channel as Which, ProtocolFeatures, Reply, ReplyKind, ReplyRules,
};

/// Our end of a channel. Dropped, the thread ends.
pub(super) struct Channel {
    ours: UnixStream,
}

impl Channel {
    /// Makes a channel and its thread; the other end is for the back-end.
    pub(super) fn open(
        notice: Arc<ConfigNotice>,
        features: ProtocolFeatures,
        timeout: Duration,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(timeout))?;
        let served = ours.try_clone()?;
        std::thread::Builder::new().name("vhost-user".into()).spawn(move || {
            // Whatever ends it, there is nobody to tell: the main socket decides about the back-end.
            let _ = serve(&served, &notice, ReplyRules { features, postcopy: false });
        })?;
        Ok((Self { ours }, theirs))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Closed already by the back-end, perhaps.
        let _ = self.ours.shutdown(Shutdown::Both);
    }
}

/// Answers requests until the channel is closed. Descriptors were not negotiated and are closed by the
/// kernel, since plain reads do not take any.
fn serve(mut stream: &UnixStream, notice: &ConfigNotice, rules: ReplyRules) -> io::Result<()> {
    let mut decoder = BackendRequestDecoder::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(received) = decoder.next().map_err(io::Error::other)? {
            let understood = match &received.message {
                Ok(BackendRequest::ConfigChangeMsg) => {
                    notice.changed();
                    true
                }
                _ => false,
            };
            let kind = match &received.message {
                Ok(message) => message.reply_kind(rules, received.header.need_reply),
                Err(_) => received.header.need_reply.then_some(ReplyKind::Ack),
            };
            let reply: Reply<UnixStream> = match kind {
                None => continue,
                Some(ReplyKind::SharedObjectLookup) => Reply::SharedObjectLookup(Err(1)),
                Some(_) => Reply::Ack(u64::from(!understood)),
            };
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            reply
                .encode(Which::Backend, received.header.request, &mut bytes, &mut fds)
                .map_err(io::Error::other)?;
            stream.write_all(&bytes)?;
        }
        let wanted = decoder.wants().min(buffer.len());
        match stream.read(&mut buffer[..wanted]) {
            Ok(0) => return Ok(()),
            Ok(count) => decoder.feed(&buffer[..count], []),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
