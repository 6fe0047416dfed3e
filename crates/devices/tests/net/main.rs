//! The network device, its driver by hand and in the same thread.

mod allocation;
mod bench;
mod control;
mod crossing;
mod hostile;
mod offloads;
mod packets;
mod station;
mod steering;
mod stopping;
mod switch;
mod threads;
