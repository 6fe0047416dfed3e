//! Which frames a driver wants to receive (5.1.9.5.1 to 5.1.9.5.3).

use super::MacAddress;
use super::packet;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Most addresses of each kind in the filter. With more, all of that kind pass.
pub(super) const MAX_ADDRESSES: usize = 64;

const BROADCAST: MacAddress = [0xff; 6];

/// Receive modes, addresses and VLANs.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) mac: MacAddress,
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) all_unicast: bool,
    pub(super) no_multicast: bool,
    pub(super) no_unicast: bool,
    pub(super) no_broadcast: bool,
    pub(super) unicast: Addresses,
    pub(super) multicast: Addresses,
    /// VLAN ids that pass, a bit each; `None` if all do.
    pub(super) vlans: Option<Box<[u64; 64]>>,
}

/// A list of addresses, or all.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) list: Vec<MacAddress>,
    /// There were more than the list holds.
    pub(super) all: bool,
}

impl Addresses {
    fn has(&self, address: &[u8]) -> bool {
        self.all || self.list.iter().any(|one| one == address)
    }
}

impl Filter {
    /// A driver that says nothing receives everything; one that negotiated a VLAN filter names its VLANs.
    pub(super) fn initial(mac: MacAddress, vlans: bool) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Addresses::default(),
            multicast: Addresses::default(),
            vlans: vlans.then(|| Box::new([0; 64])),
        }
    }

    /// Lets a VLAN pass, or not. Nothing happens without a VLAN filter.
    pub(super) fn set_vlan(&mut self, id: u16, pass: bool) {
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        if let Some(word) = self.vlans.as_mut().and_then(|vlans| vlans.get_mut(word)) {
            *word = if pass { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the driver wants a frame.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        let Some(destination) = frame.first_chunk::<6>() else { return false };
        if self.promiscuous {
            return true;
        }
        if let Some(vlans) = &self.vlans
            && let Some(id) = packet::vlan(frame)
            && vlans[usize::from(id / 64)] >> (id % 64) & 1 == 0
        {
            return false;
        }
        if *destination == BROADCAST {
            return !self.no_broadcast;
        }
        if destination[0] & 1 != 0 {
            return !self.no_multicast && (self.all_multicast || self.multicast.has(destination));
        }
        !self.no_unicast && (self.all_unicast || *destination == self.mac || self.unicast.has(destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = [2, 0, 0, 0, 0, 1];
    const OTHER: MacAddress = [2, 0, 0, 0, 0, 9];
    const GROUP: MacAddress = [1, 0, 0x5e, 0, 0, 1];

    fn frame(destination: MacAddress) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&destination);
        frame
    }

    fn passing(change: impl FnOnce(&mut Filter)) -> [bool; 4] {
        let mut filter = Filter { promiscuous: false, ..Filter::initial(MAC, false) };
        change(&mut filter);
        [MAC, OTHER, GROUP, BROADCAST].map(|destination| filter.passes(&frame(destination)))
    }

    // devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Packet Receive Filtering
    // devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
    #[test]
    fn each_mode_lets_its_kind_of_frame_pass() {
        let list = |address| Addresses { list: Vec::from([address]), all: false };
        assert_eq!(passing(|_| {}), [true, false, false, true]);
        assert_eq!(passing(|f| f.promiscuous = true), [true; 4]);
        assert_eq!(passing(|f| f.all_unicast = true), [true, true, false, true]);
        assert_eq!(passing(|f| f.all_multicast = true), [true, false, true, true]);
        assert_eq!(passing(|f| f.unicast = list(OTHER)), [true, true, false, true]);
        assert_eq!(passing(|f| f.multicast = list(GROUP)), [true, false, true, true]);
        assert_eq!(passing(|f| f.unicast.all = true), [true, true, false, true]);
        assert_eq!(passing(|f| f.multicast.all = true), [true, false, true, true]);
        assert_eq!(passing(|f| f.no_unicast = true), [false, false, false, true]);
        assert_eq!(passing(|f| f.no_broadcast = true), [true, false, false, false]);
        let silent = |f: &mut Filter| (f.all_multicast, f.no_multicast) = (true, true);
        assert_eq!(passing(silent), [true, false, false, true]);
    }

    // devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering
    #[test]
    fn with_a_vlan_filter_only_named_vlans_and_untagged_frames_pass() {
        let tagged = |id: u16| {
            let mut frame = frame(MAC);
            frame[12..14].copy_from_slice(&[0x81, 0]);
            frame[14..16].copy_from_slice(&(0xe000 | id).to_be_bytes());
            frame
        };
        let mut filter = Filter { promiscuous: false, ..Filter::initial(MAC, true) };
        assert!(filter.passes(&frame(MAC)));
        for id in [0, 1, 63, 64, 4095] {
            assert!(!filter.passes(&tagged(id)), "{id}");
            filter.set_vlan(id, true);
            assert!(filter.passes(&tagged(id)), "{id}");
            filter.set_vlan(id, false);
            assert!(!filter.passes(&tagged(id)), "{id}");
        }
        filter.set_vlan(4096, true);
        assert!(Filter { vlans: None, ..filter }.passes(&tagged(5)));
    }
}
