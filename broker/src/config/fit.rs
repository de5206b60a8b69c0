//! Makes the budgets of memory fit the machine: what the operator has not set shrinks together until the sum is a part of
//! what the process may use. The rest is for what has no budget: code, the kernel's buffers, what the allocator keeps.

use super::Name;
use super::kind::{Kind, MIB, Value};
use super::sources::{Origin, Values};
use super::table::{self, Setting};

/// Percent of the process's memory that the budgets of all shards may add up to.
const BUDGETS_PERCENT: u64 = 70;

/// Settings whose defaults may not be more than a part of a budget: each with the budget, and how many of it must fit there.
const FOLLOWERS: [(Name, Name, u64); 3] = [
    (("storage", "flush_size"), ("memory", "unflushed"), 2),
    (("kafka", "fetch_size_max"), ("memory", "answers"), 2),
    (
        ("transforms", "instance_memory_max"),
        ("transforms", "memory"),
        1,
    ),
];

/// Whether `setting` is memory that each shard may take.
pub(super) fn is_budget(setting: &Setting) -> bool {
    let name = (setting.section, setting.key);
    setting.section == "memory" || name == ("transforms", "memory")
}

impl Values {
    /// Lowers the budgets that are at their defaults, in proportion, to what fits `memory` bytes with so many shards.
    pub(super) fn fit(&mut self, memory: u64, shards: u64) {
        let budgets: Vec<&'static Setting> = table::all().filter(|s| is_budget(s)).collect();
        let bytes =
            |values: &Values, setting: &Setting| match values.get(setting.section, setting.key) {
                (Value::Size(bytes), origin) => (*bytes, *origin == Origin::Default),
                _ => (0, false),
            };
        let (mut free, mut fixed) = (0u64, 0u64);
        for setting in &budgets {
            match bytes(self, setting) {
                (n, true) => free = free.saturating_add(n),
                (n, false) => fixed = fixed.saturating_add(n),
            }
        }
        // One request may grow beyond its budget.
        fixed = fixed.saturating_add(self.size_of("kafka", "request_size_max"));
        let room = (memory / 100 * BUDGETS_PERCENT / shards.max(1)).saturating_sub(fixed);
        if free <= room {
            return;
        }
        for setting in budgets {
            let (n, true) = bytes(self, setting) else {
                continue;
            };
            let Kind::Size(least, _) = setting.spec.kind else {
                continue;
            };
            let part = u128::from(n) * u128::from(room) / u128::from(free.max(1));
            let part = u64::try_from(part).unwrap_or(n) / MIB * MIB;
            self.shrink(setting, part.max(least));
        }
        self.follow();
    }

    /// Lowers what is at its default and has to fit into a budget that was made smaller.
    fn follow(&mut self) {
        for ((section, key), budget, times) in FOLLOWERS {
            let (Value::Size(room), Origin::Machine) = self.get(budget.0, budget.1) else {
                continue;
            };
            let most = room / times;
            let (Value::Size(bytes), Origin::Default) = self.get(section, key) else {
                continue;
            };
            if let Some(setting) = table::find(section, key).filter(|_| *bytes > most) {
                self.shrink(setting, most);
            }
        }
    }

    fn size_of(&self, section: &str, key: &str) -> u64 {
        match table::find(section, key).map(|s| &self.get(s.section, s.key).0) {
            Some(Value::Size(bytes)) => *bytes,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, contradictions};

    fn fitted(file: &str, memory: u64, shards: u64) -> Settings {
        let mut values = Values::new();
        values.file(file);
        values.fit(memory, shards);
        values.settings()
    }

    #[test]
    fn budgets_stay_where_there_is_memory() {
        assert_eq!(fitted("", 24 << 30, 2), Settings::default());
    }

    #[test]
    fn budgets_shrink_together_and_what_was_set_stays() {
        let plain = Settings::default();
        let small = fitted("[memory]\ncache = \"100 MiB\"", 2 << 30, 2);
        assert_eq!(small.memory.cache, 100 << 20);
        assert!(small.memory.answers < plain.memory.answers / 2);
        assert!(small.transforms.memory < plain.transforms.memory / 2);
        let sum = [
            small.memory.small_requests,
            small.memory.large_requests,
            small.memory.waiting_fetches,
            small.memory.answers,
            small.memory.unflushed,
            small.memory.deliveries,
            small.memory.groups,
            small.memory.cache,
            small.memory.outbox,
            small.memory.unpacking,
            small.transforms.memory as u64,
        ];
        // Budgets that cannot shrink below their least pass it a little.
        assert!(2 * sum.iter().sum::<u64>() < 2 << 30);
    }

    #[test]
    fn defaults_go_together_on_machines_of_every_size() {
        for mib in [16, 64, 256, 512, 1_024, 2_048, 3_000, 4_096, 16_384] {
            let settings = fitted("", mib << 20, 2);
            assert_eq!(contradictions(&settings), [], "{mib} MiB");
        }
        let set = fitted("[storage]\nflush_size = \"100 MiB\"", 64 << 20, 2);
        assert_eq!(set.storage.flush_size, 100 << 20);
    }

    #[test]
    fn no_budget_falls_below_its_least() {
        let tiny = fitted("", 64 << 20, 4);
        assert_eq!(tiny.memory.unflushed, 16 << 20);
        assert_eq!(tiny.memory.unpacking, 128 << 20);
    }
}
