//! The trace: lists of nodes and pods as CSV, and the order in which pods arrive.

use std::collections::BTreeMap;

/// A node of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub cpu_milli: u64,
    pub memory_mib: u64,
    pub gpus: u16,
    pub model: String,
}

/// What a pod asks for; pods that ask for the same are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    pub cpu_milli: u64,
    pub memory_mib: u64,
    pub gpus: u16,
    /// Of each GPU: 1000, or less where it is one.
    pub gpu_milli: u16,
    /// Ascending; any if empty.
    pub models: Vec<String>,
}

impl Pod {
    /// GPU capacity that it takes, in 1/1000.
    pub fn demand_milli(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.gpu_milli)
    }
}

/// Columns `cpu_milli`, `memory_mib`, `gpu`, `model`; others are ignored.
pub fn nodes(text: &str) -> Result<Vec<Node>, String> {
    let node = |row: &Row| {
        Ok(Node {
            cpu_milli: row.number("cpu_milli")?,
            memory_mib: row.number("memory_mib")?,
            gpus: row.number("gpu")? as u16,
            model: row.text("model").unwrap_or_default().to_owned(),
        })
    };
    rows(text)?.iter().map(node).collect()
}

/// Columns `cpu_milli`, `memory_mib`, `num_gpu`, `gpu_milli` and, if there is one, `gpu_spec` with
/// models separated by `|`; others are ignored.
pub fn pods(text: &str) -> Result<Vec<Pod>, String> {
    let pod = |row: &Row| {
        let gpus = row.number("num_gpu")? as u16;
        let names = row.text("gpu_spec").unwrap_or_default().split('|');
        let mut models: Vec<_> = names.filter(|m| !m.is_empty()).map(str::to_owned).collect();
        models.sort();
        models.dedup();
        let milli = row.number("gpu_milli")? as u16;
        let milli = if gpus > 1 { 1000 } else { milli.min(1000) };
        Ok(Pod {
            cpu_milli: row.number("cpu_milli")?,
            memory_mib: row.number("memory_mib")?,
            gpus: if milli == 0 { 0 } else { gpus },
            gpu_milli: if gpus == 0 { 0 } else { milli },
            models: if gpus == 0 { Vec::new() } else { models },
        })
    };
    rows(text)?.iter().map(pod).collect()
}

struct Row<'a> {
    line: usize,
    cells: BTreeMap<&'a str, &'a str>,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        self.cells.get(column).copied()
    }

    fn number(&self, column: &str) -> Result<u64, String> {
        let text = self.text(column);
        let text = text.ok_or_else(|| format!("line {}: no column {column}", self.line))?;
        text.parse()
            .map_err(|_| format!("line {}: {column} is {text}, not a number", self.line))
    }
}

/// The trace quotes nothing, so that a comma always separates.
fn rows(text: &str) -> Result<Vec<Row<'_>>, String> {
    let mut lines = text.lines().enumerate();
    let (_, head) = lines.next().ok_or("the file is empty")?;
    let columns: Vec<_> = head.split(',').map(str::trim).collect();
    let filled = lines.filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(number, line)| {
            let cells: Vec<_> = line.split(',').map(str::trim).collect();
            if cells.len() != columns.len() {
                let (found, wanted) = (cells.len(), columns.len());
                return Err(format!("line {}: {found} cells, not {wanted}", number + 1));
            }
            Ok(Row {
                line: number + 1,
                cells: columns.iter().copied().zip(cells).collect(),
            })
        })
        .collect()
}

/// Indexes into `pods` in the order of arrival: all of them shuffled, then random ones again until
/// they demand `limit_milli`. Nothing arrives beyond that.
pub fn arrivals(pods: &[Pod], limit_milli: u64, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<_> = (0..pods.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    let mut demand: u64 = pods.iter().map(Pod::demand_milli).sum();
    if demand > 0 {
        while demand < limit_milli {
            let again = random.below(pods.len() as u64) as usize;
            demand += pods[again].demand_milli();
            order.push(again);
        }
    }
    order
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`, by multiplication: the bias is below one in 2^40 here.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
