//! The network driver on a device that does what it is told, in one program.

mod control;
mod data;
mod hostile;
mod scripted;
