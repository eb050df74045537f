//! Two ordered streams of changes read as one, in which the upper one hides the lower.
//!
//! Never drops a removal: that is the reader's to filter, so that layers can be stacked.

use std::iter::Peekable;

/// Merges `upper` over `lower`. Both run in the same direction and hold each key at most once.
pub(super) struct Layered<A: Iterator, B: Iterator> {
    upper: Peekable<A>,
    lower: Peekable<B>,
    descending: bool,
}

impl<K: Ord, V, A, B> Layered<A, B>
where
    A: Iterator<Item = (K, V)>,
    B: Iterator<Item = (K, V)>,
{
    pub(super) fn new(upper: A, lower: B, descending: bool) -> Layered<A, B> {
        Layered { upper: upper.peekable(), lower: lower.peekable(), descending }
    }
}

impl<K: Ord, V, A, B> Iterator for Layered<A, B>
where
    A: Iterator<Item = (K, V)>,
    B: Iterator<Item = (K, V)>,
{
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        let (Some((above, _)), Some((below, _))) = (self.upper.peek(), self.lower.peek()) else {
            return self.upper.next().or_else(|| self.lower.next());
        };
        let order = if self.descending { below.cmp(above) } else { above.cmp(below) };
        if order.is_eq() {
            self.lower.next();
        }
        if order.is_le() { self.upper.next() } else { self.lower.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(descending: bool, upper: &[(u8, Option<u8>)], lower: &[(u8, Option<u8>)], expect: &[(u8, Option<u8>)]) {
        let merged: Vec<_> = Layered::new(upper.iter().copied(), lower.iter().copied(), descending).collect();
        assert_eq!(merged, expect);
    }

    #[test]
    fn the_upper_layer_hides_the_lower() {
        let upper = [(2, Some(20)), (3, None), (5, Some(50))];
        let lower = [(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4))];
        check(false, &upper, &lower, &[(1, Some(1)), (2, Some(20)), (3, None), (4, Some(4)), (5, Some(50))]);
        let back = |layer: &[(u8, Option<u8>)]| layer.iter().rev().copied().collect::<Vec<_>>();
        check(
            true,
            &back(&upper),
            &back(&lower),
            &[(5, Some(50)), (4, Some(4)), (3, None), (2, Some(20)), (1, Some(1))],
        );
    }
}
