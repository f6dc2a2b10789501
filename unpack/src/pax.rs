//! The records of a PAX extended header (POSIX.1-2017, pax, "pax Extended Header").

use crate::sparse::Extent;

/// What the extended header of one entry says; None or empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    /// Name without `SCHILY.xattr.`, and value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// GNU tar's records for files with holes: formats 0.1 (map here) and 1.0 (map before the data).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Option<Vec<Extent>>,
    /// Format 1.0.
    pub(crate) map_in_data: bool,
    /// Format 0.0, or one that came later.
    pub(crate) unknown: bool,
}

impl Pax {
    /// Adds the records of one extended header to what earlier ones said.
    pub(crate) fn add(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "a PAX record is malformed";
        while !records.is_empty() {
            let space = records.iter().take(20).position(|&byte| byte == b' ').ok_or(BAD)?;
            let length: usize = parse(&records[..space]).ok_or(BAD)?;
            if length <= space + 1 || length > records.len() {
                return Err(BAD);
            }
            let (record, rest) = records.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or(BAD)?;
            self.record(&record[..equals], &record[equals + 1..]).ok_or(BAD)?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said, which is not applied here.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link_path = given.then(|| value.to_vec()),
            b"size" => self.size = Some(parse(value)?),
            b"uid" => self.uid = Some(parse(value)?),
            b"gid" => self.gid = Some(parse(value)?),
            b"mtime" if given => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = given.then(|| value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(parse(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(Extent::parse_list(value)?),
            b"GNU.sparse.major" => {
                self.sparse.map_in_data = value == b"1";
                self.sparse.unknown |= !matches!(value, b"0" | b"1");
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.unknown = true,
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// A decimal number and nothing else.
pub(crate) fn parse<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Seconds with a decimal fraction, perhaps negative, as seconds and nanoseconds counted upwards.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let secs: i64 = parse(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos =
        (0..9).fold(0u32, |sum, at| sum * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    Some(match (negative, nanos) {
        (false, nanos) => (secs, nanos),
        (true, 0) => (-secs, 0),
        (true, nanos) => (-secs - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    #[test]
    fn records_are_read_with_binary_values() {
        let mut pax = Pax::default();
        let value = [0, 1, b'\n', b'=', 0xff];
        pax.add(
            &[record("path", b"a/b"), record("uid", b"3000000"), record("SCHILY.xattr.user.x", &value)]
                .concat(),
        )
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.uid, Some(3_000_000));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in ["5", "99 path=a\n", "0 a=b\n", "-6 a=b\n", "6 a=bc", "5 abc\n", "9 uid=-1\n", "x a=b\n"] {
            assert!(Pax::default().add(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_keep_nanoseconds_and_sign() {
        for (text, expected) in [
            ("1", (1, 0)),
            ("1350244992.023960108", (1_350_244_992, 23_960_108)),
            ("0.1234567899", (0, 123_456_789)),
            ("-1.5", (-2, 500_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }
}
