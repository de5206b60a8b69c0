//! What a guest returned, before it is checked, whichever way it came.

/// Which partition of its output the records of a section go to, as the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Placement {
    ByInput,
    ByKey,
    Partition(u32),
}

/// Records for one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) output: u32,
    pub(crate) placement: Placement,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: u32,
    pub(crate) records: Vec<u8>,
}

/// A record that the guest refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) offset: i64,
    pub(crate) message: String,
}

/// The answer to a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) outputs: Vec<Section>,
    pub(crate) failures: Vec<Reported>,
}

mod from_bindings {
    //! From the types that the engine's macro makes.

    use super::{Outcome, Placement, Reported, Section};
    use crate::bindings::batch::exports::tidemill::transform::processor as now;
    use crate::bindings::batch::tidemill::transform::types;
    use crate::bindings::v0_1::exports::tidemill::transform::processor as v0_1;

    impl From<types::Placement> for Placement {
        fn from(placement: types::Placement) -> Placement {
            match placement {
                types::Placement::ByInput => Placement::ByInput,
                types::Placement::ByKey => Placement::ByKey,
                types::Placement::Partition(index) => Placement::Partition(index),
            }
        }
    }

    impl From<now::Outcome> for Outcome {
        fn from(outcome: now::Outcome) -> Outcome {
            let section = |s: now::OutputSection| Section {
                output: s.output,
                placement: s.placement.into(),
                base_timestamp: s.base_timestamp,
                max_timestamp: s.max_timestamp,
                record_count: s.record_count,
                records: s.records,
            };
            let failure = |f: types::RecordFailure| Reported {
                offset: f.offset,
                message: f.message,
            };
            Outcome {
                outputs: outcome.outputs.into_iter().map(section).collect(),
                failures: outcome.failures.into_iter().map(failure).collect(),
            }
        }
    }

    impl From<v0_1::Outcome> for Outcome {
        fn from(outcome: v0_1::Outcome) -> Outcome {
            let section = |s: v0_1::OutputSection| Section {
                output: s.output,
                placement: Placement::ByInput,
                base_timestamp: s.base_timestamp,
                max_timestamp: s.max_timestamp,
                record_count: s.record_count,
                records: s.records,
            };
            let failure = |f: v0_1::RecordFailure| Reported {
                offset: f.offset,
                message: f.message,
            };
            Outcome {
                outputs: outcome.outputs.into_iter().map(section).collect(),
                failures: outcome.failures.into_iter().map(failure).collect(),
            }
        }
    }
}
