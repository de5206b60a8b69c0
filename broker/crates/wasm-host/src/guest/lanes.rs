//! Which calls may run beside each other. Pure.
//!
//! A call that has begun keeps its slot and its memory until it ends, so only so many run at once. Were those long ones, everybody else would
//! wait for them, however little he has used. So calls are told apart by the CPU time they take, as in a multilevel feedback queue (Corbató,
//! Daggett and Daley, 1962): the longer they are, the fewer slots and the less memory they may hold together, and for shorter ones some is
//! always left. A call that turns out longer than its class moves to the next one, or, where that is full, is given up and begun again later:
//! functions keep nothing from call to call, and what a call that has not ended put out is seen by nobody.

/// CPU time of a call up to which it belongs to a class, in ns; those of the last class are longer. A call that is given up in each has lost
/// an eighth of its time, about.
const CALL_NS_MAX: [u64; CLASSES - 1] = [30_000_000, 240_000_000, 2_000_000_000, 16_000_000_000];
/// How many classes there are.
pub(super) const CLASSES: usize = 5;
/// Calls of each class and of longer ones that run at once, at most.
const RUNNING_MAX: [usize; CLASSES] = [20, 17, 14, 11, 8];
/// Eighths of the memory that calls of each class and of longer ones may grow to. One alone among them may need more.
const MEMORY_EIGHTHS: [usize; CLASSES] = [8, 7, 6, 5, 4];

/// The class of a call that takes `cpu_ns` of CPU time, in ns.
fn class_of(cpu_ns: u64) -> usize {
    CALL_NS_MAX.iter().filter(|max| cpu_ns > **max).count()
}

/// The class that the next call of a transform begins in, after one of `class` that took `cpu_ns`, in ns: one long call is no promise of
/// others, and neither is a short one.
pub(super) fn class_after(class: usize, cpu_ns: u64) -> usize {
    class_of(cpu_ns).max(class.saturating_sub(1))
}

/// A call may not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocked {
    /// Of this class and of longer ones none may begin before it: it waits for those that run to end. Of those that would do, the shortest.
    pub(super) closes: usize,
}

/// What runs, by class.
#[derive(Debug)]
pub(super) struct Lanes {
    memory_max: usize,
    running: [usize; CLASSES],
    bytes: [usize; CLASSES],
}

impl Lanes {
    /// With nothing running, and memory of so many bytes.
    pub(super) fn of(memory_max: usize) -> Lanes {
        Lanes {
            memory_max,
            running: [0; CLASSES],
            bytes: [0; CLASSES],
        }
    }

    /// Whether a call of `class` that may grow to `bytes` can begin.
    ///
    /// # Errors
    /// [`Blocked`], by the longest class that holds too much.
    pub(super) fn admits(&self, class: usize, bytes: usize) -> Result<(), Blocked> {
        match (0..=class).rev().find(|by| !self.has_room(*by, *by, bytes)) {
            None => Ok(()),
            Some(by) => Err(Blocked {
                closes: (by..CLASSES)
                    .find(|ended| self.has_room(by, ended + 1, bytes))
                    .unwrap_or(by),
            }),
        }
    }

    /// Whether `bytes` more are within what class `by` and longer ones may hold, where of those only the ones from `from` on count.
    fn has_room(&self, by: usize, from: usize, bytes: usize) -> bool {
        let running: usize = self.running[from..].iter().sum();
        let held: usize = self.bytes[from..].iter().sum();
        let share = self.memory_max / 8 * MEMORY_EIGHTHS[by];
        running == 0 || (running < RUNNING_MAX[by] && held.saturating_add(bytes) <= share)
    }

    /// The class in which a call goes on that has taken `cpu_ns`, in ns, and may grow to `bytes`. It does not count as running here.
    ///
    /// # Errors
    /// The class in which it is to begin again: there is no place for it now.
    pub(super) fn goes_on(&self, class: usize, cpu_ns: u64, bytes: usize) -> Result<usize, usize> {
        let grown = class_of(cpu_ns).max(class);
        match grown == class || self.admits(grown, bytes).is_ok() {
            true => Ok(grown),
            false => Err(grown),
        }
    }

    /// A call begins.
    pub(super) fn begin(&mut self, class: usize, bytes: usize) {
        self.running[class] += 1;
        self.bytes[class] += bytes;
    }

    /// A call has ended.
    pub(super) fn end(&mut self, class: usize, bytes: usize) {
        self.running[class] -= 1;
        self.bytes[class] -= bytes;
    }

    /// Bytes that all that runs may grow to.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.iter().sum()
    }

    /// Calls that run.
    pub(super) fn running(&self) -> usize {
        self.running.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = 1 << 30;
    const USUAL: usize = MEMORY / 16;

    /// As many calls of `class` as are let in, up to 100.
    fn filled(lanes: &mut Lanes, class: usize, bytes: usize) -> usize {
        let admitted = (0..100).take_while(|_| {
            let admitted = lanes.admits(class, bytes).is_ok();
            if admitted {
                lanes.begin(class, bytes);
            }
            admitted
        });
        admitted.count()
    }

    #[test]
    fn whatever_long_calls_hold_shorter_ones_find_slots_and_memory() {
        for bytes in [1, USUAL, MEMORY / 8] {
            let mut lanes = Lanes::of(MEMORY);
            for class in (0..CLASSES).rev() {
                let slots = filled(&mut lanes, class, bytes);
                assert!(slots > 0, "class {class}, {bytes} bytes each");
            }
            assert!(lanes.bytes() <= MEMORY && lanes.running() <= RUNNING_MAX[0]);
        }
    }

    #[test]
    fn call_that_needs_more_than_its_share_runs_when_none_as_long_does() {
        let mut lanes = Lanes::of(MEMORY);
        lanes.begin(0, USUAL);
        assert_eq!(lanes.admits(CLASSES - 1, MEMORY - USUAL), Ok(()));
        lanes.begin(CLASSES - 1, MEMORY - USUAL);
        let blocked = lanes.admits(CLASSES - 1, USUAL).unwrap_err();
        assert_eq!(blocked.closes, CLASSES - 1);
        lanes.end(CLASSES - 1, MEMORY - USUAL);
        lanes.end(0, USUAL);
        assert_eq!(lanes.admits(CLASSES - 1, 2 * MEMORY), Ok(()), "alone");
    }

    #[test]
    fn what_waits_closes_the_shortest_class_whose_end_makes_room() {
        let mut lanes = Lanes::of(MEMORY);
        filled(&mut lanes, 4, USUAL);
        filled(&mut lanes, 1, USUAL);
        let blocked = |closes| Err(Blocked { closes });
        assert_eq!(lanes.admits(1, USUAL), blocked(1));
        assert_eq!(lanes.admits(4, USUAL), blocked(4));
        assert_eq!(lanes.admits(0, MEMORY / 2), blocked(1));
    }

    #[test]
    fn class_follows_the_time_that_calls_take() {
        assert_eq!(class_of(0), 0);
        assert_eq!(class_of(30_000_001), 1);
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
        assert_eq!(class_after(3, 0), 2);
        assert_eq!(class_after(0, u64::MAX), CLASSES - 1);
    }
}
