//! Reading a snapshot, from the start or in pieces.

use std::io;

use super::super::disk::File;

/// A snapshot open for reading. It stays readable when it is pruned.
pub struct Reader {
    file: Box<dyn File>,
    len_bytes: u64,
    offset: u64,
}

impl Reader {
    pub(super) fn new(file: Box<dyn File>, len_bytes: u64) -> Self {
        Self {
            file,
            len_bytes,
            offset: 0,
        }
    }

    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads into `buf` from `offset`; less than it holds only at the end. Returns how much.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len_bytes.saturating_sub(offset);
        let bytes = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if bytes > 0 {
            self.file.read_at(&mut buf[..bytes], offset)?;
        }
        Ok(bytes)
    }
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.read_at(buf, self.offset)?;
        self.offset += bytes as u64;
        Ok(bytes)
    }
}
