//! Processor time, which a busy neighbour distorts less than the time on the wall.
//!
//! Never finer than the kernel's ticks: of use over seconds only.

use std::fs;

/// `USER_HZ`, which Linux fixes for what it shows (time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of the product and of this process since a moment.
pub(crate) struct Meter {
    product: Option<u32>,
    begun: [f64; 2],
}

impl Meter {
    /// From now on.
    pub(crate) fn start(product: Option<u32>) -> Meter {
        Meter { product, begun: used(product) }
    }

    /// Microseconds for each of `count` events: of the product, and of this process.
    pub(crate) fn each(&self, count: usize) -> [f64; 2] {
        let ended = used(self.product);
        [0, 1].map(|i| (ended[i] - self.begun[i]) * 1e6 / count.max(1) as f64)
    }
}

fn used(product: Option<u32>) -> [f64; 2] {
    [product.map_or(0.0, used_by), used_by(std::process::id())]
}

/// Seconds in user and system mode, of all threads (proc(5): fields 14 and 15).
fn used_by(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}
