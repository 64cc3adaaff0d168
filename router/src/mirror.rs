//! Which requests are mirrored (filter RequestMirror). Pure: the draw comes from outside.

use understudy_conf::{PoolName, RequestMirror};

/// A mirror, ready to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledMirror {
    /// Where the copies go.
    pub pool: PoolName,
    numerator: u32,
    denominator: u32,
}

impl CompiledMirror {
    pub(crate) fn build(mirror: &RequestMirror) -> Result<Self, String> {
        let RequestMirror { pool, numerator, denominator } = mirror.clone();
        if denominator == 0 || numerator > denominator {
            return Err(format!("{numerator}/{denominator} is no share of requests to mirror"));
        }
        Ok(Self { pool, numerator, denominator })
    }

    /// Whether a request is mirrored, if it is a share that draws decide: `draw` gives a number below its argument.
    #[must_use]
    pub fn takes(&self, draw: impl FnOnce(u32) -> u32) -> bool {
        self.numerator == self.denominator || (self.numerator > 0 && draw(self.denominator) < self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(numerator: u32, denominator: u32) -> Result<CompiledMirror, String> {
        let pool = PoolName::new("p").unwrap();
        CompiledMirror::build(&RequestMirror { pool, numerator, denominator })
    }

    #[test]
    fn of_all_draws_exactly_the_share_is_taken() {
        for (numerator, denominator) in
            [(0, 100), (1, 100), (50, 100), (99, 100), (100, 100), (1, 3), (7, 1000)]
        {
            let mirror = mirror(numerator, denominator).unwrap();
            let taken = (0..denominator).filter(|drawn| mirror.takes(|_| *drawn)).count();
            assert_eq!(taken, numerator as usize, "{numerator}/{denominator}");
        }
    }

    #[test]
    fn all_and_none_need_no_draw() {
        let never = |_| -> u32 { panic!("drawn") };
        assert!(mirror(5, 5).unwrap().takes(never));
        assert!(!mirror(0, 5).unwrap().takes(never));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for (numerator, denominator) in [(0, 0), (1, 0), (101, 100)] {
            assert!(mirror(numerator, denominator).unwrap_err().contains("is no share"));
        }
    }
}
