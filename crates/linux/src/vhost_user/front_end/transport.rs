//! The front-end as a transport for drivers.

use std::sync::Arc;
use std::time::Instant;

use virtio_kit::driver::QueueInterrupt;
use virtio_kit::transport::{Identity, Notifier, QueueSetup, Transport, TransportError};
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_spec::{DeviceId, F, Features, Status, net};

use super::FrontEnd;
use super::error::Failure;
use super::lines::{Line, Lines};
use super::rings::Ring;
use super::session::Session;
use crate::vhost_user::codec::{F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeatures, Request};

/// Bits 0 to 23 and 50 to 63: those of device types (2.2), as far as 64 bits go.
const DEVICE_TYPE: Features = Features::from_low(0xfffc_0000_00ff_ffff);

/// Ring features that need nothing of the mechanism. Not: NOTIFICATION_DATA (an event descriptor carries no
/// data), RING_RESET (no message), ACCESS_PLATFORM (addresses would go through the IOTLB messages).
const RING: Features =
    F::INDIRECT_DESC.union(F::EVENT_IDX).union(F::VERSION_1).union(F::RING_PACKED).union(F::IN_ORDER);

/// What of a network device is a matter of its configuration space or of its control queue.
const NET_CONTROLLED: Features = net::F::MAC
    .union(net::F::STATUS)
    .union(net::F::MTU)
    .union(net::F::SPEED_DUPLEX)
    .union(net::F::CTRL_VQ)
    .union(net::F::CTRL_RX)
    .union(net::F::CTRL_VLAN)
    .union(net::F::CTRL_RX_EXTRA)
    .union(net::F::CTRL_MAC_ADDR)
    .union(net::F::CTRL_GUEST_OFFLOADS)
    .union(net::F::GUEST_ANNOUNCE)
    .union(net::F::MQ)
    .union(net::F::RSS)
    .union(net::F::HASH_REPORT)
    .union(net::F::NOTF_COAL)
    .union(net::F::VQ_NOTF_COAL);

impl Transport for FrontEnd {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn identity(&self) -> Identity {
        Identity::of(self.device)
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn allowed_features(&self) -> Features {
        let mut allowed = (DEVICE_TYPE | RING) & self.features;
        // Network back-ends without a configuration space offer what they expect the front-end to do for them.
        if self.device == DeviceId::NETWORK && !self.protocol_features().contains(ProtocolFeatures::CONFIG) {
            allowed -= NET_CONTROLLED;
        }
        allowed
    }

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        // Never on a new connection: only the back-end that has the rings can let go of them.
        let any = self.shared.update(Session::reset)?;
        let evidence = if any { Evidence::BackendStopped } else { Evidence::NeverEnabled };
        self.features_ok = false;
        self.wait_for_reset_status()?;
        Ok(Quiesced::on(evidence))
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        self.shared.exchange(|session| {
            let mut status = session.status;
            if session.has(ProtocolFeatures::STATUS) {
                let value = session.number(Request::GetStatus)?;
                let value = u8::try_from(value)
                    .map_err(|_| TransportError::Protocol("vhost-user: a status of more than 8 bits"))?;
                status = Status::from_bits_retain(value);
            }
            if session.rings.iter().flatten().any(|ring| ring.lines.has_failed()) {
                status |= Status::DEVICE_NEEDS_RESET;
            }
            Ok(status)
        })
    }

    fn set_status(&mut self, mut status: Status) -> Result<(), TransportError> {
        if !self.features_ok {
            status -= Status::FEATURES_OK;
        }
        self.shared.update(|session| {
            if status.contains(Status::DRIVER_OK) && !session.status.contains(Status::DRIVER_OK) {
                session.status = status - Status::DRIVER_OK;
                return session.run();
            }
            Ok(session.send_status(status)?)
        })
    }

    fn device_features(&mut self) -> Result<Features, TransportError> {
        let own = F_PROTOCOL_FEATURES | F_LOG_ALL;
        Ok(Features::from_low(self.shared.session().offered & !own))
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError> {
        let offered = self.device_features()?;
        self.features_ok = false;
        if !offered.contains(features) {
            // FEATURES_OK will not be kept.
            return Ok(());
        }
        self.features_ok = self.shared.update(|session| {
            session.accepted = Some(features.low());
            match session.send_features(features.low()) {
                Ok(()) => Ok(true),
                Err(failed) if matches!(failed.why, Failure::Nack) => Ok(false),
                Err(failed) => Err(TransportError::from(failed)),
            }
        })?;
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, TransportError> {
        Ok(self.shared.session().notice.generation())
    }

    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        self.shared.exchange(|session| session.read_config(offset, to))
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        self.shared.exchange(|session| session.write_config(offset, from))
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        let session = self.shared.session();
        Ok(if index < session.queue_count { session.options.queue_size } else { 0 })
    }

    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        let lines = Lines::new(interrupt).map_err(|error| TransportError::Os(error.raw_os_error()))?;
        let lines = Arc::new(lines);
        let ring = Ring { setup, lines: lines.clone(), started: false };
        self.shared.update(|session| session.enable_queue(index, ring))?;
        Ok(Box::new(Line { shared: self.shared.clone(), lines }))
    }

    fn reset_queue(&mut self, index: u16) -> Result<Quiesced, TransportError> {
        self.shared.update(|session| {
            if index >= session.queue_count {
                return Err(TransportError::NoQueue(index));
            }
            let had = session.stop(index)?;
            Ok(Quiesced::on(if had { Evidence::BackendStopped } else { Evidence::NeverEnabled }))
        })
    }
}

impl FrontEnd {
    /// With `STATUS` a reset is over when the status reads as 0.
    fn wait_for_reset_status(&self) -> Result<(), TransportError> {
        let mut session = self.shared.session();
        let until = Instant::now() + session.options.timeout;
        while session.has(ProtocolFeatures::STATUS) && session.number(Request::GetStatus)? != 0 {
            if Instant::now() >= until {
                return Err(TransportError::Timeout);
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}
