//! A wall clock that moves only when it is looked at, or stepped.

use crate::seed::{scatter, Rng};

/// 2024-01-01 00:00:00 UTC: late enough that steps back stay above 1970.
const START_NS: u64 = 1_704_067_200_000_000_000;

/// Clock and nonces of one machine.
#[derive(Clone, Debug)]
pub struct Clock {
    now_ns: u64,
    nonces: u64,
    salt: u64,
    rng: Rng,
}

impl Clock {
    pub(crate) fn new(mut rng: Rng) -> Clock {
        Clock { now_ns: START_NS, nonces: 0, salt: rng.number(), rng }
    }

    /// Nanoseconds since 1970; each look costs nothing, some microseconds or, now and then, milliseconds.
    pub(crate) fn now(&mut self) -> u64 {
        self.now_ns += match self.rng.below(10) {
            0 => 0,
            1 => self.rng.below(20_000_000),
            _ => self.rng.below(50_000),
        };
        self.now_ns
    }

    pub(crate) fn time(&self) -> u64 {
        self.now_ns
    }

    /// Moves the clock without telling anybody, as an operator or an NTP daemon does.
    pub(crate) fn step(&mut self, by_ns: i64) {
        self.now_ns = self.now_ns.saturating_add_signed(by_ns);
    }

    /// A number that this clock never gave before.
    pub(crate) fn nonce(&mut self) -> u64 {
        self.nonces += 1;
        scatter(self.nonces ^ self.salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_or_goes_on_but_never_back_unless_stepped() {
        let mut clock = Clock::new(Rng::new(5));
        let looks: Vec<u64> = (0..300).map(|_| clock.now()).collect();
        assert!(looks.windows(2).all(|w| w[0] <= w[1]));
        assert!(looks.windows(2).any(|w| w[0] == w[1]), "two looks may see the same instant");
        clock.step(-3_600_000_000_000);
        assert!(clock.now() < looks[0]);
        clock.step(7_200_000_000_000);
        assert!(clock.now() > looks[299]);
    }

    #[test]
    fn nonces_do_not_repeat() {
        let mut clock = Clock::new(Rng::new(5));
        let nonces: std::collections::BTreeSet<u64> = (0..1000).map(|_| clock.nonce()).collect();
        assert_eq!(nonces.len(), 1000);
    }
}
