//! Where a transform writes: one record section after the other for each declared output.

use crate::Result;
use crate::encode::Layout;
use crate::new_record::NewRecord;
use crate::record::Record;
use crate::section::InputSection;

/// A section ends when the next record would make it larger than this many bytes, so that it fits a batch of Kafka's default
/// `max.message.bytes` (1,048,588).
const SECTION_BYTES_MAX: usize = 900 * 1024;
/// A record may be this large, in bytes; lengths in a section are 32-bit numbers.
const RECORD_BYTES_MAX: usize = 1 << 30;
/// Failures reported for one call carry messages cut to this many bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Where a transform writes. The default output is the first that was declared.
#[derive(Debug)]
pub struct Output {
    topics: Vec<Topic>,
    record_timestamp: i64,
}

/// One of several outputs, from [`Output::to`].
#[derive(Debug)]
pub struct OutputTopic<'o> {
    topic: &'o mut Topic,
    record_timestamp: i64,
}

/// A finished or growing section.
#[derive(Debug, Default)]
pub(crate) struct Section {
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: u32,
    pub(crate) records: Vec<u8>,
}

#[derive(Debug)]
struct Topic {
    name: String,
    done: Vec<Section>,
    open: Section,
    mark: Mark,
}

/// What a topic held when the current record began.
#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    done: usize,
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

impl Output {
    /// Writes `record` to the default output.
    ///
    /// # Errors
    /// When it is larger than a record may be.
    #[inline]
    pub fn write(&mut self, record: NewRecord<'_>) -> Result<()> {
        self.topics[0].write(&record, self.record_timestamp)
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
        match self.topics.iter().position(|t| t.name == topic) {
            Some(index) => Ok(OutputTopic {
                topic: &mut self.topics[index],
                record_timestamp: self.record_timestamp,
            }),
            None => Err(self.unknown(topic)),
        }
    }

    /// The names of the outputs, in the order they were declared.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|t| t.name.as_str())
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

    /// Outputs called `names`; `None` without any.
    pub(crate) fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Option<Output> {
        let topics: Vec<Topic> = names.into_iter().map(|n| Topic::new(n.into())).collect();
        (!topics.is_empty()).then_some(Output {
            topics,
            record_timestamp: 0,
        })
    }

    /// Runs `transform` on every record of `batches`, in order. A record it refuses leaves nothing behind.
    pub(crate) fn run<'a>(
        &mut self,
        mut transform: impl FnMut(Record<'_>, &mut Output) -> Result<()>,
        batches: impl Iterator<Item = InputSection<'a>>,
    ) -> Result<Vec<Failure>, &'static str> {
        let mut failures = Vec::new();
        for mut batch in batches {
            for _ in 0..batch.record_count {
                let record = batch.take_record()?;
                self.begin(record.timestamp);
                if let Err(error) = transform(record, self) {
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

    #[inline]
    fn begin(&mut self, timestamp: i64) {
        self.record_timestamp = timestamp;
        self.topics.iter_mut().for_each(Topic::set_mark);
    }

    #[cold]
    fn roll_back(&mut self) {
        self.topics.iter_mut().for_each(Topic::roll_back);
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
            topic.close();
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
        self.topic.write(&record, self.record_timestamp)
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
            mark: Mark::default(),
        }
    }

    #[inline]
    fn write(&mut self, record: &NewRecord<'_>, record_timestamp: i64) -> Result<()> {
        let timestamp = record.timestamp.unwrap_or(record_timestamp);
        let delta = match timestamp.checked_sub(self.open.base_timestamp) {
            Some(delta) => delta,
            // Too far from the section's first: no difference of timestamps says so, and the broker refuses one that overflows.
            None => {
                self.close();
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
            self.close();
            layout = self.layout(record, 0);
        }
        let open = &mut self.open;
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

    fn close(&mut self) {
        if self.open.record_count > 0 {
            self.done.push(std::mem::take(&mut self.open));
        }
    }

    #[inline]
    fn set_mark(&mut self) {
        self.mark = Mark {
            done: self.done.len(),
            bytes: self.open.records.len(),
            record_count: self.open.record_count,
            max_timestamp: self.open.max_timestamp,
        };
    }

    fn roll_back(&mut self) {
        let mark = self.mark;
        if self.done.len() > mark.done {
            // The section that was open at the mark is the first that was closed since.
            self.open = self.done.swap_remove(mark.done);
            self.done.truncate(mark.done);
        }
        self.open.records.truncate(mark.bytes);
        self.open.record_count = mark.record_count;
        self.open.max_timestamp = mark.max_timestamp;
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
