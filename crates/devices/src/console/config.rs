//! What the device says of itself (5.3.4).

use super::state::Shared;
use virtio_kit::spec::console::Config;

pub(super) fn config(shared: &Shared) -> Config {
    let mut config = Config::default();
    if let Some(size) = shared.config_size() {
        config.cols = size.cols.into();
        config.rows = size.rows.into();
    }
    config.max_nr_ports = u32::from(shared.max_ports()).into();
    config
}
