use std::fmt::{self, Write};

use crate::Target;

/// A number from 0 up to 1 that depends on all three, so that neither the probes and checks of one
/// balancer nor those of many keep time with each other.
pub(crate) fn fraction<T: Target>(seed: u64, target: &T, number: u32) -> f64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    let _ = write!(hash, "{seed} {target} {number}");
    // FNV leaves the upper bits of similar texts alike; this is the finalizer of MurmurHash3.
    let mut mixed = hash.0;
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
    }
    ((mixed ^ (mixed >> 33)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// FNV-1a. The hashers of `std` may change with its version, and with them every simulated run.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
