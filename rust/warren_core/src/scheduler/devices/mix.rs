//! Which shapes are asked for, and how often.

use std::collections::BTreeMap;

use crate::scheduler::devices::classes::{ClassSet, Classes};
use crate::scheduler::devices::rank::Rank;
use crate::scheduler::devices::room::Need;
use crate::scheduler::devices::{DeviceAsk, Want};

/// Shapes that are remembered; beyond, the one that was asked for least, then longest ago, goes.
pub(super) const SHAPES_MAX: usize = 1024;
/// Arrivals after which all counts are halved, so that what nobody asks for any more fades.
const ARRIVALS_MAX: u64 = 1 << 16;

/// A shape and what is known about it.
#[derive(Debug)]
pub(super) struct Shape {
    ask: DeviceAsk,
    pub need: Need,
    /// What it wants of other kinds.
    pub beside: Vec<(Want, ClassSet)>,
    /// How often it arrived, halved now and then.
    pub count: u64,
    pub rank: Rank,
}

/// The shapes by number. Invariant: `numbers` has each shape's ask once.
#[derive(Debug, Default)]
pub(super) struct Mix {
    numbers: BTreeMap<DeviceAsk, usize>,
    shapes: Vec<Shape>,
    /// Sum of all counts.
    pub arrivals: u64,
    uses: u64,
}

impl Shape {
    /// Resolves models by the classes that are known.
    fn admit(&mut self, classes: &Classes) {
        let ask = &self.ask;
        self.need.admitted = classes.admitted(ask.want, &ask.kind, &ask.models);
        let wants = ask.beside.iter();
        let resolved = wants.map(|it| (it.want, classes.admitted(it.want, &it.kind, &it.models)));
        self.beside = resolved.collect();
    }
}

impl Mix {
    /// The number of a shape, which must be canonical; a new one if it is not known. Numbers hold
    /// until the next call.
    pub fn number(&mut self, ask: &DeviceAsk, classes: &Classes) -> usize {
        self.uses += 1;
        let number = match self.numbers.get(ask) {
            Some(number) => *number,
            None => self.insert(ask, classes),
        };
        self.shapes[number].rank.used = self.uses;
        number
    }

    fn insert(&mut self, ask: &DeviceAsk, classes: &Classes) -> usize {
        let mut shape = Shape {
            ask: ask.clone(),
            need: Need {
                cpu_milli: ask.cpu_milli,
                memory_bytes: ask.memory_bytes,
                want: ask.want,
                admitted: 0,
            },
            beside: Vec::new(),
            count: 0,
            rank: Rank::default(),
        };
        shape.admit(classes);
        let number = if self.shapes.len() < SHAPES_MAX {
            self.shapes.push(shape);
            self.shapes.len() - 1
        } else {
            let rarity = |n: &usize| (self.shapes[*n].count, self.shapes[*n].rank.used);
            let rarest = (0..SHAPES_MAX).min_by_key(rarity).unwrap_or_default();
            let gone = std::mem::replace(&mut self.shapes[rarest], shape);
            self.arrivals -= gone.count;
            self.numbers.remove(&gone.ask);
            rarest
        };
        self.numbers.insert(ask.clone(), number);
        number
    }

    pub fn shape(&self, number: usize) -> &Shape {
        &self.shapes[number]
    }

    pub fn rank_mut(&mut self, number: usize) -> &mut Rank {
        &mut self.shapes[number].rank
    }

    pub fn arrived(&mut self, number: usize) {
        self.shapes[number].count += 1;
        self.arrivals += 1;
        if self.arrivals >= ARRIVALS_MAX {
            self.shapes.iter_mut().for_each(|shape| shape.count /= 2);
            self.arrivals = self.shapes.iter().map(|shape| shape.count).sum();
        }
    }

    /// Resolves models anew, after a model became known.
    pub fn readmit(&mut self, classes: &Classes) {
        for shape in &mut self.shapes {
            shape.admit(classes);
        }
    }

    /// Says how many of a shape there are, rather than how often it arrived.
    pub fn count(&mut self, number: usize, count: u64) {
        let before = std::mem::replace(&mut self.shapes[number].count, count);
        self.arrivals = self.arrivals - before + count;
    }

    /// Each shape with how often it arrived; one that wants several kinds once for each.
    pub fn counted(&self) -> Vec<(Need, u64)> {
        let mut counted = Vec::with_capacity(self.shapes.len());
        for shape in &self.shapes {
            counted.push((shape.need, shape.count));
            let others = shape.beside.iter().map(|(want, admitted)| Need {
                want: *want,
                admitted: *admitted,
                ..shape.need
            });
            counted.extend(others.map(|need| (need, shape.count)));
        }
        counted
    }
}
