//! Ports as the traits of others have them.
//!
//! Reading from a port at whose other end nobody is gives 0 bytes, the end; writing to it is an error.

#[cfg(feature = "embedded-io")]
mod embedded {
    use super::super::{Blocking, Port, PortError, PortReader, PortWriter};
    use core::future::poll_fn;
    use embedded_io::{Error, ErrorKind, ErrorType};

    impl Error for PortError {
        fn kind(&self) -> ErrorKind {
            match self {
                Self::Closed => ErrorKind::BrokenPipe,
                Self::Removed => ErrorKind::NotConnected,
                Self::Timeout(_) => ErrorKind::TimedOut,
                Self::Queue(_) => ErrorKind::Other,
            }
        }
    }

    impl<P> ErrorType for Blocking<P> {
        type Error = PortError;
    }

    impl<P: AsMut<PortReader>> embedded_io::Read for Blocking<P> {
        fn read(&mut self, to: &mut [u8]) -> Result<usize, PortError> {
            at_end(Self::read(self, to))
        }
    }

    impl<P: AsMut<PortWriter>> embedded_io::Write for Blocking<P> {
        fn write(&mut self, from: &[u8]) -> Result<usize, PortError> {
            Self::write(self, from)
        }

        fn flush(&mut self) -> Result<(), PortError> {
            Self::flush(self)
        }
    }

    fn at_end(read: Result<usize, PortError>) -> Result<usize, PortError> {
        match read {
            Err(PortError::Closed) => Ok(0),
            read => read,
        }
    }

    macro_rules! asynchronous {
        (read $($reader:ty),+) => {$(
            impl embedded_io_async::Read for $reader {
                async fn read(&mut self, to: &mut [u8]) -> Result<usize, PortError> {
                    let reader: &mut PortReader = self.as_mut();
                    at_end(poll_fn(|cx| reader.poll_read(cx, to)).await)
                }
            }
        )+};
        (write $($writer:ty),+) => {$(
            impl embedded_io_async::Write for $writer {
                async fn write(&mut self, from: &[u8]) -> Result<usize, PortError> {
                    let writer: &mut PortWriter = self.as_mut();
                    poll_fn(|cx| writer.poll_write(cx, from)).await
                }

                async fn flush(&mut self) -> Result<(), PortError> {
                    let writer: &mut PortWriter = self.as_mut();
                    poll_fn(|cx| writer.poll_flush(cx)).await
                }
            }
        )+};
        (error $($port:ty),+) => {$(
            impl ErrorType for $port {
                type Error = PortError;
            }
        )+};
    }
    asynchronous!(error Port, PortReader, PortWriter);
    asynchronous!(read Port, PortReader);
    asynchronous!(write Port, PortWriter);
}

#[cfg(feature = "std")]
mod standard {
    use super::super::{Blocking, PortError, PortReader, PortWriter};
    use std::io::{Error, ErrorKind, Read, Result, Write};

    impl From<PortError> for Error {
        fn from(error: PortError) -> Self {
            let kind = match error {
                PortError::Closed => ErrorKind::BrokenPipe,
                PortError::Removed => ErrorKind::NotConnected,
                PortError::Timeout(_) => ErrorKind::TimedOut,
                PortError::Queue(_) => ErrorKind::Other,
            };
            Self::new(kind, error)
        }
    }

    impl<P: AsMut<PortReader>> Read for Blocking<P> {
        fn read(&mut self, to: &mut [u8]) -> Result<usize> {
            match Self::read(self, to) {
                Err(PortError::Closed) => Ok(0),
                read => Ok(read?),
            }
        }
    }

    impl<P: AsMut<PortWriter>> Write for Blocking<P> {
        fn write(&mut self, from: &[u8]) -> Result<usize> {
            Ok(Self::write(self, from)?)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(Self::flush(self)?)
        }
    }
}
