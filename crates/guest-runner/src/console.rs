//! The other ends of a console's ports: they look at what comes, and send it back with every bit the other way round.

use crate::disk::Layout;
use crate::machine::Attach;
use crate::{Error, pattern};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the second port is called. The first is a console.
pub(crate) const NAME: &str = "org.virtio-kit.guest";

/// A console with two ports that end here. Dropped, nobody is at them any more.
pub(crate) struct Terminal {
    layout: Layout,
    ports: Vec<End>,
}

/// A port's end.
struct End {
    path: PathBuf,
    /// Who is at the socket, once somebody is.
    stream: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<u64>>,
}

impl Terminal {
    pub(crate) fn create(folder: &Path, layout: Layout, seed: u64) -> Result<Self, Error> {
        let end = |port: u32| {
            let failed = |error| Error::Io("the socket of a console's port", error);
            let path = folder.join(format!("port{port}"));
            let listener = UnixListener::bind(&path).map_err(failed)?;
            let stream = Arc::new(Mutex::new(None));
            let place = stream.clone();
            let thread = std::thread::Builder::new().name(format!("port {port}"));
            let thread = thread
                .spawn(move || match listener.accept() {
                    Ok((stream, _)) => {
                        *place.lock().unwrap_or_else(PoisonError::into_inner) = stream.try_clone().ok();
                        answer(stream, seed, port)
                    }
                    Err(_) => 0,
                })
                .map_err(failed)?;
            Ok(End { path, stream, thread: Some(thread) })
        };
        Ok(Self { layout, ports: (0..2).map(end).collect::<Result<_, Error>>()? })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self, attach: Attach) -> Vec<String> {
        let properties = format!("id=ports,max_ports=2,{}", self.layout.properties());
        let mut arguments = vec!["-device".into(), attach.device("serial", &properties)];
        for (number, end) in self.ports.iter().enumerate() {
            let kind = if number == 0 { "virtconsole".into() } else { format!("virtserialport,name={NAME}") };
            arguments.extend([
                "-chardev".into(),
                format!("socket,id=port{number},path={}", end.path.display()),
                "-device".into(),
                format!("{kind},bus=ports.0,chardev=port{number},nr={number}"),
            ]);
        }
        arguments
    }

    /// Ends all ports; how many bytes came that were right, and were answered.
    pub(crate) fn finish(&mut self) -> u64 {
        self.ports.iter_mut().map(End::finish).sum()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.finish();
    }
}

impl End {
    fn finish(&mut self) -> u64 {
        let Some(thread) = self.thread.take() else { return 0 };
        match &*self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            // One that is closed already cannot be shut down, and needs not.
            Some(stream) => drop(stream.shutdown(Shutdown::Both)),
            // Whoever still waits for somebody gets us, who are gone at once.
            None => drop(UnixStream::connect(&self.path)),
        }
        thread.join().unwrap_or(0)
    }
}

/// Answers what comes, as long as it is what the kernel is to send.
fn answer(mut stream: UnixStream, seed: u64, port: u32) -> u64 {
    let (mut bytes, mut number) = (0, 0);
    let mut expected = Vec::new();
    let mut came = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut came) {
        while expected.len() < len {
            let mut piece = vec![0; pattern::piece_len(number)];
            pattern::fill(seed, pattern::piece(port, number), &mut piece);
            expected.extend(piece);
            number += 1;
        }
        let came = &mut came[..len];
        if expected[..len] != *came {
            break;
        }
        expected.drain(..len);
        came.iter_mut().for_each(|byte| *byte = !*byte);
        if stream.write_all(came).is_err() {
            break;
        }
        bytes += len as u64;
    }
    bytes
}
