//! The only source of chance: the operating system's random bytes.
//!
//! Never seeds itself from a clock, and never gives the same bytes twice.

use std::cell::RefCell;

/// Where chance comes from.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number.
    fn number(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    /// A random fraction, at least 0 and less than 1.
    fn unit(&self) -> f64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        fraction(bytes)
    }
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the source of chance")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }

    fn number(&self) -> u128 {
        u128::from_le_bytes(drawn(self))
    }

    fn unit(&self) -> f64 {
        fraction(drawn(self))
    }
}

/// Of the highest 53 bits, which are what a fraction can hold.
fn fraction(bytes: [u8; 8]) -> f64 {
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}

/// Random bytes that a thread has in stock: several are drawn for each event, and each call of the operating system
/// costs as much as signing. Secrets are not made of them but of `fill`.
struct Stock {
    bytes: [u8; 512],
    left: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; 512], left: 0 }) };
}

fn drawn<const N: usize>(source: &SystemEntropy) -> [u8; N] {
    STOCK.with_borrow_mut(|stock| {
        if stock.left < N {
            source.fill(&mut stock.bytes);
            stock.left = stock.bytes.len();
        }
        stock.left -= N;
        let mut taken = [0; N];
        taken.copy_from_slice(&stock.bytes[stock.left..stock.left + N]);
        taken
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_stock_gives_nothing_twice() {
        let numbers: HashSet<u128> = (0..1000).map(|_| SystemEntropy.number()).collect();
        assert_eq!(numbers.len(), 1000);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&SystemEntropy.unit())));
    }
}
