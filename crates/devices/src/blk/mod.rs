//! A block device (5.2).

mod storage;

pub use storage::{Backend, Finished, Operation, Request, Storage, StorageError};
