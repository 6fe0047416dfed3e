//! A valid message of every kind, its contents drawn from a seed.

use super::*;

pub(super) struct Sample(pub(super) u64);

impl Sample {
    pub(super) fn u64(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.u64() % end as u64) as usize
    }

    pub(super) fn bool(&mut self) -> bool {
        self.below(2) == 1
    }

    fn half(&mut self) -> u64 {
        self.u64() >> 1
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.u64() as u8).collect()
    }

    fn optional_fd(&mut self) -> Option<OwnedFd> {
        self.bool().then(fd)
    }

    fn state(&mut self) -> VringState {
        VringState { index: self.u64() as u32, num: self.u64() as u32 }
    }

    fn vring_fd(&mut self) -> VringFd {
        VringFd { index: self.u64() as u8, fd: self.optional_fd() }
    }

    pub(super) fn region(&mut self, xen: bool) -> MemoryRegion {
        MemoryRegion {
            guest_addr: self.half(),
            size: self.half() | 1,
            user_addr: self.half(),
            mmap_offset: self.half(),
            xen: xen.then(|| XenMapping { flags: self.u64() as u32, domid: self.u64() as u32 }),
        }
    }

    fn shared(&mut self, xen: bool) -> SharedRegion {
        SharedRegion { region: self.region(xen), fd: fd() }
    }

    fn config(&mut self) -> ConfigSpace {
        let size = self.below(257);
        ConfigSpace { offset: self.u64() as u32 >> 1, flags: self.u64() as u32, data: self.bytes(size) }
    }

    fn iotlb(&mut self) -> Iotlb {
        let kinds = [IotlbKind::Miss, IotlbKind::Update, IotlbKind::Invalidate, IotlbKind::AccessFail];
        Iotlb {
            iova: self.half(),
            size: self.half(),
            user_addr: self.half(),
            access: Access::from_bits_truncate(self.u64() as u8),
            kind: kinds[self.below(4)],
        }
    }

    pub(super) fn inflight(&mut self) -> Inflight {
        Inflight {
            mmap_size: self.half() | 1,
            mmap_offset: self.half(),
            num_queues: self.u64() as u16,
            queue_size: self.u64() as u16,
        }
    }

    fn uuid(&mut self) -> Uuid {
        Uuid(self.bytes(16).try_into().expect("16 bytes"))
    }

    fn shmem(&mut self) -> ShmemRange {
        ShmemRange {
            shmid: self.u64() as u8,
            fd_offset: self.half(),
            shm_offset: self.half(),
            len: self.half() | 1,
            writable: self.bool(),
        }
    }

    pub(super) fn request(&mut self, code: RequestCode) -> Request {
        use RequestCode as C;
        match code {
            C::GetFeatures => Request::GetFeatures,
            C::SetFeatures => Request::SetFeatures(self.u64()),
            C::SetOwner => Request::SetOwner,
            C::ResetOwner => Request::ResetOwner,
            C::SetMemTable => {
                let (count, xen) = (self.below(9), self.bool());
                Request::SetMemTable((0..count).map(|_| self.shared(xen)).collect())
            }
            C::SetLogBase if self.bool() => Request::SetLogBase(LogBase::Address(self.u64())),
            C::SetLogBase => {
                let (size, offset, fd) = (self.half(), self.half(), self.optional_fd());
                Request::SetLogBase(LogBase::Area { size, offset, fd })
            }
            C::SetLogFd => Request::SetLogFd(fd()),
            C::SetVringNum => Request::SetVringNum(self.state()),
            C::SetVringAddr => Request::SetVringAddr(VringAddr {
                index: self.u64() as u32,
                flags: self.u64() as u32,
                descriptor: self.u64(),
                used: self.u64(),
                available: self.u64(),
                log: self.u64(),
            }),
            C::SetVringBase => Request::SetVringBase(self.state()),
            C::GetVringBase => Request::GetVringBase { index: self.u64() as u32 },
            C::SetVringKick => Request::SetVringKick(self.vring_fd()),
            C::SetVringCall => Request::SetVringCall(self.vring_fd()),
            C::SetVringErr => Request::SetVringErr(self.vring_fd()),
            C::GetProtocolFeatures => Request::GetProtocolFeatures,
            C::SetProtocolFeatures => {
                Request::SetProtocolFeatures(ProtocolFeatures::from_bits_retain(self.u64()))
            }
            C::GetQueueNum => Request::GetQueueNum,
            C::SetVringEnable => Request::SetVringEnable { index: self.u64() as u32, enable: self.bool() },
            C::SendRarp => Request::SendRarp(self.bytes(6).try_into().expect("6 bytes")),
            C::NetSetMtu => Request::NetSetMtu(self.u64()),
            C::SetBackendReqFd => Request::SetBackendReqFd(fd()),
            C::IotlbMsg => Request::IotlbMsg(self.iotlb()),
            C::SetVringEndian => Request::SetVringEndian { index: self.u64() as u32, big: self.bool() },
            C::GetConfig => Request::GetConfig {
                offset: self.u64() as u32 >> 1,
                size: self.below(257) as u32,
                flags: self.u64() as u32,
            },
            C::SetConfig => Request::SetConfig(self.config()),
            C::CreateCryptoSession => {
                let size = self.below(4097);
                Request::CreateCryptoSession(self.bytes(size))
            }
            C::CloseCryptoSession => Request::CloseCryptoSession(self.u64()),
            C::PostcopyAdvise => Request::PostcopyAdvise,
            C::PostcopyListen => Request::PostcopyListen,
            C::PostcopyEnd => Request::PostcopyEnd,
            C::GetInflightFd => Request::GetInflightFd(self.inflight()),
            C::SetInflightFd => Request::SetInflightFd(self.inflight(), fd()),
            C::GpuSetSocket => Request::GpuSetSocket(fd()),
            C::ResetDevice => Request::ResetDevice,
            C::VringKick => Request::VringKick { index: self.u64() as u32 },
            C::GetMaxMemSlots => Request::GetMaxMemSlots,
            C::AddMemReg => {
                let xen = self.bool();
                Request::AddMemReg(self.shared(xen))
            }
            C::RemMemReg => {
                let xen = self.bool();
                Request::RemMemReg(self.region(xen))
            }
            C::SetStatus => Request::SetStatus(self.u64() as u8),
            C::GetStatus => Request::GetStatus,
            C::GetSharedObject => Request::GetSharedObject(self.uuid()),
            C::SetDeviceStateFd => {
                let direction = if self.bool() { Direction::Save } else { Direction::Load };
                Request::SetDeviceStateFd { direction, phase: Phase::Stopped, fd: fd() }
            }
            C::CheckDeviceState => Request::CheckDeviceState,
            C::GetShmemConfig => Request::GetShmemConfig,
        }
    }

    pub(super) fn backend_request(&mut self, code: BackendCode) -> BackendRequest {
        use BackendCode as C;
        match code {
            C::IotlbMsg => BackendRequest::IotlbMsg(self.iotlb()),
            C::ConfigChangeMsg => BackendRequest::ConfigChangeMsg,
            C::VringHostNotifierMsg => BackendRequest::VringHostNotifierMsg(HostNotifier {
                index: self.u64() as u8,
                size: self.half(),
                offset: self.half(),
                fd: self.optional_fd(),
            }),
            C::VringCall => BackendRequest::VringCall { index: self.u64() as u32 },
            C::VringErr => BackendRequest::VringErr { index: self.u64() as u32 },
            C::SharedObjectAdd => BackendRequest::SharedObjectAdd(self.uuid()),
            C::SharedObjectRemove => BackendRequest::SharedObjectRemove(self.uuid()),
            C::SharedObjectLookup => BackendRequest::SharedObjectLookup(self.uuid()),
            C::ShmemMap => BackendRequest::ShmemMap(self.shmem(), fd()),
            C::ShmemUnmap => BackendRequest::ShmemUnmap(self.shmem()),
        }
    }

    /// A reply that fits what is expected.
    pub(super) fn reply(&mut self, kind: ReplyKind) -> Reply {
        match kind {
            ReplyKind::Ack | ReplyKind::LogBase => Reply::Ack(self.u64()),
            ReplyKind::Value => Reply::Value(self.u64()),
            ReplyKind::VringBase { index } => Reply::VringBase(VringState { index, num: self.u64() as u32 }),
            ReplyKind::MemTable { count } => {
                let xen = self.bool();
                Reply::MemTable((0..count).map(|_| self.region(xen)).collect())
            }
            ReplyKind::MemReg => Reply::MemReg(self.region(false)),
            ReplyKind::Config { size: 0, .. } => Reply::Config(None),
            ReplyKind::Config { offset, size } => {
                let data = self.bytes(size as usize);
                Reply::Config(self.bool().then_some(ConfigSpace { offset, flags: 0, data }))
            }
            ReplyKind::CryptoSession => Reply::CryptoSession(self.bytes(100)),
            ReplyKind::Userfault => Reply::Userfault(fd()),
            ReplyKind::Inflight if self.bool() => {
                Reply::Inflight(Inflight { mmap_size: 0, ..self.inflight() }, None)
            }
            ReplyKind::Inflight => Reply::Inflight(self.inflight(), Some(fd())),
            ReplyKind::SharedObject => Reply::SharedObject(self.optional_fd()),
            ReplyKind::DeviceState => {
                let fd = self.optional_fd();
                Reply::DeviceState { result: if fd.is_some() { 0 } else { self.u64() as u8 }, fd }
            }
            ReplyKind::ShmemConfig => {
                let mut sizes = [0; MAX_SHMEM_REGIONS];
                for _ in 0..self.below(4) {
                    sizes[self.below(MAX_SHMEM_REGIONS)] = self.u64();
                }
                Reply::ShmemConfig(Box::new(ShmemConfig(sizes)))
            }
            ReplyKind::SharedObjectLookup => {
                Reply::SharedObjectLookup(if self.bool() { Ok(fd()) } else { Err(self.u64() | 1) })
            }
        }
    }
}
