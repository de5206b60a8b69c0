//! Shows on standard error that something is under way, once it has taken a second.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is over sooner is not shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// A turn of the display on a terminal.
const TURN: Duration = Duration::from_millis(120);
/// Distance of the lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);
/// Columns that the display uses.
const WIDTH: usize = 78;

/// A display; it goes away when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    text: String,
    done: bool,
}

impl Progress {
    /// Says `text`, such as `compiling mask`, while the value lives.
    pub(crate) fn start(text: impl Into<String>) -> Progress {
        let state = Arc::new((
            Mutex::new(State {
                text: text.into(),
                done: false,
            }),
            Condvar::new(),
        ));
        let shared = state.clone();
        // Without a thread there is no display, and that is all there is to it.
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || display(&shared))
            .ok();
        Progress { state, thread }
    }

    /// Says something else from now on.
    pub(crate) fn set(&self, text: impl Into<String>) {
        lock(&self.state.0).text = text.into();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        lock(&self.state.0).done = true;
        self.state.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; the work it showed is not concerned.
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The text is whole at any time, even after a panic elsewhere.
    state
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn display(shared: &(Mutex<State>, Condvar)) {
    let terminal = io::stderr().is_terminal();
    let began = Instant::now();
    let mut wait = PATIENCE;
    let mut turn = 0;
    loop {
        let state = lock(&shared.0);
        let waited = shared
            .1
            .wait_timeout_while(state, wait, |state| !state.done);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.done {
            break;
        }
        show(
            &state.text,
            began.elapsed(),
            if terminal { Some(turn) } else { None },
        );
        wait = if terminal { TURN } else { LINE_EVERY };
        turn += 1;
    }
    if terminal && turn > 0 {
        write_quietly("\r\x1b[K");
    }
}

fn show(text: &str, elapsed: Duration, turn: Option<usize>) {
    let seconds = elapsed.as_secs();
    match turn {
        Some(turn) => {
            let mark = ['|', '/', '-', '\\'][turn % 4];
            let line: String = format!("{mark} {text} ({seconds} s)")
                .chars()
                .take(WIDTH)
                .collect();
            write_quietly(&format!("\r\x1b[K{line}"));
        }
        None => write_quietly(&format!("{text} ({seconds} s)\n")),
    }
}

fn write_quietly(text: &str) {
    // Nobody is there to be told that standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
