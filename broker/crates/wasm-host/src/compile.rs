//! Compiling in a process of its own, which may take so much memory and time and no more.
//!
//! What a module costs the compiler cannot be told from its size: a function of 100 KB can take gigabytes. The process that holds the
//! data must not pay for that, so it runs its own binary once more, hands it the module through a pipe and takes machine code back.
//!
//! The answer is one byte that says what it is, and then machine code or a message. One that is not there is explained by how the
//! process ended.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::factory::{COMPILE_NICE, COMPILE_STACK_BYTES, ModuleError, new_engine, precompile};
use crate::scan::MODULE_BYTES_MAX;
use crate::sys;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Bytes of an answer that is a message.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// What an answer is.
const CODE: u8 = b'C';
const REFUSED: u8 = b'R';
const UNAVAILABLE: u8 = b'U';
/// How the process ends when it has reached a limit.
const ENDED_BY_MEMORY: i32 = 40;
const ENDED_BY_TIME: i32 = 41;
/// Time by the clock for each second of CPU time: a machine with other work gives it little.
const CLOCK_FACTOR: u32 = 15;
/// How often the process looks at its memory. The kernel hands out some 20 MiB in this time.
const LOOK: Duration = Duration::from_millis(10);
/// Address space beyond the limit of memory: allocators reserve more than they use.
const RESERVED_BYTES: u64 = 2 << 30;

/// What compiling one module may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Resident memory of the process, in bytes.
    pub memory_bytes: u64,
    /// CPU time, rounded up to seconds. By the clock, fifteen times as much.
    pub cpu_time: Duration,
}

impl CompileLimits {
    fn cpu_seconds(&self) -> u64 {
        self.cpu_time.as_millis().div_ceil(1_000) as u64
    }

    fn too_much_memory(&self) -> ModuleError {
        let mib = self.memory_bytes >> 20;
        ModuleError::Costly(format!(
            "more than {mib} MiB of memory; make its largest functions smaller, or raise transforms.compile_memory"
        ))
    }

    fn too_much_time(&self) -> ModuleError {
        let seconds = self.cpu_seconds();
        ModuleError::Costly(format!(
            "more than {seconds} s of CPU time; make its largest functions smaller, or raise transforms.compile_time"
        ))
    }
}

/// The program that compiles, which calls [`compile_for_parent`] with the same limits.
#[derive(Debug, Clone)]
pub struct CompilerProcess {
    /// The program: the same binary that loads the code.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it may take.
    pub limits: CompileLimits,
}

impl CompilerProcess {
    /// Machine code for `wasm`. Blocks until the process has ended.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, ModuleError> {
        let unavailable = |e: io::Error| {
            ModuleError::Unavailable(format!("the process that compiles it cannot be run: {e}"))
        };
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(unavailable)?;
        let mut running = Running(child);
        if let Some(mut input) = running.0.stdin.take() {
            // It reads everything before it writes. How it ended says why it did not read.
            let _ = input.write_all(wasm);
        }
        let mut answer = Vec::new();
        if let Some(output) = running.0.stdout.take() {
            let read = output.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
            read.map_err(unavailable)?;
        }
        let ended = running.0.wait().map_err(unavailable)?;
        self.judge(ended, answer)
    }

    fn judge(&self, ended: ExitStatus, mut answer: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
        let message = |answer: &[u8]| String::from_utf8_lossy(&answer[1..]).into_owned();
        match (ended.code(), ended.signal(), answer.first()) {
            (Some(0), _, Some(&CODE)) => {
                answer.remove(0);
                Ok(answer)
            }
            (Some(0), _, Some(&REFUSED)) => Err(ModuleError::Refused(message(&answer))),
            (Some(0), _, Some(&UNAVAILABLE)) => Err(ModuleError::Unavailable(message(&answer))),
            // An allocation that is refused aborts. SIGKILL comes from the kernel where the machine has no memory left.
            (Some(ENDED_BY_MEMORY), ..) | (_, Some(libc::SIGABRT), _) => {
                Err(self.limits.too_much_memory())
            }
            (_, Some(libc::SIGKILL), _) => Err(ModuleError::Costly(
                "more memory than this machine has left; make its largest functions smaller, or give the machine more".to_owned(),
            )),
            (Some(ENDED_BY_TIME), ..) | (_, Some(libc::SIGXCPU), _) => {
                Err(self.limits.too_much_time())
            }
            _ => Err(ModuleError::Refused(format!("the compiler ended: {ended}"))),
        }
    }
}

/// A process that ends, and leaves nothing behind, when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the process does that [`CompilerProcess`] names: reads a module from standard input, compiles it within `limits`, writes the
/// answer to standard output. It ends with the thread that started it, and is the first to go where memory runs out.
pub fn compile_for_parent(limits: CompileLimits) -> ExitCode {
    sys::end_with_parent();
    sys::set_nice(COMPILE_NICE);
    // Worth a try: it is as well protected as the broker otherwise.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let mut wasm = Vec::new();
    let input = io::stdin()
        .lock()
        .take(MODULE_BYTES_MAX as u64)
        .read_to_end(&mut wasm);
    let answer = match input.and_then(|_| compile_within(limits, wasm)) {
        Ok(answer) => answer,
        Err(e) => message(UNAVAILABLE, &e.to_string()),
    };
    let mut output = io::stdout().lock();
    match output.write_all(&answer).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn compile_within(limits: CompileLimits, wasm: Vec<u8>) -> io::Result<Vec<u8>> {
    sys::limit_cpu(limits.cpu_seconds())?;
    thread::Builder::new().spawn(move || watch(limits))?;
    let compiling = thread::Builder::new()
        .stack_size(COMPILE_STACK_BYTES)
        .spawn(move || compile(limits, &wasm))?;
    let answer = compiling.join();
    Ok(answer.unwrap_or_else(|_| message(REFUSED, "the compiler failed")))
}

fn compile(limits: CompileLimits, wasm: &[u8]) -> Vec<u8> {
    let code = new_engine().and_then(|engine| {
        // The engine's pool is address space without memory, and more than any limit.
        let space = resident_and_reserved().1 + limits.memory_bytes + RESERVED_BYTES;
        sys::limit_address_space(space)
            .map_err(|e| ModuleError::Unavailable(format!("no limit can be set: {e}")))?;
        precompile(&engine, wasm)
    });
    match code {
        Ok(mut code) => {
            code.insert(0, CODE);
            code
        }
        Err(ModuleError::Refused(reason)) => message(REFUSED, &reason),
        Err(ModuleError::Unavailable(reason)) => message(UNAVAILABLE, &reason),
        Err(other) => message(REFUSED, &other.to_string()),
    }
}

fn message(what: u8, text: &str) -> Vec<u8> {
    let mut answer = vec![what];
    answer.extend(text.bytes().take(MESSAGE_BYTES_MAX));
    answer
}

/// Ends the process when it has used up what it may take.
fn watch(limits: CompileLimits) {
    let due = Instant::now() + limits.cpu_time.saturating_mul(CLOCK_FACTOR);
    loop {
        thread::sleep(LOOK);
        if resident_and_reserved().0 > limits.memory_bytes {
            sys::end_at_once(ENDED_BY_MEMORY);
        }
        if Instant::now() > due {
            sys::end_at_once(ENDED_BY_TIME);
        }
    }
}

/// Resident memory and address space of this process, in bytes; 0 where the kernel does not say.
fn resident_and_reserved() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    };
    (of("VmRSS:").unwrap_or(0), of("VmSize:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CompileLimits = CompileLimits {
        memory_bytes: 64 << 20,
        cpu_time: Duration::from_millis(1_500),
    };

    /// What becomes of a process that does what `script` says.
    fn run(script: &str) -> Result<Vec<u8>, ModuleError> {
        let process = CompilerProcess {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            limits: LIMITS,
        };
        process.compile(&[7; 1 << 20])
    }

    #[test]
    fn answer_of_a_process_is_code_or_says_why_there_is_none() {
        assert_eq!(run("cat >/dev/null; printf Ccode"), Ok(b"code".to_vec()));
        let refused = ModuleError::Refused("bad type".into());
        assert_eq!(run("cat >/dev/null; printf 'Rbad type'"), Err(refused));
        let unavailable = ModuleError::Unavailable("no engine".into());
        assert_eq!(run("cat >/dev/null; printf 'Uno engine'"), Err(unavailable));
    }

    #[test]
    fn process_that_ends_without_an_answer_is_explained_by_its_end() {
        for (script, said) in [
            ("exit 40", "64 MiB"),
            ("kill -ABRT $$", "64 MiB"),
            ("kill -KILL $$", "this machine has left"),
            ("exit 41", "2 s"),
            ("kill -XCPU $$", "2 s"),
        ] {
            let error = run(script).unwrap_err();
            assert!(
                matches!(&error, ModuleError::Costly(m) if m.contains(said)),
                "{script}: {error:?}"
            );
        }
        // Code that was cut short is no code.
        for script in [
            "exit 0",
            "printf Chalf; exit 1",
            "kill -SEGV $$",
            "printf X",
        ] {
            let error = run(script).unwrap_err();
            assert!(
                matches!(error, ModuleError::Refused(_)),
                "{script}: {error:?}"
            );
        }
    }

    #[test]
    fn program_that_is_missing_is_said() {
        let process = CompilerProcess {
            program: "/does/not/exist".into(),
            arguments: Vec::new(),
            limits: LIMITS,
        };
        let error = process.compile(b"").unwrap_err();
        assert!(matches!(error, ModuleError::Unavailable(_)), "{error:?}");
    }

    #[test]
    fn memory_of_this_process_is_known() {
        let (resident, reserved) = resident_and_reserved();
        assert!(resident > 1 << 20 && reserved > resident);
    }
}
