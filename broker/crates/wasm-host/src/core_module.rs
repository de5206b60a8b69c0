//! A core module at work, as `wit/core-module.md` has it: how a call is laid out in its memory, and how its answer is read.

use wasmtime::{AsContext, Caller, Extern, Linker, Memory, Module, Store, TypedFunc};

use crate::engine::Host;
use crate::instance::ANSWER_BYTES_MAX;
use crate::outcome::{Outcome, Placement, Reported, Section};
use crate::types::{CallError, InputBatch, LogLevel};

/// Version of the page that the host speaks.
const CONTRACT: u32 = 1;
/// Bytes before the first batch of a call.
const CALL_HEADER_BYTES: usize = 12;
/// Bytes before the records of a batch.
const BATCH_HEADER_BYTES: usize = 24;
/// Bytes of a section, or of a failure, without what follows it.
const SECTION_HEADER_BYTES: usize = 32;
const FAILURE_HEADER_BYTES: usize = 12;
/// Bytes of a poll's subscription and of its event (WASI preview 1).
const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
/// Subscriptions of one poll.
const SUBSCRIPTIONS_MAX: u32 = 64;
/// A wait of at most so many ns passes at once: Go's scheduler yields in this way.
const WAIT_NS_MAX: u64 = 1_000_000;
/// WASI's codes.
const SUCCESS: i32 = 0;
const INVALID: i32 = 28;

/// The exports of an instance.
pub(crate) struct CoreInstance {
    memory: Memory,
    reserve: TypedFunc<u32, u32>,
    process: TypedFunc<u32, u64>,
}

impl CoreInstance {
    /// Makes an instance of `module` and initializes it.
    pub(crate) async fn new(
        linker: &Linker<Host>,
        store: &mut Store<Host>,
        module: &Module,
    ) -> wasmtime::Result<CoreInstance> {
        let instance = linker.instantiate_async(&mut *store, module).await?;
        if let Some(Extern::Func(initialize)) = instance.get_export(&mut *store, "_initialize") {
            let initialize = initialize.typed::<(), ()>(&*store)?;
            initialize.call_async(&mut *store, ()).await?;
        }
        let memory = instance
            .get_memory(&mut *store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("it exports no memory"))?;
        Ok(CoreInstance {
            memory,
            reserve: instance.get_typed_func(&mut *store, "tidemill_reserve")?,
            process: instance.get_typed_func(&mut *store, "tidemill_process")?,
        })
    }

    /// One call. The inner error is what the module says, the middle one what is wrong with its answer.
    pub(crate) async fn call(
        &self,
        store: &mut Store<Host>,
        partition: i32,
        batches: &[InputBatch],
    ) -> wasmtime::Result<Result<Result<Outcome, String>, CallError>> {
        let garbage = |reason| Ok(Err(CallError::Garbage(reason)));
        let Ok(size) = u32::try_from(call_bytes(batches)) else {
            return garbage("the call is larger than its memory".to_owned());
        };
        let address = self.reserve.call_async(&mut *store, size).await?;
        let memory = self.memory.data_mut(&mut *store);
        let Some(room) = range(memory.len(), address, size) else {
            return garbage(format!(
                "it reserved {size} bytes at {address}, which is not in its memory of {} bytes",
                memory.len()
            ));
        };
        lay_out(&mut memory[room], partition, batches);
        let answer = self.process.call_async(&mut *store, size).await?;
        let (address, length) = ((answer >> 32) as u32, answer as u32);
        let memory = self.memory.data(&*store);
        let Some(room) = range(memory.len(), address, length) else {
            return garbage(format!(
                "its answer, {length} bytes at {address}, is not in its memory of {} bytes",
                memory.len()
            ));
        };
        if room.len() > ANSWER_BYTES_MAX {
            return Ok(Err(CallError::TooMuch(format!(
                "an answer of {length} bytes, the limit is {ANSWER_BYTES_MAX}"
            ))));
        }
        Ok(parse_answer(&memory[room]).map_err(CallError::Garbage))
    }
}

fn range(memory: usize, address: u32, length: u32) -> Option<std::ops::Range<usize>> {
    let (from, length) = (address as usize, length as usize);
    let to = from.checked_add(length)?;
    (to <= memory).then_some(from..to)
}

/// Bytes that a call with these batches takes.
pub(crate) fn call_bytes(batches: &[InputBatch]) -> usize {
    let batch = |b: &InputBatch| BATCH_HEADER_BYTES + b.records.len();
    CALL_HEADER_BYTES + batches.iter().map(batch).sum::<usize>()
}

/// Writes the call into `room`, which has [`call_bytes`].
pub(crate) fn lay_out(mut room: &mut [u8], partition: i32, batches: &[InputBatch]) {
    let mut put = |bytes: &[u8]| {
        let (front, rest) = std::mem::take(&mut room).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        room = rest;
    };
    put(&CONTRACT.to_le_bytes());
    put(&partition.to_le_bytes());
    put(&(batches.len() as u32).to_le_bytes());
    for batch in batches {
        put(&batch.base_offset.to_le_bytes());
        put(&batch.base_timestamp.to_le_bytes());
        put(&batch.record_count.to_le_bytes());
        put(&(batch.records.len() as u32).to_le_bytes());
        put(&batch.records);
    }
}

/// What is left of an answer.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (front, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("its answer ends too early")?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("so many were asked for"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, String> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of things of which each takes so many bytes at least.
    fn count(&mut self, bytes_min: usize) -> Result<usize, String> {
        let count = self.u32()? as usize;
        match count <= self.0.len() / bytes_min {
            true => Ok(count),
            false => Err(format!(
                "its answer names {count} things and is too short for them"
            )),
        }
    }
}

/// Reads an answer: what the module returned, or its message why there is nothing; else what is wrong with it.
pub(crate) fn parse_answer(answer: &[u8]) -> Result<Result<Outcome, String>, String> {
    let mut reader = Reader(answer);
    match reader.u32()? {
        0 => {}
        1 => return Ok(Err(String::from_utf8_lossy(reader.0).into_owned())),
        other => return Err(format!("its answer begins with {other}")),
    }
    let sections = reader.u32()? as usize;
    let failures = reader.u32()? as usize;
    let least = sections
        .saturating_mul(SECTION_HEADER_BYTES)
        .saturating_add(failures.saturating_mul(FAILURE_HEADER_BYTES));
    if least > reader.0.len() {
        return Err("its answer names more than it holds".to_owned());
    }
    let mut outcome = Outcome::default();
    for _ in 0..sections {
        outcome.outputs.push(section(&mut reader)?);
    }
    for _ in 0..failures {
        let offset = reader.i64()?;
        let length = reader.count(1)?;
        let message = String::from_utf8_lossy(reader.bytes(length)?).into_owned();
        outcome.failures.push(Reported { offset, message });
    }
    match reader.0.len() {
        0 => Ok(Ok(outcome)),
        rest => Err(format!("{rest} bytes follow its answer")),
    }
}

fn section(reader: &mut Reader<'_>) -> Result<Section, String> {
    let output = reader.u32()?;
    let placement = match reader.u32()? as i32 {
        -1 => Placement::ByInput,
        -2 => Placement::ByKey,
        partition => Placement::Partition(
            u32::try_from(partition).map_err(|_| format!("it has no placement {partition}"))?,
        ),
    };
    let base_timestamp = reader.i64()?;
    let max_timestamp = reader.i64()?;
    let record_count = reader.u32()?;
    let length = reader.count(1)?;
    Ok(Section {
        output,
        placement,
        base_timestamp,
        max_timestamp,
        record_count,
        records: reader.bytes(length)?.to_vec(),
    })
}

/// Everything a core module may import: WASI preview 1 without files, sockets, input and waiting, and the log.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_sync(&mut linker, Host::wasi_p1)?;
    linker.func_wrap("tidemill", "log", write_log)?;
    // A guest that sleeps would hold its thread without using CPU time.
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "poll_oneoff", poll)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

fn memory_of(caller: &mut Caller<'_, Host>) -> wasmtime::Result<Memory> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| wasmtime::Error::msg("it exports no memory"))
}

fn write_log(
    mut caller: Caller<'_, Host>,
    level: u32,
    address: u32,
    length: u32,
) -> wasmtime::Result<()> {
    if !caller.data_mut().has_room_for_log() {
        return Ok(());
    }
    let memory = memory_of(&mut caller)?;
    let bytes = memory.data(caller.as_context());
    let Some(room) = range(bytes.len(), address, length) else {
        return Err(wasmtime::Error::msg("a line of log is not in its memory"));
    };
    let message = crate::engine::log_line(&bytes[room]);
    let level = match level {
        0 => LogLevel::Debug,
        1 => LogLevel::Info,
        2 => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    caller.data_mut().keep_line(level, message);
    Ok(())
}

/// Lets the shortest of waits pass at once where that is next to nothing, and refuses to wait otherwise.
fn poll(
    mut caller: Caller<'_, Host>,
    subscriptions: u32,
    events: u32,
    count: u32,
    made: u32,
) -> wasmtime::Result<i32> {
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Ok(INVALID);
    }
    let memory = memory_of(&mut caller)?;
    let bytes = memory.data_mut(&mut caller);
    let shortest = range(bytes.len(), subscriptions, count * SUBSCRIPTION_BYTES)
        .and_then(|room| shortest_wait(&bytes[room]));
    let Some((userdata, _)) = shortest.filter(|(_, ns)| *ns <= WAIT_NS_MAX) else {
        return Err(wasmtime::Error::msg("a transform may not wait (sleep)"));
    };
    let (Some(event), Some(number)) = (
        range(bytes.len(), events, EVENT_BYTES),
        range(bytes.len(), made, 4),
    ) else {
        return Ok(INVALID);
    };
    // A clock has ticked: no error, type 0.
    bytes[event.clone()].fill(0);
    bytes[event.start..event.start + 8].copy_from_slice(&userdata);
    bytes[number].copy_from_slice(&1_u32.to_le_bytes());
    Ok(SUCCESS)
}

/// The subscription to a clock that ends first, and after how many ns; absolute times are taken for long.
fn shortest_wait(subscriptions: &[u8]) -> Option<([u8; 8], u64)> {
    let clocks = subscriptions
        .chunks_exact(SUBSCRIPTION_BYTES as usize)
        .filter(|s| s[8] == 0);
    let waits = clocks.map(|s| {
        let userdata: [u8; 8] = s[..8].try_into().expect("eight bytes");
        let timeout = u64::from_le_bytes(s[24..32].try_into().expect("eight bytes"));
        let absolute = s[40] & 1 == 1;
        (userdata, if absolute { u64::MAX } else { timeout })
    });
    waits.min_by_key(|(_, ns)| *ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with a section of `records` and a failure.
    fn answer(placement: i32, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [0_u32, 1, 1, 3, placement as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(5_i64.to_le_bytes());
        bytes.extend(7_i64.to_le_bytes());
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend((records.len() as u32).to_le_bytes());
        bytes.extend(records);
        bytes.extend(9_i64.to_le_bytes());
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(b"bad");
        bytes
    }

    #[test]
    fn answer_is_read_as_the_page_has_it() {
        let outcome = parse_answer(&answer(-2, b"rr")).unwrap().unwrap();
        let section = &outcome.outputs[0];
        assert_eq!(
            (section.output, section.placement, section.record_count),
            (3, Placement::ByKey, 2)
        );
        assert_eq!((section.base_timestamp, section.max_timestamp), (5, 7));
        assert_eq!(section.records, b"rr");
        assert_eq!(outcome.failures[0].offset, 9);
        assert_eq!(outcome.failures[0].message, "bad");
        assert_eq!(parse_answer(b"\x01\0\0\0no"), Ok(Err("no".to_owned())));
    }

    #[test]
    fn answer_that_is_cut_or_claims_too_much_is_refused() {
        let whole = answer(-1, b"rr");
        for end in 0..whole.len() {
            assert!(parse_answer(&whole[..end]).is_err(), "{end}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(parse_answer(&longer).is_err());
        assert!(parse_answer(&answer(-3, b"")).is_err());
        for at in [0, 4, 8, 40] {
            let mut claims = whole.clone();
            claims[at..at + 4].fill(0xff);
            assert!(parse_answer(&claims).is_err(), "{at}");
        }
    }
}
