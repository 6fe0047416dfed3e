//! How long to look for something before sleeping.

use core::time::Duration;

/// For how long somebody looks for work before sleeping until told of it. It adapts: longer while sleeps turn out
/// short, which looking would have spared, and shorter while they are long. Never longer than what was asked for.
#[derive(Clone, Debug)]
pub struct Window {
    now: Duration,
    max: Duration,
}

impl Window {
    /// The shortest that is worth a look at the clock.
    const MIN: Duration = Duration::from_micros(4);

    /// A window of up to `max`; none at all if that is 0.
    pub fn new(max: Duration) -> Self {
        Self { now: max, max }
    }

    /// How long to look the next time.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A sleep took so long: had the window been longer than that, it would not have been needed.
    pub fn slept(&mut self, time: Duration) {
        self.now = if time < self.max {
            (self.now * 2).clamp(Self::MIN.min(self.max), self.max)
        } else if self.now > Self::MIN {
            self.now / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_while_sleeps_are_short_and_shrinks_while_they_are_long() {
        let max = Duration::from_micros(32);
        let mut window = Window::new(max);
        (0..20).for_each(|_| window.slept(Duration::from_millis(1)));
        assert_eq!(window.now(), Duration::ZERO);
        (0..20).for_each(|_| window.slept(Duration::from_micros(10)));
        assert_eq!(window.now(), max);
        let mut never = Window::new(Duration::ZERO);
        never.slept(Duration::from_nanos(1));
        assert_eq!(never.now(), Duration::ZERO);
    }
}
