//! Devices on vhost-user sockets.

use super::{Host, Opened, TYPES, Type, What, list};
use crate::failure::{Failure, Result};
use std::path::Path;
use virtio_kit::DeviceId;
use virtio_kit::transport::Transport;
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

/// Connects to the back-end at `socket`, with `memory` bytes shared. It is what is assumed, if nothing shows that
/// it is not; without an assumption it is what alone it can be.
pub(super) fn open(socket: &Path, assumed: Option<&'static Type>, memory: usize) -> Result<Opened> {
    let device = assumed.map_or(DeviceId::INVALID, |kind| kind.id);
    let options = Options { arena_len: memory, ..Options::new(device) };
    let mut front_end = FrontEnd::connect(socket, options).map_err(Failure::new)?;
    let has_config = front_end.protocol_features().contains(ProtocolFeatures::CONFIG);
    let offered = front_end.device_features().map_err(Failure::new)?;
    let what = match assumed {
        Some(kind) => match kind.unlike(offered, has_config) {
            Some(why) => What::Unknown(why),
            None => What::Is(kind.id),
        },
        None => {
            let like: Vec<&Type> = TYPES.iter().filter(|t| t.unlike(offered, has_config).is_none()).collect();
            match like[..] {
                [one] => What::Is(one.id),
                [] => What::Unknown(none(offered, has_config)),
                _ => {
                    let names: Vec<&str> = like.iter().map(|t| t.name).collect();
                    What::Unknown(format!("it could be {}: say which with --device", list(&names, "or")))
                }
            }
        }
    };
    Ok(Opened { transport: Box::new(front_end), host: Host::default(), what })
}

/// Why it is none of the types, in a line.
fn none(offered: virtio_kit::Features, has_config: bool) -> String {
    let why = |t: &Type| t.unlike(offered, has_config).map(|why| format!("not {}: {why}", t.a));
    TYPES.iter().filter_map(why).collect::<Vec<_>>().join("; ")
}
