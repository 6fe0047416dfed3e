//! The escape key: Ctrl-] and then q ends, Ctrl-] twice sends one Ctrl-], anything else is sent with it.

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// These bytes are sent.
    Send(Vec<u8>),
    /// Nothing yet: the next key says.
    Held,
    /// That was it.
    Quit,
}

/// Whether the last key was the escape.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    held: bool,
}

impl Escape {
    pub(crate) fn typed(&mut self, byte: u8) -> Typed {
        match (std::mem::take(&mut self.held), byte) {
            (false, ESCAPE) => {
                self.held = true;
                Typed::Held
            }
            (false, byte) => Typed::Send(vec![byte]),
            (true, b'q' | b'Q') => Typed::Quit,
            (true, ESCAPE) => Typed::Send(vec![ESCAPE]),
            (true, byte) => Typed::Send(vec![ESCAPE, byte]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_escape_and_q_end() {
        let mut escape = Escape::default();
        let mut all = |bytes: &[u8]| bytes.iter().map(|&byte| escape.typed(byte)).collect::<Vec<_>>();
        let send = |bytes: &[u8]| Typed::Send(bytes.into());
        assert_eq!(all(b"aq"), [send(b"a"), send(b"q")]);
        assert_eq!(all(&[ESCAPE, ESCAPE, b'q']), [Typed::Held, send(&[ESCAPE]), send(b"q")]);
        assert_eq!(all(&[ESCAPE, b'x']), [Typed::Held, send(&[ESCAPE, b'x'])]);
        assert_eq!(all(&[ESCAPE, b'q']), [Typed::Held, Typed::Quit]);
    }
}
