//! A tar as a stream of entries: ustar, GNU (long names, old sparse files, base-256 numbers) and PAX.
//!
//! The header layout is the crate `tar`'s. Its iterator is not used, because it reads long names and PAX headers
//! into memory whatever their size and knows no PAX sparse files. Nothing here touches a file system.

use std::io::{self, BufRead, BufReader, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::{
    UnpackError,
    pax::{Pax, parse},
    sparse::{Extent, consistent},
};

const BLOCK: usize = 512;
/// Longest name or PAX header, as Go's archive/tar has it.
const MAX_SPECIAL_BYTES: u64 = 1 << 20;
/// Stretches of one sparse file.
const MAX_EXTENTS: usize = 1 << 16;

/// An entry as the archive has it: names are not checked yet.
#[derive(Debug)]
pub(crate) struct RawEntry {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file, holes included.
    pub(crate) size: u64,
    /// Where the data goes; one stretch for a file without holes.
    pub(crate) extents: Vec<Extent>,
}

/// Reads entries; before each, what is left of the last one's data is skipped.
pub(crate) struct Archive<R> {
    source: BufReader<R>,
    offset: u64,
    header_at: u64,
    data_left: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(128 << 10, source),
            offset: 0,
            header_at: 0,
            data_left: 0,
            padding: 0,
        }
    }

    /// The next entry. After the last, None, and the source has been read to its end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<RawEntry>, UnpackError> {
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if long_path.is_some() || long_link.is_some() || pax != Pax::default() {
                    return Err(self.malformed("it ends after an entry's extension"));
                }
                return Ok(None);
            };
            let size = self.number(&header.as_old().size)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.special(size)?;
                    pax.add(&records).map_err(|reason| self.malformed(reason))?;
                }
                EntryType::XGlobalHeader => self.begin_data(size),
                EntryType::GNULongName => long_path = Some(self.text(size)?),
                EntryType::GNULongLink => long_link = Some(self.text(size)?),
                _ => return self.entry(&header, size, pax, long_path, long_link).map(Some),
            }
        }
    }

    /// The next piece of the entry's data, at most `limit` bytes; empty at the end of the entry.
    pub(crate) fn data(&mut self, limit: u64) -> Result<&[u8], UnpackError> {
        let wanted = self.data_left.min(limit);
        let at = self.header_at;
        if wanted == 0 {
            return Ok(&[]);
        }
        let piece = self.source.fill_buf().map_err(UnpackError::Read)?;
        if piece.is_empty() {
            return Err(UnpackError::Malformed { reason: "it ends in the middle of an entry", offset: at });
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        Ok(&piece[..piece.len().min(wanted)])
    }

    /// Marks `length` bytes of what [`Archive::data`] gave as used.
    pub(crate) fn used(&mut self, length: usize) {
        self.source.consume(length);
        self.offset += length as u64;
        self.data_left -= length as u64;
    }

    pub(crate) fn malformed(&self, reason: &'static str) -> UnpackError {
        UnpackError::Malformed { reason, offset: self.header_at }
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<RawEntry, UnpackError> {
        let old = header.as_old();
        let data_bytes = pax.size.unwrap_or(header_size);
        let header_path = || header.path_bytes().into_owned();
        let path = pax.path.or(long_path).unwrap_or_else(header_path);
        let mut kind = header.entry_type();
        // In the oldest format a directory is a file whose name ends in a slash.
        if old.linkflag[0] == 0 && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let has_data = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let mut entry = RawEntry {
            kind,
            link: pax.link_path.or(long_link).unwrap_or_else(|| {
                header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
            }),
            path: pax.sparse.name.unwrap_or(path),
            mode: u32::try_from(self.number(&old.mode)? & 0o7777).unwrap_or_default(),
            uid: pax.uid.map_or_else(|| self.number(&old.uid), Ok)?,
            gid: pax.gid.map_or_else(|| self.number(&old.gid), Ok)?,
            mtime: pax.mtime.map_or_else(|| Ok((self.signed(&old.mtime)?, 0)), Ok)?,
            device: self.device(header)?,
            xattrs: pax.xattrs,
            size: if has_data { data_bytes } else { 0 },
            extents: vec![Extent { offset: 0, length: data_bytes }],
        };
        // Only files have data; a size that a writer gave to something else is ignored, as in Go's archive/tar.
        self.begin_data(if has_data { data_bytes } else { 0 });
        if kind == EntryType::GNUSparse {
            let (real_size, extents) = self.old_sparse_map(header)?;
            (entry.size, entry.extents, entry.kind) = (real_size, extents, EntryType::Regular);
        } else if pax.sparse.unknown {
            return Err(self.malformed("a sparse file in an unknown format"));
        } else if let Some(real_size) = pax.sparse.real_size
            && kind == EntryType::Regular
        {
            entry.extents = match (pax.sparse.map_in_data, pax.sparse.map) {
                (true, _) => self.sparse_map_in_data()?,
                (false, Some(map)) => map,
                (false, None) => return Err(self.malformed("a sparse file without a map")),
            };
            entry.size = real_size;
        }
        if has_data && !consistent(&entry.extents, entry.size, self.data_left) {
            return Err(self.malformed("the map of a sparse file is inconsistent"));
        }
        Ok(entry)
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), UnpackError> {
        let mut left = self.data_left.saturating_add(self.padding);
        while left > 0 {
            let piece = self.source.fill_buf().map_err(UnpackError::Read)?.len();
            if piece == 0 {
                // Some writers leave out the padding after the last entry, and no reader minds.
                return if left <= self.padding {
                    Ok(())
                } else {
                    Err(self.malformed("it ends in the middle of an entry"))
                };
            }
            let step = piece.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.source.consume(step);
            self.offset += step as u64;
            left -= step as u64;
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header; at the end of the archive None, after reading the source to its end.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        self.header_at = self.offset;
        let mut block = [0; BLOCK];
        let length = self.block(&mut block)?;
        if length == 0 {
            return Ok(None);
        }
        if length < BLOCK {
            return Err(self.malformed("it ends in the middle of a header"));
        }
        if block.iter().all(|&byte| byte == 0) {
            io::copy(&mut self.source, &mut io::sink()).map_err(UnpackError::Read)?;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| {
                // The checksum's own field counts as eight spaces.
                u64::from(if (148..156).contains(&at) { b' ' } else { byte })
            })
            .sum();
        if self.number(&header.as_old().cksum)? != sum {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads a block as far as there is one.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<usize, UnpackError> {
        let mut length = 0;
        while length < BLOCK {
            match self.source.read(&mut block[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        self.offset += length as u64;
        Ok(length)
    }

    /// The data of an extension.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_SPECIAL_BYTES {
            return Err(self.malformed("a name or extended header is longer than 1 MiB"));
        }
        self.begin_data(size);
        let mut data = Vec::new();
        loop {
            let piece = self.data(u64::MAX)?;
            if piece.is_empty() {
                return Ok(data);
            }
            let length = piece.len();
            data.extend_from_slice(piece);
            self.used(length);
        }
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut text = self.special(size)?;
        text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(text.len()));
        Ok(text)
    }

    /// The map of an old GNU sparse file: in the header and in blocks after it, which the entry's size leaves out.
    fn old_sparse_map(&mut self, header: &Header) -> Result<(u64, Vec<Extent>), UnpackError> {
        let gnu = header.as_gnu().ok_or_else(|| self.malformed("a sparse file without a GNU header"))?;
        let real_size = self.number(&gnu.realsize)?;
        let mut extents = Vec::new();
        self.add_extents(&mut extents, &gnu.sparse)?;
        let mut extended = gnu.isextended[0] != 0;
        while extended {
            let mut more = GnuExtSparseHeader::new();
            if self.block(more.as_mut_bytes())? < BLOCK {
                return Err(self.malformed("it ends in the middle of a sparse map"));
            }
            self.add_extents(&mut extents, &more.sparse)?;
            extended = more.isextended[0] != 0;
        }
        Ok((real_size, extents))
    }

    fn add_extents(&self, extents: &mut Vec<Extent>, fields: &[GnuSparseHeader]) -> Result<(), UnpackError> {
        for field in fields.iter().filter(|field| field.offset[0] != 0 && field.numbytes[0] != 0) {
            let (offset, length) = (self.number(&field.offset)?, self.number(&field.numbytes)?);
            self.add_extent(extents, Extent { offset, length })?;
        }
        Ok(())
    }

    fn add_extent(&self, extents: &mut Vec<Extent>, extent: Extent) -> Result<(), UnpackError> {
        if extents.len() == MAX_EXTENTS {
            return Err(self.malformed("a sparse file has more than 65536 pieces"));
        }
        extents.push(extent);
        Ok(())
    }

    /// The map of PAX format 1.0: decimal lines, padded to a block, at the start of the data.
    fn sparse_map_in_data(&mut self) -> Result<Vec<Extent>, UnpackError> {
        let begin = self.data_left;
        let count = self.map_line()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            let (offset, length) = (self.map_line()?, self.map_line()?);
            self.add_extent(&mut extents, Extent { offset, length })?;
        }
        let mut padding = (begin - self.data_left).wrapping_neg() % BLOCK as u64;
        while padding > 0 {
            let length = self.data(padding)?.len();
            if length == 0 {
                return Err(self.malformed("it ends in the middle of a sparse map"));
            }
            self.used(length);
            padding -= length as u64;
        }
        Ok(extents)
    }

    fn map_line(&mut self) -> Result<u64, UnpackError> {
        let mut digits = Vec::new();
        loop {
            match self.data(1)?.first() {
                Some(b'\n') => break self.used(1),
                Some(&digit) if digits.len() < 20 => digits.push(digit),
                _ => return Err(self.malformed("the map of a sparse file is malformed")),
            }
            self.used(1);
        }
        parse(&digits).ok_or_else(|| self.malformed("the map of a sparse file is malformed"))
    }

    fn device(&self, header: &Header) -> Result<(u32, u32), UnpackError> {
        if !matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
            return Ok((0, 0));
        }
        let fields = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Err(self.malformed("a device without a number")),
        };
        let part = |field: &[u8]| {
            u32::try_from(self.number(field)?).map_err(|_| self.malformed("a device number is too large"))
        };
        Ok((part(fields.0)?, part(fields.1)?))
    }

    fn number(&self, field: &[u8]) -> Result<u64, UnpackError> {
        u64::try_from(self.signed(field)?).map_err(|_| self.malformed("a number is negative"))
    }

    /// A number in octal digits, or in base 256 when the first bit is set (then the second is its sign).
    fn signed(&self, field: &[u8]) -> Result<i64, UnpackError> {
        let bad = || self.malformed("a number is malformed");
        let first = field[0];
        if first & 0x80 != 0 {
            let negative = first & 0x40 != 0;
            let mut value: i64 = if negative { -1 } else { 0 };
            for (at, &byte) in field.iter().enumerate() {
                let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
                value = value.checked_mul(256).ok_or_else(bad)? | i64::from(byte);
            }
            return Ok(value);
        }
        let text = field.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
        if !text.iter().all(|digit| (b'0'..=b'7').contains(digit)) || text.len() > 20 {
            return Err(bad());
        }
        text.iter()
            .try_fold(0i64, |value, digit| value.checked_mul(8)?.checked_add(i64::from(digit - b'0')))
            .ok_or_else(bad)
    }
}
