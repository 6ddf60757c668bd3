//! Policies of others, emulated: those that Weng et al. (USENIX ATC 2023, section 6) compare with,
//! and their own. Scores are rounded as published, more is better; among equals a fixed draw for
//! each node decides, as the published simulator orders nodes at random once a run.

use std::collections::BTreeMap;

use crate::trace::{Node, Pod, Random};

/// The largest node, by which the published scores are normalised.
const CPU_MILLI_MAX: f64 = 128_000.0;
const GPU_MILLI_MAX: i64 = 8000;
/// The most popular shapes that make up so much of the workload are FGD's typical pods.
const TYPICAL: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Random,
    DotProduct,
    GpuClustering,
    GpuPacking,
    BestFit,
    /// As published: to its fragmentation memory does not count.
    Fgd,
    /// With memory counted as CPU is, which suits a trace where memory runs short.
    FgdMemory,
}

impl Policy {
    fn by_gradient(self) -> bool {
        matches!(self, Self::Fgd | Self::FgdMemory)
    }

    pub const ALL: [(&'static str, Self); 7] = [
        ("random", Self::Random),
        ("dot_product", Self::DotProduct),
        ("gpu_clustering", Self::GpuClustering),
        ("gpu_packing", Self::GpuPacking),
        ("best_fit", Self::BestFit),
        ("fgd", Self::Fgd),
        ("fgd_with_memory", Self::FgdMemory),
    ];
}

#[derive(Clone)]
struct Host {
    cpu_milli: u64,
    memory_mib: u64,
    free_milli: Vec<u16>,
    model: String,
    /// GPU pods by what they ask for, as clustering tells them apart.
    tags: BTreeMap<u16, u32>,
    draw: u64,
    version: u32,
}

/// A cluster under one policy.
pub struct Cluster {
    policy: Policy,
    hosts: Vec<Host>,
    /// FGD's typical pods with their frequency.
    typical: Vec<(Pod, f64)>,
    /// FGD's scores by shape and host, with the host's version.
    scores: BTreeMap<Pod, Vec<Scored>>,
    random: Random,
}

/// A host's version, its score for a shape if that fits, and the GPU for a share.
type Scored = (u32, Option<(i64, usize)>);

impl Cluster {
    pub fn new(policy: Policy, nodes: &[Node], pods: &[Pod], seed: u64) -> Self {
        let mut random = Random(seed);
        let hosts = nodes.iter().map(|node| Host {
            cpu_milli: node.cpu_milli,
            memory_mib: node.memory_mib,
            free_milli: vec![1000; usize::from(node.gpus)],
            model: node.model.clone(),
            tags: BTreeMap::new(),
            draw: random.next(),
            version: 1,
        });
        Self {
            policy,
            hosts: hosts.collect(),
            typical: typical(pods, policy == Policy::FgdMemory),
            scores: BTreeMap::new(),
            random,
        }
    }

    /// True if the pod was placed.
    pub fn place(&mut self, pod: &Pod) -> bool {
        let Some((host, choice)) = self.best(pod) else {
            return false;
        };
        let gpus = match self.policy {
            Policy::Random if pod.gpu_milli < 1000 && pod.gpus == 1 => {
                let open = self.hosts[host].open(pod);
                let drawn = self.random.below(open.len() as u64) as usize;
                vec![open[drawn]]
            }
            policy if policy.by_gradient() && pod.gpu_milli < 1000 && pod.gpus == 1 => {
                vec![choice]
            }
            _ => self.hosts[host].tightest(pod),
        };
        self.hosts[host].take(pod, &gpus);
        true
    }

    fn best(&mut self, pod: &Pod) -> Option<(usize, usize)> {
        let fgd = self.policy.by_gradient();
        let mut cached = if fgd {
            let unknown = || vec![(0, None); self.hosts.len()];
            self.scores.remove(pod).unwrap_or_else(unknown)
        } else {
            Vec::new()
        };
        let mut best: Option<(i64, u64, usize, usize)> = None;
        for (number, host) in self.hosts.iter().enumerate() {
            let found = if fgd {
                if cached[number].0 != host.version {
                    cached[number] = (host.version, host.fgd(pod, &self.typical));
                }
                cached[number].1
            } else {
                host.fits(pod).then(|| (host.score(pod, self.policy), 0))
            };
            let Some((score, choice)) = found else {
                continue;
            };
            let draw = match self.policy {
                Policy::Random => self.random.next(),
                _ => host.draw,
            };
            if best.is_none_or(|b| (score, draw) > (b.0, b.1)) {
                best = Some((score, draw, number, choice));
            }
        }
        if fgd {
            self.scores.insert(pod.clone(), cached);
        }
        best.map(|(_, _, number, choice)| (number, choice))
    }
}

/// Pods that differ in memory alone are one where memory does not count.
fn typical(pods: &[Pod], memory: bool) -> Vec<(Pod, f64)> {
    let mut counts: BTreeMap<Pod, u32> = BTreeMap::new();
    for pod in pods {
        let mut pod = pod.clone();
        pod.memory_mib *= u64::from(memory);
        *counts.entry(pod).or_default() += 1;
    }
    let mut by_count: Vec<_> = counts.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
    let wanted = TYPICAL * pods.len() as f64;
    let mut sum = 0.0;
    let mut found = Vec::new();
    for (pod, count) in by_count {
        if sum >= wanted {
            break;
        }
        sum += f64::from(count);
        found.push((pod, f64::from(count)));
    }
    found.iter_mut().for_each(|(_, share)| *share /= sum);
    found
}

impl Host {
    fn fits(&self, pod: &Pod) -> bool {
        self.cpu_milli >= pod.cpu_milli
            && self.memory_mib >= pod.memory_mib
            && (pod.gpus == 0 || self.admits(pod) && self.open(pod).len() >= usize::from(pod.gpus))
    }

    fn admits(&self, pod: &Pod) -> bool {
        pod.models.is_empty() || pod.models.contains(&self.model)
    }

    /// GPUs with enough left.
    fn open(&self, pod: &Pod) -> Vec<usize> {
        let gpus = 0..self.free_milli.len();
        gpus.filter(|&gpu| self.free_milli[gpu] >= pod.gpu_milli)
            .collect()
    }

    /// The GPUs that a pod takes where the policy does not say: those with the least left.
    fn tightest(&self, pod: &Pod) -> Vec<usize> {
        let mut open = self.open(pod);
        open.sort_by_key(|&gpu| self.free_milli[gpu]);
        open.truncate(usize::from(pod.gpus));
        open
    }

    fn take(&mut self, pod: &Pod, gpus: &[usize]) {
        self.cpu_milli -= pod.cpu_milli;
        self.memory_mib -= pod.memory_mib;
        for &gpu in gpus {
            self.free_milli[gpu] -= pod.gpu_milli;
        }
        if pod.gpus > 0 {
            *self.tags.entry(tag(pod)).or_default() += 1;
        }
        self.version += 1;
    }

    fn gpu_free(&self) -> i64 {
        self.free_milli.iter().map(|milli| i64::from(*milli)).sum()
    }

    fn score(&self, pod: &Pod, policy: Policy) -> i64 {
        match policy {
            Policy::Random | Policy::Fgd | Policy::FgdMemory => 0,
            Policy::DotProduct => {
                let cpu = self.cpu_milli as f64 * pod.cpu_milli as f64 / CPU_MILLI_MAX.powi(2);
                let gpu = self.gpu_free() as f64 * pod.demand_milli() as f64;
                let product = (cpu + gpu / (GPU_MILLI_MAX as f64).powi(2)) / 2.0;
                (100.0 * (1.0 - product)) as i64
            }
            Policy::BestFit => {
                let cpu = (self.cpu_milli - pod.cpu_milli) as f64 / CPU_MILLI_MAX;
                let gpu = self.gpu_free() as f64 - pod.demand_milli() as f64;
                (100.0 * (1.0 - (cpu + gpu / GPU_MILLI_MAX as f64) / 2.0)) as i64
            }
            Policy::GpuClustering => {
                if pod.gpus == 0 {
                    return 0;
                }
                let with_alike = self.tags.contains_key(&tag(pod));
                let band = match (with_alike, self.tags.len()) {
                    (true, 1) => 75,
                    (true, _) => 50,
                    (false, 0) => 25,
                    (false, _) => 0,
                };
                band + 25 * (GPU_MILLI_MAX - self.gpu_free()) / GPU_MILLI_MAX
            }
            Policy::GpuPacking => self.packing(pod),
        }
    }

    /// GPUs in use first, then free ones of a node in use, then those of a free node.
    fn packing(&self, pod: &Pod) -> i64 {
        let whole = self.free_milli.iter().filter(|milli| **milli == 1000);
        let whole = whole.count();
        if pod.gpus == 0 {
            return 0;
        }
        if whole == self.free_milli.len() {
            return (33 - whole as i64).max(whole as i64);
        }
        let taken = self.tightest(pod);
        let fresh = taken.iter().filter(|&&gpu| self.free_milli[gpu] == 1000);
        match fresh.count() as i64 {
            0 => {
                let left = taken
                    .iter()
                    .map(|&gpu| i64::from(self.free_milli[gpu]) / 10);
                (100 - left.sum::<i64>() / 10).max(50)
            }
            fresh => (50 - fresh).max(33),
        }
    }

    /// The fragmentation gradient through a sigmoid, in whole percent, and the GPU for a share.
    fn fgd(&self, pod: &Pod, typical: &[(Pod, f64)]) -> Option<(i64, usize)> {
        if !self.fits(pod) {
            return None;
        }
        let before = self.fragments(typical);
        let scored = |gpus: &[usize]| {
            let mut after = self.clone();
            after.take(pod, gpus);
            let grown = (after.fragments(typical) - before) / 1000.0;
            (100.0 / (1.0 + grown.exp())) as i64
        };
        if pod.gpus != 1 || pod.gpu_milli == 1000 {
            return Some((scored(&self.tightest(pod)), 0));
        }
        let mut best: Option<(i64, usize)> = None;
        let open = self.open(pod);
        for (nth, &gpu) in open.iter().enumerate() {
            let alike = |other: &usize| self.free_milli[*other] == self.free_milli[gpu];
            if open[..nth].iter().any(alike) {
                continue;
            }
            let score = scored(&[gpu]);
            if best.is_none_or(|b| score > b.0) {
                best = Some((score, gpu));
            }
        }
        best
    }

    /// Free GPU capacity that a typical pod could not use, in the mean.
    fn fragments(&self, typical: &[(Pod, f64)]) -> f64 {
        let all = self.gpu_free() as f64;
        let of = |pod: &Pod| {
            if pod.gpus == 0 || !self.fits(pod) {
                return all;
            }
            let small = self.free_milli.iter().filter(|free| **free < pod.gpu_milli);
            small.map(|free| f64::from(*free)).sum()
        };
        typical.iter().map(|(pod, share)| share * of(pod)).sum()
    }
}

fn tag(pod: &Pod) -> u16 {
    if pod.gpu_milli < 1000 { 0 } else { pod.gpus }
}
