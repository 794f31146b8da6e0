//! How many requests began in the last while: two halves, the older one counted in part.

/// Requests of a sliding time.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Beginning of the current half, in milliseconds.
    start: u64,
    current: u64,
    previous: u64,
}

impl Window {
    /// Counts a request.
    pub(super) fn count(&mut self, now: u64, length: u64) {
        self.advance(now, length);
        self.current = self.current.saturating_add(1);
    }

    /// Requests that began in the `length` milliseconds before now.
    pub(super) fn sum(&mut self, now: u64, length: u64) -> u64 {
        self.advance(now, length);
        let length = length.max(1);
        let left = length.saturating_sub(now.saturating_sub(self.start));
        let older = u128::from(self.previous) * u128::from(left) / u128::from(length);
        self.current.saturating_add(u64::try_from(older).unwrap_or(u64::MAX))
    }

    fn advance(&mut self, now: u64, length: u64) {
        let length = length.max(1);
        let passed = now.saturating_sub(self.start) / length;
        if passed == 0 {
            return;
        }
        self.previous = if passed == 1 { self.current } else { 0 };
        self.current = 0;
        self.start = self.start.saturating_add(passed.saturating_mul(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fade_out() {
        let mut window = Window::default();
        for _ in 0..10 {
            window.count(1000, 100);
        }
        assert_eq!(window.sum(1000, 100), 10);
        assert_eq!(window.sum(1150, 100), 5);
        assert_eq!(window.sum(1400, 100), 0);
    }
}
