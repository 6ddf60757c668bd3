//! Regular expressions, small: they are part of the replicated state, so that every release has to
//! read and judge them alike. Matched as a set of states over the text (Thompson, "Regular Expression
//! Search Algorithm", CACM 11(6), 1968), in O(text × pattern) whatever the pattern is.
//!
//! A pattern matches the whole text. It has `.` (any character), `[a-z_]` and `[^…]`, `*`, `+`, `?`,
//! `|`, `(…)`, and `\` before a character that means itself; `\d` is a digit, `\w` one of `[A-Za-z0-9_]`.

/// States of a compiled pattern.
const STATES_MAX: usize = 1024;
/// Parentheses within parentheses.
const DEPTH_MAX: u32 = 16;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    states: Vec<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Takes one character and goes on with the next state.
    Take(Set),
    /// Goes on with either.
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// Characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Set {
    fn one(c: char) -> Self {
        Self {
            ranges: vec![(c, c)],
            negated: false,
        }
    }

    fn holds(&self, c: char) -> bool {
        let within = self
            .ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c));
        within != self.negated
    }
}

impl Pattern {
    /// Compiles it, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            rest: text.chars().collect(),
            at: 0,
            depth: 0,
        };
        let mut states = parser.alternatives()?;
        if parser.peek().is_some() {
            return Err("a `)` closes nothing; write \\) for the character".into());
        }
        states.push(State::Match);
        if states.len() > STATES_MAX {
            return Err("it is too long".into());
        }
        Ok(Self { states })
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut now = vec![false; self.states.len()];
        self.enter(0, &mut now);
        for c in text.chars() {
            let mut next = vec![false; self.states.len()];
            for (at, state) in self.states.iter().enumerate() {
                if let State::Take(set) = state
                    && now[at]
                    && set.holds(c)
                {
                    self.enter(at + 1, &mut next);
                }
            }
            now = next;
        }
        now.last() == Some(&true)
    }

    /// Marks the state, and those that it goes on with without a character.
    fn enter(&self, at: usize, marks: &mut [bool]) {
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut marks[at], true) {
                continue;
            }
            match &self.states[at] {
                State::Jump(to) => open.push(*to),
                State::Split(one, other) => open.extend([*one, *other]),
                State::Take(_) | State::Match => {}
            }
        }
    }
}

struct Parser {
    rest: Vec<char>,
    at: usize,
    depth: u32,
}

/// States whose jumps count from the first of them, and which end where the next would be.
type Piece = Vec<State>;

impl Parser {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn alternatives(&mut self) -> Result<Piece, String> {
        let mut piece = self.sequence()?;
        while self.peek() == Some('|') {
            self.at += 1;
            piece = either(piece, self.sequence()?);
            bounded(&piece)?;
        }
        Ok(piece)
    }

    fn sequence(&mut self) -> Result<Piece, String> {
        let mut piece = Piece::new();
        while let Some(c) = self.peek() {
            if matches!(c, '|' | ')') {
                break;
            }
            let mut atom = self.atom()?;
            while let Some(c @ ('*' | '+' | '?')) = self.peek() {
                self.at += 1;
                atom = repeated(atom, c);
            }
            append(&mut piece, atom);
            bounded(&piece)?;
        }
        Ok(piece)
    }

    fn atom(&mut self) -> Result<Piece, String> {
        let set = match self.next() {
            Some('(') => return self.group(),
            Some('[') => self.class()?,
            Some('.') => Set {
                ranges: Vec::new(),
                negated: true,
            },
            Some('\\') => self.escaped()?,
            Some(c @ ('*' | '+' | '?')) => {
                return Err(format!(
                    "`{c}` repeats nothing; write \\{c} for the character"
                ));
            }
            Some(c @ ('^' | '$')) => {
                let why = "it matches the whole value by itself";
                return Err(format!(
                    "`{c}` is not needed: {why}; write \\{c} for the character"
                ));
            }
            Some(c @ ('{' | '}' | ']')) => {
                return Err(format!(
                    "`{c}` has no meaning here; write \\{c} for the character"
                ));
            }
            Some(c) => Set::one(c),
            None => return Err("it ends too early".into()),
        };
        Ok(vec![State::Take(set)])
    }

    fn group(&mut self) -> Result<Piece, String> {
        if self.depth == DEPTH_MAX {
            return Err("its parentheses are nested too deeply".into());
        }
        self.depth += 1;
        let piece = self.alternatives()?;
        self.depth -= 1;
        match self.next() {
            Some(')') => Ok(piece),
            _ => Err("a `(` is not closed; write \\( for the character".into()),
        }
    }

    fn escaped(&mut self) -> Result<Set, String> {
        match self.next() {
            Some('d') => Ok(Set {
                ranges: vec![('0', '9')],
                negated: false,
            }),
            Some('w') => Ok(Set {
                ranges: vec![('A', 'Z'), ('a', 'z'), ('0', '9'), ('_', '_')],
                negated: false,
            }),
            Some(c) if c.is_alphanumeric() => {
                Err(format!("\\{c} is unknown; there are \\d and \\w"))
            }
            Some(c) => Ok(Set::one(c)),
            None => Err("it ends with a \\".into()),
        }
    }

    fn class(&mut self) -> Result<Set, String> {
        let negated = self.peek() == Some('^');
        self.at += usize::from(negated);
        let mut ranges = Vec::new();
        loop {
            let low = match self.next() {
                None => return Err("a `[` is not closed; write \\[ for the character".into()),
                Some(']') if ranges.is_empty() => return Err("[] holds no character".into()),
                Some(']') => break,
                Some('\\') => {
                    let set = self.escaped()?;
                    if set.ranges.len() != 1 || set.ranges[0].0 != set.ranges[0].1 {
                        ranges.extend(set.ranges);
                        continue;
                    }
                    set.ranges[0].0
                }
                Some(c) => c,
            };
            let ranged = self.peek() == Some('-') && self.rest.get(self.at + 1) != Some(&']');
            if !ranged {
                ranges.push((low, low));
                continue;
            }
            self.at += 1;
            match self.next() {
                Some(high) if high >= low && high != '\\' => ranges.push((low, high)),
                _ => return Err(format!("in [] the range from `{low}` goes backwards")),
            }
        }
        Ok(Set { ranges, negated })
    }
}

fn bounded(piece: &Piece) -> Result<(), String> {
    if piece.len() < STATES_MAX {
        Ok(())
    } else {
        Err("it is too long".into())
    }
}

/// Adds `piece`, moved to where it comes to lie.
fn append(states: &mut Piece, piece: Piece) {
    let by = states.len();
    states.extend(piece.into_iter().map(|state| match state {
        State::Split(one, other) => State::Split(one + by, other + by),
        State::Jump(to) => State::Jump(to + by),
        state => state,
    }));
}

fn either(one: Piece, other: Piece) -> Piece {
    let second = one.len() + 2;
    let end = second + other.len();
    let mut piece = vec![State::Split(1, second)];
    append(&mut piece, one);
    piece.push(State::Jump(end));
    append(&mut piece, other);
    piece
}

fn repeated(piece: Piece, how: char) -> Piece {
    let mut states = Piece::new();
    let length = piece.len();
    match how {
        '+' => {
            append(&mut states, piece);
            states.push(State::Split(0, length + 1));
        }
        '?' => {
            states.push(State::Split(1, length + 1));
            append(&mut states, piece);
        }
        _ => {
            states.push(State::Split(1, length + 2));
            append(&mut states, piece);
            states.push(State::Jump(0));
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let cases = [
            ("eu", &["eu"][..], &["eu-1", "neu", ""][..]),
            ("eu.*", &["eu", "eu-west-1"], &["us-eu"]),
            (
                "(eu|us)-[0-9]+",
                &["eu-1", "us-42"],
                &["eu-", "ap-1", "eu-1a"],
            ),
            ("a?b+c*", &["b", "abbb", "bcc"], &["a", "aab", "ac"]),
            (r"\d\.\d+", &["6.1"], &["6x1", "6."]),
            ("[^a-c]x", &["dx", "éx"], &["ax", "x"]),
            (r"[\w-]+", &["a_b-9"], &["a b"]),
            ("(a*)*", &["", "aaa"], &["b"]),
            ("(a|)(b|c|d)", &["b", "ac"], &["a", "abc"]),
            ("", &[""], &["a"]),
        ];
        for (text, hits, misses) in cases {
            let pattern = Pattern::parse(text).unwrap();
            hits.iter()
                .for_each(|hit| assert!(pattern.matches(hit), "{text} {hit}"));
            misses
                .iter()
                .for_each(|miss| assert!(!pattern.matches(miss), "{text} {miss}"));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("a)", "closes nothing"),
            ("(a", "is not closed"),
            ("*a", "repeats nothing"),
            ("^a$", "not needed"),
            ("[", "is not closed"),
            ("[]", "holds no character"),
            ("[z-a]", "backwards"),
            (r"\p", "is unknown"),
            ("a{2}", "has no meaning"),
            ("\\", "ends with"),
            (&"(".repeat(40), "too deeply"),
            (&"a".repeat(2_000), "too long"),
        ] {
            let told = Pattern::parse(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    /// The dumb twin: tries every way to cut the text.
    fn matches(tree: &Tree, text: &str) -> bool {
        let cuts = |text: &str| -> Vec<usize> {
            let ends = text.char_indices().map(|(at, _)| at);
            ends.chain([text.len()]).collect()
        };
        match tree {
            Tree::Nothing => text.is_empty(),
            Tree::One(c) => text.chars().eq([*c]),
            Tree::Both(a, b) => cuts(text)
                .into_iter()
                .any(|at| matches(a, &text[..at]) && matches(b, &text[at..])),
            Tree::Either(a, b) => matches(a, text) || matches(b, text),
            Tree::Many(a) => {
                text.is_empty()
                    || cuts(text)
                        .into_iter()
                        .any(|at| at > 0 && matches(a, &text[..at]) && matches(tree, &text[at..]))
            }
        }
    }

    enum Tree {
        Nothing,
        One(char),
        Both(Box<Tree>, Box<Tree>),
        Either(Box<Tree>, Box<Tree>),
        Many(Box<Tree>),
    }

    impl Tree {
        fn random(draw: &mut impl FnMut(u64) -> u64, depth: u32) -> Self {
            let mut sub = || Box::new(Self::random(draw, depth - 1));
            if depth == 0 {
                return match draw(3) {
                    0 => Tree::Nothing,
                    n => Tree::One(if n == 1 { 'a' } else { 'b' }),
                };
            }
            let (one, other) = (sub(), sub());
            match draw(4) {
                0 => Tree::Both(one, other),
                1 => Tree::Either(one, other),
                2 => Tree::Many(one),
                _ => *one,
            }
        }

        fn text(&self) -> String {
            match self {
                Tree::Nothing => String::new(),
                Tree::One(c) => c.to_string(),
                Tree::Both(a, b) => format!("({})({})", a.text(), b.text()),
                Tree::Either(a, b) => format!("({}|{})", a.text(), b.text()),
                Tree::Many(a) => format!("({})*", a.text()),
            }
        }
    }

    #[test]
    fn it_judges_like_the_dumb_twin() {
        let mut seed = 7_u64;
        let mut draw = |end: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % end
        };
        let mut hits = 0;
        for _ in 0..2_000 {
            let tree = Tree::random(&mut draw, 4);
            let pattern = Pattern::parse(&tree.text()).unwrap();
            let text: String = (0..draw(6))
                .map(|_| if draw(2) == 0 { 'a' } else { 'b' })
                .collect();
            let hit = matches(&tree, &text);
            assert_eq!(pattern.matches(&text), hit, "{} {text}", tree.text());
            hits += u32::from(hit);
        }
        assert!((100..1_900).contains(&hits), "{hits}");
    }
}
