//! What a placement strands: capacity that can no longer be used at the ratio in which containers
//! ask for it.
//!
//! With `d` the mean demand of the containers that live, `T` the cluster's totals and `f` a
//! node's free capacity: `stranded(f) = Σ_r (f_r − u·d_r) / T_r`, where `u = min_r f_r / d_r` is
//! how many mean containers still fit. Integers throughout, in units of 1 / [`SCALE`].

use crate::fsm::Resources;

const SCALE: u128 = 1 << 20;

/// Invariant: amounts are within the limits that `fsm` sets, so that products fit in 128 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// Mean demand; where nothing lives, that of what is asked.
    pub demand: Resources,
    /// Of all nodes.
    pub total: Resources,
}

impl Mix {
    /// How much more `free` strands after `asked` is taken from it; negative if less.
    pub fn stranding(&self, free: Resources, asked: Resources) -> i64 {
        self.stranded(free.saturating_sub(asked)) - self.stranded(free)
    }

    fn stranded(&self, free: Resources) -> i64 {
        let wide = |r: Resources| (u128::from(r.cpu_milli), u128::from(r.memory_bytes));
        let (free_cpu, free_memory) = wide(free);
        let (cpu, memory) = wide(self.demand);
        let (total_cpu, total_memory) = wide(self.total);
        if cpu == 0 || memory == 0 || total_cpu == 0 || total_memory == 0 {
            return 0; // One resource alone is never the wrong half of a pair.
        }
        let (by_cpu, by_memory) = (free_cpu * memory, free_memory * cpu);
        let stranded = if by_cpu <= by_memory {
            (by_memory - by_cpu) * SCALE / (cpu * total_memory)
        } else {
            (by_cpu - by_memory) * SCALE / (memory * total_cpu)
        };
        i64::try_from(stranded).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cpu_milli: u64, memory_bytes: u64) -> Resources {
        Resources {
            cpu_milli,
            memory_bytes,
            ..Resources::default()
        }
    }

    #[test]
    fn what_fits_the_ratio_strands_nothing() {
        let mix = Mix {
            demand: of(1000, 4000),
            total: of(10_000, 40_000),
        };
        assert_eq!(mix.stranding(of(5000, 20_000), of(1000, 4000)), 0);
    }

    #[test]
    fn a_lopsided_ask_belongs_on_a_lopsided_node() {
        let mix = Mix {
            demand: of(1000, 4000),
            total: of(10_000, 40_000),
        };
        let ask = of(1000, 1000);
        let balanced = mix.stranding(of(5000, 20_000), ask);
        let rich_in_cpu = mix.stranding(of(5000, 8000), ask);
        assert!(balanced > 0 && rich_in_cpu < 0, "{balanced} {rich_in_cpu}");
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        let max = of(crate::fsm::CPU_MILLI_MAX, crate::fsm::MEMORY_BYTES_MAX);
        let mix = Mix {
            demand: max,
            total: max,
        };
        mix.stranding(max, of(1, 1));
        Mix {
            demand: of(1, 1),
            total: of(1, 1),
        }
        .stranding(max, of(0, max.memory_bytes));
    }
}
