//! What the index takes of memory after nodes were put, and after containers were placed and their
//! binds took effect: blocks that are allocated then, as large as the allocator made them; and how
//! much more the process holds, in pages, with what the allocator keeps beside: on few nodes that
//! is much of it.

use std::collections::BTreeMap;
use std::ffi::c_void;

use warren_core::ids::{NodeId, ServiceId};
use warren_core::scheduler::{Ask, NodeFacts, Rules, Scheduler};

use crate::mix::{self, Random};

/// Values of the label that nodes are divided by.
const ZONES: u32 = 10;

pub struct Case {
    pub nodes: u32,
    pub containers: u64,
    pub seed: u64,
}

/// With a division over ten zones and a pool of a half of the nodes, as constraints and spreads make
/// them.
pub fn run(case: &Case) {
    let mut facts = facts(case);
    let before = Memory::now();
    let mut scheduler = mix::scheduler(case.nodes, true, case.seed);
    let plain = Memory::now().since(&before);
    let (zones, pool) = (scheduler.division_add(), scheduler.division_add());
    for number in 0..case.nodes {
        let id = mix::id(number);
        scheduler.division_set(zones, id, Some(number / 4 % ZONES));
        scheduler.division_set(pool, id, (number % 2 == 0).then_some(0));
    }
    let divided = Memory::now().since(&before);
    let placed = place(&mut scheduler, &mut facts, case);
    let filled = Memory::now().since(&before);
    let more = filled.since(&divided);
    let of_each = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64;
    let of_node = |bytes: u64| of_each(bytes, u64::from(case.nodes));
    println!("{{");
    println!("  \"nodes\": {}, \"containers\": {placed},", case.nodes);
    println!("  \"bytes\": {},", filled.live_bytes);
    println!("  \"node_bytes_plain\": {:.1},", of_node(plain.live_bytes));
    println!("  \"node_bytes\": {:.1},", of_node(divided.live_bytes));
    let of_container = of_each(more.live_bytes, placed);
    println!("  \"container_bytes\": {of_container:.3},");
    println!(
        "  \"process_node_bytes\": {:.1},",
        of_node(divided.resident_bytes)
    );
    let of_container = of_each(more.resident_bytes, placed);
    println!("  \"process_container_bytes\": {of_container:.3}");
    println!("}}");
}

struct Memory {
    live_bytes: u64,
    resident_bytes: u64,
}

impl Memory {
    fn now() -> Self {
        Self {
            live_bytes: live_bytes(),
            resident_bytes: resident_bytes(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let more = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            live_bytes: more(self.live_bytes, before.live_bytes),
            resident_bytes: more(self.resident_bytes, before.resident_bytes),
        }
    }
}

/// What is known of each node, apart from the index.
fn facts(case: &Case) -> BTreeMap<NodeId, NodeFacts> {
    let all = (0..case.nodes).map(|number| {
        let facts = NodeFacts {
            allocatable: mix::capacity(number, true),
            ..NodeFacts::default()
        };
        (mix::id(number), facts)
    });
    all.collect()
}

/// Places containers, as many at a time as go to one command, and makes their binds take effect.
fn place(scheduler: &mut Scheduler, facts: &mut BTreeMap<NodeId, NodeFacts>, case: &Case) -> u64 {
    let mut random = Random(case.seed);
    let spread = BTreeMap::new();
    let mut placed = 0;
    while placed < case.containers {
        let mut need = random.shape();
        need.cpu_milli /= 10;
        need.memory_bytes /= 10;
        let ask = Ask {
            service: ServiceId::default(),
            resources: need,
            count: 128,
            image: "web",
            image_digest: mix::IMAGE,
            spread: &spread,
            rules: Rules::default(),
        };
        let answer = scheduler.place(&ask);
        for (id, count) in &answer.binds {
            let known = facts.get_mut(id).expect("it was put");
            for _ in 0..*count {
                known.allocated = known.allocated.saturating_add(need);
                known.containers += 1;
                scheduler.release(*id, need);
            }
            scheduler.node_put_facts(*id, *known, std::iter::once(mix::IMAGE));
            placed += u64::from(*count);
        }
        if answer.refused > 0 {
            break;
        }
    }
    placed
}

/// Blocks of one size, as mimalloc has them (`mi_heap_area_t`).
#[repr(C)]
struct HeapArea {
    blocks: *mut c_void,
    reserved: usize,
    committed: usize,
    used: usize,
    block_size: usize,
    full_block_size: usize,
    heap_tag: i32,
}

type Visit = extern "C" fn(*const c_void, *const HeapArea, *mut c_void, usize, *mut c_void) -> bool;

// The library that `warren_core` allocates with.
unsafe extern "C" {
    fn mi_heap_get_default() -> *mut c_void;
    fn mi_heap_visit_blocks(
        heap: *const c_void,
        every_block: bool,
        visit: Visit,
        sum: *mut c_void,
    ) -> bool;
}

extern "C" fn add_area(
    _heap: *const c_void,
    area: *const HeapArea,
    _block: *mut c_void,
    _block_bytes: usize,
    sum: *mut c_void,
) -> bool {
    // SAFETY: mimalloc gives an area that lives during the call; `sum` is what `live_bytes` gave.
    let (area, sum) = unsafe { (&*area, &mut *sum.cast::<u64>()) };
    *sum += (area.used * area.full_block_size) as u64;
    true
}

/// In blocks that this thread allocated and that are not freed.
fn live_bytes() -> u64 {
    let mut sum = 0u64;
    // SAFETY: the heap is the calling thread's own, and `sum` outlives the call.
    let all = unsafe {
        mi_heap_visit_blocks(
            mi_heap_get_default(),
            false,
            add_area,
            (&raw mut sum).cast(),
        )
    };
    assert!(all, "every area was seen");
    sum
}

/// Of the process, resident.
fn resident_bytes() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").expect("a Linux host");
    let line = told.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("KiB");
    kib << 10
}
