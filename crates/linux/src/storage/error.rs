//! Why a file cannot be opened as a storage.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file that cannot be a storage: which, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    path: PathBuf,
    kind: OpenErrorKind,
    /// What somebody else says of it.
    detail: Option<String>,
}

/// Why a file cannot be a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// There is no such file.
    NotFound,
    /// The process may not open it for reading, or for writing unless `read_only`.
    PermissionDenied {
        /// Whether reading alone was asked for.
        read_only: bool,
    },
    /// It, or its file system, can only be read, and writing was asked for.
    ReadOnly,
    /// It is a directory.
    Directory,
    /// It is neither a regular file nor a block device.
    NotStorage,
    /// Its length is no multiple of its block size.
    Length {
        /// Length in bytes.
        len: u64,
        /// Block size in bytes.
        block: u32,
    },
    /// Another process has it open and locked.
    InUse,
    /// It cannot be read past the page cache.
    NoDirect,
    /// The depth is 0 or more than 4096.
    Depth(u16),
    /// The kernel gives no io_uring that can do what is needed; with its error number, or 0 if it is too old.
    NoUring(i32),
    /// It is no image of the format that it was taken for, or one of a kind that cannot be used.
    Format,
    /// Anything else, with the operating system's error number.
    Os(i32),
}

impl OpenError {
    pub(super) fn new(path: &Path, kind: OpenErrorKind) -> Self {
        Self { path: path.into(), kind, detail: None }
    }

    #[cfg(feature = "qcow2")]
    pub(super) fn format(path: &Path, error: &io::Error) -> Self {
        let detail = error.to_string().split('\n').next().map(Into::into);
        Self { path: path.into(), kind: OpenErrorKind::Format, detail }
    }

    /// What went wrong.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }

    /// With which file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl OpenErrorKind {
    pub(super) fn of(error: &io::Error, read_only: bool) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { read_only },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::IsADirectory => Self::Directory,
            _ => Self::Os(error.raw_os_error().unwrap_or(0)),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.kind {
            OpenErrorKind::NotFound => {
                write!(f, "{path}: no such file; check the name, or create it with `truncate -s 1G {path}`")
            }
            OpenErrorKind::PermissionDenied { read_only: true } => {
                write!(f, "{path}: permission denied; let this user read it")
            }
            OpenErrorKind::PermissionDenied { read_only: false } => {
                write!(f, "{path}: permission denied; let this user read and write it, or open it read-only")
            }
            OpenErrorKind::ReadOnly => write!(f, "{path}: cannot be written to; open it read-only"),
            OpenErrorKind::Directory => {
                write!(f, "{path}: is a directory; name a regular file or a block device")
            }
            OpenErrorKind::NotStorage => {
                write!(f, "{path}: is no storage; name a regular file or a block device")
            }
            OpenErrorKind::Length { len, block } => write!(
                f,
                "{path}: its length, {len} bytes, is no multiple of {block}; \
                 pad it with `truncate -s %{block} {path}`"
            ),
            OpenErrorKind::InUse => {
                write!(f, "{path}: somebody else has it in use; stop them, or serve a copy")
            }
            OpenErrorKind::NoDirect => {
                write!(f, "{path}: its file system has no direct I/O; open it without")
            }
            OpenErrorKind::Depth(depth) => {
                write!(f, "{path}: a depth of {depth} is impossible; choose 1 to 4096")
            }
            OpenErrorKind::NoUring(0) => {
                write!(f, "{path}: this kernel's io_uring is too old; Linux 5.11 or later is needed")
            }
            OpenErrorKind::NoUring(number) => {
                let error = io::Error::from_raw_os_error(number);
                write!(f, "{path}: no io_uring ({error}); allow it with `sysctl kernel.io_uring_disabled=0`")
            }
            OpenErrorKind::Format => {
                let detail = self.detail.as_deref().unwrap_or("no more is known");
                write!(f, "{path}: no qcow2 image that can be used: {detail}; see `qemu-img check {path}`")
            }
            OpenErrorKind::Os(number) => {
                write!(f, "{path}: cannot be opened: {}", io::Error::from_raw_os_error(number))
            }
        }
    }
}

impl core::error::Error for OpenError {}
