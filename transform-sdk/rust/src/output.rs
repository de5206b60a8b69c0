//! Where a transform writes: record sections for each declared output, one after the other for each placement.

use crate::Result;
use crate::encode::Layout;
use crate::new_record::NewRecord;
use crate::placement::Placement;
use crate::record::Record;
use crate::section::InputSection;

/// A section ends when the next record would make it larger than this many bytes, so that it fits a batch of Kafka's default
/// `max.message.bytes` (1,048,588).
const SECTION_BYTES_MAX: usize = 900 * 1024;
/// A record may be this large, in bytes; lengths in a section are 32-bit numbers.
const RECORD_BYTES_MAX: usize = 1 << 30;
/// Failures reported for one call carry messages cut to this many bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Sections that an output has open at once, one for each placement; a further one closes them all.
const OPEN_SECTIONS_MAX: usize = 64;

/// Where a transform writes. The default output is the first that was declared.
#[derive(Debug)]
pub struct Output<'r> {
    outputs: &'r mut Outputs,
    input: Input<'r>,
}

/// One of several outputs, from [`Output::to`].
#[derive(Debug)]
pub struct OutputTopic<'o> {
    topic: &'o mut Topic,
    input: Input<'o>,
}

/// What writing must know of the input record.
#[derive(Debug, Clone, Copy)]
struct Input<'r> {
    key: Option<&'r [u8]>,
    timestamp: i64,
    /// Its number among those that these outputs were given, from 1.
    turn: u64,
}

/// The outputs, as long as the module lives.
#[derive(Debug)]
pub(crate) struct Outputs {
    topics: Vec<Topic>,
    turn: u64,
}

/// A finished or growing section.
#[derive(Debug, Default)]
pub(crate) struct Section {
    pub(crate) placement: Placement,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: u32,
    pub(crate) records: Vec<u8>,
    /// What it held when the input record `mark.turn` began; of the last that wrote to it.
    mark: Mark,
    /// The input record that closed it.
    closed_in: u64,
}

#[derive(Debug)]
struct Topic {
    name: String,
    done: Vec<Section>,
    /// That of the placement used last.
    open: Section,
    /// Those of other placements.
    aside: Vec<Section>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    turn: u64,
    bytes: usize,
    record_count: u32,
    max_timestamp: i64,
}

/// A record the transform refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) offset: i64,
    pub(crate) message: String,
}

impl Output<'_> {
    /// Writes `record` to the default output.
    ///
    /// # Errors
    /// When it is larger than a record may be.
    #[inline]
    pub fn write(&mut self, record: NewRecord<'_>) -> Result<()> {
        self.outputs.topics[0].write(&record, &self.input)
    }

    /// Hands `record` on to the default output as it is.
    ///
    /// # Errors
    /// As [`Output::write`].
    #[inline]
    pub fn forward(&mut self, record: &Record<'_>) -> Result<()> {
        self.write(record.edit())
    }

    /// The output called `topic`.
    ///
    /// # Errors
    /// When the transform was not deployed with that output; the message names those it has.
    #[inline]
    pub fn to(&mut self, topic: &str) -> Result<OutputTopic<'_>> {
        match self.outputs.topics.iter().position(|t| t.name == topic) {
            Some(index) => Ok(OutputTopic {
                topic: &mut self.outputs.topics[index],
                input: self.input,
            }),
            None => Err(self.unknown(topic)),
        }
    }

    /// The names of the outputs, in the order they were declared.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.outputs.topics.iter().map(|t| t.name.as_str())
    }

    #[cold]
    fn unknown(&self, topic: &str) -> crate::Error {
        let declared: Vec<&str> = self.topics().collect();
        format!(
            "\"{topic}\" is not an output of this transform, which has: {}; declare it in transform.toml, or with --output, and deploy again",
            declared.join(", ")
        )
        .into()
    }
}

impl Outputs {
    /// Outputs called `names`; `None` without any.
    pub(crate) fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Option<Outputs> {
        let topics: Vec<Topic> = names.into_iter().map(|n| Topic::new(n.into())).collect();
        (!topics.is_empty()).then_some(Outputs { topics, turn: 0 })
    }

    /// Runs `transform` on every record of `batches`, in order. A record it refuses leaves nothing behind.
    pub(crate) fn run<'a>(
        &mut self,
        mut transform: impl FnMut(Record<'_>, &mut Output<'_>) -> Result<()>,
        batches: impl Iterator<Item = InputSection<'a>>,
    ) -> Result<Vec<Failure>, &'static str> {
        let mut failures = Vec::new();
        for mut batch in batches {
            for _ in 0..batch.record_count {
                let record = batch.take_record()?;
                self.turn += 1;
                let input = Input {
                    key: record.key,
                    timestamp: record.timestamp,
                    turn: self.turn,
                };
                let mut output = Output {
                    outputs: self,
                    input,
                };
                if let Err(error) = transform(record, &mut output) {
                    self.roll_back();
                    failures.push(Failure {
                        offset: record.offset,
                        message: cut(error.to_string()),
                    });
                }
            }
            if !batch.records.is_empty() {
                return Err("bytes follow a batch's last record");
            }
        }
        Ok(failures)
    }

    #[cold]
    fn roll_back(&mut self) {
        let turn = self.turn;
        self.topics.iter_mut().for_each(|t| t.roll_back(turn));
    }

    /// Reserves room in the default output for about as much as the input has.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.topics[0]
            .open
            .records
            .reserve(bytes.min(SECTION_BYTES_MAX));
    }

    /// Takes what was written: index of the output and section.
    pub(crate) fn take(&mut self) -> Vec<(u32, Section)> {
        let mut sections = Vec::new();
        for (index, topic) in (0u32..).zip(&mut self.topics) {
            topic.close_all(self.turn);
            sections.extend(topic.done.drain(..).map(|section| (index, section)));
        }
        sections
    }
}

impl OutputTopic<'_> {
    /// Writes `record` to this output.
    ///
    /// # Errors
    /// When it is larger than a record may be.
    #[inline]
    pub fn write(&mut self, record: NewRecord<'_>) -> Result<()> {
        self.topic.write(&record, &self.input)
    }

    /// Hands `record` on to this output as it is.
    ///
    /// # Errors
    /// As [`OutputTopic::write`].
    #[inline]
    pub fn forward(&mut self, record: &Record<'_>) -> Result<()> {
        self.write(record.edit())
    }
}

impl Topic {
    fn new(name: String) -> Topic {
        Topic {
            name,
            done: Vec::new(),
            open: Section::default(),
            aside: Vec::new(),
        }
    }

    #[inline]
    fn write(&mut self, record: &NewRecord<'_>, input: &Input<'_>) -> Result<()> {
        let placement = record.placed(input.key);
        if placement != self.open.placement {
            self.change_to(placement, input.turn);
        }
        let timestamp = record.timestamp.unwrap_or(input.timestamp);
        let delta = match timestamp.checked_sub(self.open.base_timestamp) {
            Some(delta) => delta,
            // Too far from the section's first: no difference of timestamps says so, and the broker refuses one that overflows.
            None => {
                self.close(input.turn);
                0
            }
        };
        let mut layout = self.layout(record, delta);
        if layout.total_len() > RECORD_BYTES_MAX {
            return Err("the record is larger than 1 GiB".into());
        }
        if self.open.record_count > 0
            && self.open.records.len() + layout.total_len() > SECTION_BYTES_MAX
        {
            self.close(input.turn);
            layout = self.layout(record, 0);
        }
        let open = &mut self.open;
        open.set_mark(input.turn);
        if open.record_count == 0 {
            open.base_timestamp = timestamp;
            open.max_timestamp = timestamp;
        }
        open.max_timestamp = open.max_timestamp.max(timestamp);
        layout.put(&mut open.records, record);
        open.record_count += 1;
        Ok(())
    }

    /// The lengths of `record` as the next of the open section, `delta` ms after its first; the first is 0 ms after itself.
    #[inline]
    fn layout(&self, record: &NewRecord<'_>, delta: i64) -> Layout {
        let delta = match self.open.record_count {
            0 => 0,
            _ => delta,
        };
        Layout::new(record, delta, self.open.record_count)
    }

    /// Makes `open` the section of `placement`.
    #[cold]
    fn change_to(&mut self, placement: Placement, turn: u64) {
        if self.open.record_count == 0 && self.aside.is_empty() {
            self.open.placement = placement;
            return;
        }
        if let Some(other) = self.aside.iter_mut().find(|s| s.placement == placement) {
            std::mem::swap(&mut self.open, other);
            return;
        }
        if self.aside.len() + 1 >= OPEN_SECTIONS_MAX {
            self.close_all(turn);
        }
        let next = Section {
            placement,
            ..Section::default()
        };
        let previous = std::mem::replace(&mut self.open, next);
        if previous.record_count > 0 {
            self.aside.push(previous);
        }
    }

    /// Ends the open section; one of the same placement follows.
    fn close(&mut self, turn: u64) {
        if self.open.record_count > 0 {
            let next = Section {
                placement: self.open.placement,
                ..Section::default()
            };
            let mut closed = std::mem::replace(&mut self.open, next);
            closed.closed_in = turn;
            self.done.push(closed);
        }
    }

    fn close_all(&mut self, turn: u64) {
        self.close(turn);
        for mut section in self.aside.drain(..) {
            section.closed_in = turn;
            self.done.push(section);
        }
    }

    /// Takes back what the input record `turn` wrote. What it closed stays closed.
    fn roll_back(&mut self, turn: u64) {
        self.open.roll_back(turn);
        self.aside.retain_mut(|s| s.roll_back(turn));
        let closed = self.done.iter().rev().take_while(|s| s.closed_in == turn);
        let first = self.done.len() - closed.count();
        let closed = self.done.split_off(first);
        let kept = closed
            .into_iter()
            .filter_map(|mut s| s.roll_back(turn).then_some(s));
        self.done.extend(kept);
    }
}

impl Section {
    /// Remembers what it holds before the input record `turn` adds to it.
    #[inline]
    fn set_mark(&mut self, turn: u64) {
        if self.mark.turn != turn {
            self.mark = Mark {
                turn,
                bytes: self.records.len(),
                record_count: self.record_count,
                max_timestamp: self.max_timestamp,
            };
        }
    }

    /// Takes back what the input record `turn` added; whether anything is left.
    fn roll_back(&mut self, turn: u64) -> bool {
        let mark = self.mark;
        if mark.turn == turn {
            self.records.truncate(mark.bytes);
            self.record_count = mark.record_count;
            self.max_timestamp = mark.max_timestamp;
        }
        self.record_count > 0
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
        message.truncate(end);
        message.push_str("...");
    }
    message
}
