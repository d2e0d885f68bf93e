//! RSA keys that a widespread chip made guessable (CVE-2017-15361).
//!
//! Their primes are `k * M + 65537^a mod M` for a product M of small primes, so modulo each of those the modulus is a
//! power of 65537. Other moduli pass by chance about once in 2^27.

/// The small primes whose product every affected size shares.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether a modulus, big-endian, has the mark.
pub(super) fn is_marked(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        loop {
            if power == rest {
                return true;
            }
            power = power * (65537 % prime) % prime;
            if power == 1 {
                return false;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_the_generator_is_marked_and_others_are_not() {
        // 65537^2 is a power of 65537 modulo every prime.
        assert!(is_marked(&(65_537u64 * 65_537).to_be_bytes()));
        assert!(!is_marked(&(65_539u64 * 65_543).to_be_bytes()));
        assert!(!is_marked(&[0]));
    }
}
