//! Sockets as the traits of others have them.

#[cfg(feature = "embedded-io")]
mod embedded {
    use super::super::{Blocking, ConnectionError, Socket, SocketError, SocketReader, SocketWriter};
    use core::future::poll_fn;
    use embedded_io::{Error, ErrorKind, ErrorType};

    impl Error for SocketError {
        fn kind(&self) -> ErrorKind {
            match self {
                Self::Connection(ConnectionError::Refused) => ErrorKind::ConnectionRefused,
                Self::Connection(ConnectionError::Closed) => ErrorKind::BrokenPipe,
                Self::Connection(ConnectionError::NotOpen) => ErrorKind::NotConnected,
                Self::Connection(ConnectionError::Aborted) => ErrorKind::ConnectionAborted,
                Self::Connection(ConnectionError::TooLong { .. } | ConnectionError::Kind(_)) => {
                    ErrorKind::InvalidInput
                }
                Self::Connection(ConnectionError::Unsupported(_)) => ErrorKind::Unsupported,
                Self::Connection(_) => ErrorKind::ConnectionReset,
                Self::Timeout(_) => ErrorKind::TimedOut,
                Self::Device(_) => ErrorKind::Other,
            }
        }
    }

    impl<S> ErrorType for Blocking<S> {
        type Error = SocketError;
    }

    impl<S: AsMut<SocketReader>> embedded_io::Read for Blocking<S> {
        fn read(&mut self, to: &mut [u8]) -> Result<usize, SocketError> {
            Self::read(self, to)
        }
    }

    impl<S: AsMut<SocketWriter>> embedded_io::Write for Blocking<S> {
        fn write(&mut self, from: &[u8]) -> Result<usize, SocketError> {
            Self::write(self, from)
        }

        fn flush(&mut self) -> Result<(), SocketError> {
            Self::flush(self)
        }
    }

    macro_rules! asynchronous {
        (read $($reader:ty),+) => {$(
            impl embedded_io_async::Read for $reader {
                async fn read(&mut self, to: &mut [u8]) -> Result<usize, SocketError> {
                    let reader: &mut SocketReader = self.as_mut();
                    poll_fn(|cx| reader.poll_read(cx, to)).await
                }
            }
        )+};
        (write $($writer:ty),+) => {$(
            impl embedded_io_async::Write for $writer {
                async fn write(&mut self, from: &[u8]) -> Result<usize, SocketError> {
                    let writer: &mut SocketWriter = self.as_mut();
                    poll_fn(|cx| writer.poll_write(cx, from)).await
                }

                async fn flush(&mut self) -> Result<(), SocketError> {
                    let writer: &mut SocketWriter = self.as_mut();
                    poll_fn(|cx| writer.poll_flush(cx)).await
                }
            }
        )+};
        (error $($socket:ty),+) => {$(
            impl ErrorType for $socket {
                type Error = SocketError;
            }
        )+};
    }
    asynchronous!(error Socket, SocketReader, SocketWriter);
    asynchronous!(read Socket, SocketReader);
    asynchronous!(write Socket, SocketWriter);
}

#[cfg(feature = "std")]
mod standard {
    use super::super::{Blocking, ConnectionError, SocketError, SocketReader, SocketWriter};
    use std::io::{Error, ErrorKind, Read, Result, Write};

    impl From<SocketError> for Error {
        fn from(error: SocketError) -> Self {
            let kind = match error {
                SocketError::Connection(ConnectionError::Refused) => ErrorKind::ConnectionRefused,
                SocketError::Connection(ConnectionError::Closed) => ErrorKind::BrokenPipe,
                SocketError::Connection(ConnectionError::NotOpen) => ErrorKind::NotConnected,
                SocketError::Connection(ConnectionError::Aborted) => ErrorKind::ConnectionAborted,
                SocketError::Connection(ConnectionError::TooLong { .. } | ConnectionError::Kind(_)) => {
                    ErrorKind::InvalidInput
                }
                SocketError::Connection(ConnectionError::Unsupported(_)) => ErrorKind::Unsupported,
                SocketError::Connection(_) => ErrorKind::ConnectionReset,
                SocketError::Timeout(_) => ErrorKind::TimedOut,
                SocketError::Device(_) => ErrorKind::Other,
            };
            Self::new(kind, error)
        }
    }

    impl<S: AsMut<SocketReader>> Read for Blocking<S> {
        fn read(&mut self, to: &mut [u8]) -> Result<usize> {
            Ok(Self::read(self, to)?)
        }
    }

    impl<S: AsMut<SocketWriter>> Write for Blocking<S> {
        fn write(&mut self, from: &[u8]) -> Result<usize> {
            Ok(Self::write(self, from)?)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(Self::flush(self)?)
        }
    }
}
