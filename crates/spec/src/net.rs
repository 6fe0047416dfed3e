//! Network device (5.1).

mod config;
mod control;
mod features;
mod flow_filter;
mod hash;
mod header;
mod stats;

pub use config::{
    Config, Duplex, LinkStatus, MAX_QUEUE_PAIRS, MIN_MTU, MIN_QUEUE_PAIRS, SPEED_UNKNOWN, queue,
};
pub use control::{
    Ack, AnnounceCommand, Class, Coalesce, CoalesceCommand, CoalesceQueue, ControlHeader, CvqSelector,
    GuestOffloads, GuestOffloadsCommand, HashTunnelCommand, MacCommand, MqCommand, QueuePairs,
    RssContextCommand, RxCommand, StatsCommand, VlanCommand,
};
pub use features::{DEPENDENCIES, F};
pub use flow_filter::{
    Capability, FlowAction, FlowActions, FlowClassifier, FlowGroup, FlowLimits, FlowMaskFlags, FlowRule,
    FlowSelector, FlowSelectorType, FlowSelectors, ResourceObject,
};
pub use hash::{
    HashConfig, HashReport, HashTunnel, HashTypes, MIN_RSS_KEY_SIZE, MIN_RSS_TABLE_LENGTH, RssConfig,
    RssConfigTail, RssContext, RssContextCap, RssContextDel, RssQueue, TunnelTypes,
};
pub use header::{
    Gso, Header, HeaderFlags, HeaderFull, HeaderHash, HeaderLegacy, HeaderTunnel, IpsecResource, header_size,
};
pub use stats::{
    Stats, StatsCapabilities, StatsCvq, StatsHeader, StatsQuery, StatsReply, StatsRxBasic, StatsRxCsum,
    StatsRxGso, StatsRxSpeed, StatsTxBasic, StatsTxCsum, StatsTxGso, StatsTxSpeed,
};
