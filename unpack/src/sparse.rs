//! Maps of files with holes, in the three encodings of GNU tar that are in use.

use crate::pax::parse;

/// A stretch of data in a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Extent {
    /// `offset,length,offset,length,…` in decimal (PAX format 0.1).
    pub(crate) fn parse_list(text: &[u8]) -> Option<Vec<Self>> {
        let numbers: Vec<u64> = text.split(|&byte| byte == b',').map(parse).collect::<Option<_>>()?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        rest.is_empty().then(|| pairs.iter().map(|&[offset, length]| Self { offset, length }).collect())
    }
}

/// Whether `extents` come in order, do not overlap, end within `real_size` and hold `data_bytes`.
pub(crate) fn consistent(extents: &[Extent], real_size: u64, data_bytes: u64) -> bool {
    let mut end = 0u64;
    let mut data = 0u64;
    for extent in extents {
        if extent.offset < end {
            return false;
        }
        let Some(next) = extent.offset.checked_add(extent.length) else { return false };
        end = next;
        // No overflow: the extents are disjoint.
        data += extent.length;
    }
    end <= real_size && data == data_bytes && i64::try_from(real_size).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_overlap_or_run_over_are_inconsistent() {
        let map = |text: &str| Extent::parse_list(text.as_bytes()).unwrap();
        assert!(consistent(&map("0,10,20,5"), 30, 15));
        assert!(consistent(&map("0,0"), 0, 0));
        assert!(!consistent(&map("0,10,9,5"), 30, 15));
        assert!(!consistent(&map("20,5,0,10"), 30, 15));
        assert!(!consistent(&map("0,10"), 9, 10));
        assert!(!consistent(&map("0,10"), 30, 11));
        assert!(!consistent(&map("18446744073709551615,2"), u64::MAX, 2));
        assert_eq!(Extent::parse_list(b"1,2,3"), None);
    }
}
