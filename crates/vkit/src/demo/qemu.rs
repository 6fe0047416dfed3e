//! QEMU, as far as the demo has to know it.

use super::daemon::on_path;

pub(super) const NAME: &str = "qemu-system-x86_64";

/// Whether it is on the PATH.
pub(super) fn is_there() -> bool {
    on_path(NAME).is_some()
}
