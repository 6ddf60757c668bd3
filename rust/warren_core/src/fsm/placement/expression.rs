//! Expressions over attributes: `node.labels.zone in (eu,us)`.
//!
//! ```text
//! expression := attribute condition
//! condition  := "==" value | "!=" value | "~=" pattern
//!             | ">=" version | ">" version | "<=" version | "<" version
//!             | ["not"] "in" "(" value { "," value } ")" | ["not"] "exists"
//! value      := characters without blanks at either end, or "…" with \" and \\ in it
//! ```
//!
//! A node that has no such attribute meets `!=`, `not in` and `not exists`, and no other condition.

use std::collections::BTreeSet;
use std::fmt;

use crate::fsm::objects::Node;
use crate::fsm::placement::attribute::{Attribute, is_key_char};
use crate::fsm::placement::pattern::Pattern;
use crate::fsm::placement::version::Version;

/// Longest expression, as text.
pub const EXPRESSION_BYTES_MAX: usize = 1024;
/// Values of one `in`.
pub const VALUES_MAX: usize = 64;

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    Exists,
    NotExists,
    /// As versions: part by part, numbers by their size.
    AtLeast,
    Above,
    AtMost,
    Below,
    /// By a regular expression, the value as a whole.
    Matches,
}

/// One condition on one attribute. What is evaluated once for each value of the attribute is
/// [`Term::holds_for`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    attribute: Attribute,
    operator: Operator,
    values: Vec<String>,
    operand: Operand,
}

/// The value, made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Text,
    Version(Version),
    Pattern(Pattern),
}

impl Term {
    /// Reads an expression; the error says what is wrong with it and what would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("it has more than {EXPRESSION_BYTES_MAX} bytes"));
        }
        if text.contains(char::is_control) {
            return Err("it contains a control character".into());
        }
        let text = text.trim();
        let end = text.find(|c| !is_key_char(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty() {
            return Err("it names no attribute; write it as in node.labels.zone==eu".into());
        }
        let attribute = Attribute::parse(name)?;
        let (operator, values) = condition(rest.trim())?;
        let operand = operand(operator, &values)?;
        Ok(Self {
            attribute,
            operator,
            values,
            operand,
        })
    }

    pub fn attribute(&self) -> &Attribute {
        &self.attribute
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// One for most operators, none for `exists`, sorted for `in`.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether it holds for a node whose attribute has this value, or none.
    pub fn holds_for(&self, value: Option<&str>) -> bool {
        use Operator::*;
        let Some(value) = value else {
            return matches!(self.operator, NotEqual | NotIn | NotExists);
        };
        let named = || self.values.iter().any(|known| known == value);
        match (self.operator, &self.operand) {
            (Exists, _) => true,
            (NotExists, _) => false,
            (Equal | In, _) => named(),
            (NotEqual | NotIn, _) => !named(),
            (Matches, Operand::Pattern(pattern)) => pattern.matches(value),
            (operator, Operand::Version(asked)) => {
                Version::parse(value).is_some_and(|version| match operator {
                    AtLeast => version >= *asked,
                    Above => version > *asked,
                    AtMost => version <= *asked,
                    _ => version < *asked,
                })
            }
            _ => false,
        }
    }

    pub fn holds_on(&self, node: &Node) -> bool {
        self.holds_for(self.attribute.value(node).as_deref())
    }

    /// Why it does not hold for such a node: `label zone is us, asked eu`.
    pub fn mismatch(&self, value: Option<&str>) -> String {
        use Operator::*;
        let what = self.attribute.said();
        let is = match value {
            Some(value) => format!("{what} is {}", shown(value)),
            None => format!("{what} is not there"),
        };
        let asked = match self.operator {
            Exists => return format!("{what} is not there, asked that it is"),
            NotExists => return format!("{is}, asked that it is not there"),
            Equal => shown(&self.values[0]),
            NotEqual | NotIn => format!("another than {}", self.listed()),
            In => format!("one of {}", self.listed()),
            Matches => format!("a match of {}", self.listed()),
            AtLeast => format!("{} or later", self.listed()),
            Above => format!("later than {}", self.listed()),
            AtMost => format!("{} or earlier", self.listed()),
            Below => format!("earlier than {}", self.listed()),
        };
        format!("{is}, asked {asked}")
    }

    fn listed(&self) -> String {
        let shown: Vec<_> = self.values.iter().map(|value| shown(value)).collect();
        shown.join(", ")
    }
}

/// The normal form, which reads back as the same.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Operator::*;
        let key = &self.attribute;
        let sign = match self.operator {
            Exists => return write!(f, "{key} exists"),
            NotExists => return write!(f, "{key} not exists"),
            In | NotIn => {
                let not = if self.operator == NotIn { "not " } else { "" };
                let values: Vec<_> = self.values.iter().map(|value| spelt(value, true)).collect();
                return write!(f, "{key} {not}in ({})", values.join(","));
            }
            Equal => "==",
            NotEqual => "!=",
            AtLeast => ">=",
            Above => ">",
            AtMost => "<=",
            Below => "<",
            Matches => "~=",
        };
        write!(f, "{key}{sign}{}", spelt(&self.values[0], false))
    }
}

/// Longer ones first: a sign may begin another.
const SIGNS: [(&str, Operator); 7] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("~=", Operator::Matches),
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    (">", Operator::Above),
    ("<", Operator::Below),
];

fn condition(text: &str) -> Result<(Operator, Vec<String>), String> {
    for (sign, operator) in SIGNS {
        if let Some(rest) = text.strip_prefix(sign) {
            let mut rest = rest.trim_start();
            let value = take_value(&mut rest, |_| false)?;
            return match rest {
                "" => Ok((operator, vec![value])),
                more => Err(format!(
                    "`{more}` after the value means nothing; leave it out"
                )),
            };
        }
    }
    if text.starts_with('=') {
        return Err("write == for equal".into());
    }
    let words: Vec<_> = text.split_whitespace().take(3).collect();
    match words[..] {
        ["exists"] => return Ok((Operator::Exists, Vec::new())),
        ["not", "exists"] => return Ok((Operator::NotExists, Vec::new())),
        _ => {}
    }
    let (operator, rest) = match text.strip_prefix("not") {
        Some(rest) if rest.starts_with(' ') => (Operator::NotIn, rest.trim_start()),
        _ => (Operator::In, text),
    };
    match rest.strip_prefix("in").map(str::trim_start) {
        Some(list) if list.starts_with('(') => Ok((operator, take_list(&list[1..])?)),
        _ => Err(
            "an attribute is followed by one of ==, !=, >=, >, <=, <, ~=, in (…), not in (…), \
             exists, not exists"
                .into(),
        ),
    }
}

fn take_list(mut rest: &str) -> Result<Vec<String>, String> {
    let mut values = BTreeSet::new();
    loop {
        rest = rest.trim_start();
        values.insert(take_value(&mut rest, |c| matches!(c, ',' | ')'))?);
        rest = rest.trim_start();
        if values.len() > VALUES_MAX {
            return Err(format!("it has more than {VALUES_MAX} values"));
        }
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else if rest == ")" {
            return Ok(values.into_iter().collect());
        } else {
            return Err("a list of values is written as in (eu,us)".into());
        }
    }
}

/// Takes a value off the front, quoted or up to what ends it.
fn take_value(rest: &mut &str, ends: impl Fn(char) -> bool) -> Result<String, String> {
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, after) = unquote(quoted)?;
        *rest = after.trim_start();
        return Ok(value);
    }
    let end = rest.find(ends).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    *rest = after;
    let value = value.trim_end();
    if value.is_empty() {
        return Err("a value is missing; an empty one is written \"\"".into());
    }
    Ok(value.to_owned())
}

fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => return Err("within quotes a \\ stands before \" or \\ only".into()),
            },
            c => value.push(c),
        }
    }
    Err("a quote is not closed".into())
}

fn operand(operator: Operator, values: &[String]) -> Result<Operand, String> {
    use Operator::*;
    match (operator, values) {
        (AtLeast | Above | AtMost | Below, [value]) => Version::parse(value)
            .map(Operand::Version)
            .ok_or_else(|| format!("`{}` is no version; write it as in >=1.6", shown(value))),
        (Matches, [value]) => Pattern::parse(value)
            .map(Operand::Pattern)
            .map_err(|why| format!("in the regular expression {}: {why}", shown(value))),
        _ => Ok(Operand::Text),
    }
}

/// As it stands in an expression: quoted where it would not read back otherwise.
fn spelt(value: &str, in_list: bool) -> String {
    let ends = in_list && value.contains([',', ')']);
    let bare = value.is_empty() || value.trim() != value || value.starts_with('"');
    if !ends && !bare {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// For people: cut where it is long.
fn shown(value: &str) -> String {
    match value.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None if value.is_empty() => "empty".into(),
        None => value.to_owned(),
    }
}
