//! Bytes into lines, the long ones in pieces. Pure.

/// The longest piece. Memory per stream is bounded by it, whatever the container writes.
pub const PIECE_BYTES_MAX: usize = 16 << 10;

/// The beginning of a line whose end has not been read yet.
///
/// Invariant: at most [`PIECE_BYTES_MAX`] bytes, no newline among them.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// Pieces of this line have been given out already.
    continued: bool,
}

impl Lines {
    /// Calls `add(piece, ends_line)` for all that is complete after `bytes`.
    pub fn push(&mut self, mut bytes: &[u8], add: &mut impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() && line.len() <= PIECE_BYTES_MAX {
                add(line, true);
            } else {
                self.extend(line, add);
                add(&self.partial, true);
                self.partial.clear();
            }
            self.continued = false;
            bytes = rest;
        }
        self.extend(bytes, add);
    }

    /// Calls `add` for a last line that has no newline.
    pub fn finish(&mut self, add: &mut impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() || self.continued {
            add(&self.partial, true);
        }
        *self = Self::default();
    }

    fn extend(&mut self, mut bytes: &[u8], add: &mut impl FnMut(&[u8], bool)) {
        while self.partial.len() + bytes.len() > PIECE_BYTES_MAX {
            let (head, rest) = bytes.split_at(PIECE_BYTES_MAX - self.partial.len());
            self.partial.extend_from_slice(head);
            add(&self.partial, false);
            self.partial.clear();
            self.continued = true;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of `input` when it arrives in chunks of `chunk_bytes`.
    fn split(input: &[u8], chunk_bytes: usize) -> Vec<(Vec<u8>, bool)> {
        let mut pieces = Vec::new();
        let mut add = |piece: &[u8], ends_line| pieces.push((piece.to_vec(), ends_line));
        let mut lines = Lines::default();
        for chunk in input.chunks(chunk_bytes) {
            lines.push(chunk, &mut add);
        }
        lines.finish(&mut add);
        pieces
    }

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let mut input = b"one\n\ntwo\r\n\xff\x00three\n".to_vec();
        for bytes in [
            PIECE_BYTES_MAX - 1,
            PIECE_BYTES_MAX,
            PIECE_BYTES_MAX + 1,
            50_000,
        ] {
            input.extend(std::iter::repeat_n(b'x', bytes));
            input.push(b'\n');
        }
        input.extend_from_slice(b"no newline");
        let whole = split(&input, input.len());
        for chunk_bytes in [1, 7, 4096, 16_384, 65_536] {
            assert_eq!(split(&input, chunk_bytes), whole, "chunks of {chunk_bytes}");
        }
        let sizes: Vec<(usize, bool)> =
            whole.iter().map(|piece| (piece.0.len(), piece.1)).collect();
        let expected = [
            (3, true),
            (0, true),
            (4, true),
            (7, true),
            (16_383, true),
            (16_384, true),
            (16_384, false),
            (1, true),
            (16_384, false),
            (16_384, false),
            (16_384, false),
            (848, true),
            (10, true),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn an_end_without_a_newline_ends_the_line() {
        assert_eq!(split(b"a", 9), [(b"a".to_vec(), true)]);
        assert_eq!(split(b"a\n", 9), [(b"a".to_vec(), true)]);
        assert_eq!(split(b"", 9), []);
    }
}
