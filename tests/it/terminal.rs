//! A terminal that a test sits at: a real one to the program, and a screen that can be read.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pty_process::blocking::Pty;
use rustix::termios::{LocalModes, tcgetattr};

use crate::stage::{PATIENCE, Stage};

/// Columns of the screen.
const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();
/// Lines of the screen: enough for whole dialogues, so that nothing scrolls away.
const LINES: NonZeroU16 = NonZeroU16::new(200).unwrap();
/// Ctrl-C.
pub const INTERRUPT: &str = "\u{3}";

/// A terminal with one program on it.
pub struct Terminal {
    keyboard: Pty,
    child: Child,
    bytes: Receiver<Vec<u8>>,
    emulator: vt100::Parser,
    /// Everything that came, escapes included.
    pub raw: String,
    /// Bytes of `raw` that were waited for already.
    seen: usize,
}

impl Terminal {
    /// Starts the program at a terminal, in the stage's directory, with these variables more in its environment.
    pub fn open(stage: &Stage, arguments: &[&str], environment: &[(&str, &str)]) -> Terminal {
        let (keyboard, screen) = pty_process::blocking::open().unwrap();
        keyboard.resize(pty_process::Size::new(LINES.get(), COLUMNS.get())).unwrap();
        let mut command = stage.command_here(arguments);
        // Each of them speaks of colours, and `CI` says that even a dumb terminal shows them.
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM", "CI"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color").envs(environment.iter().copied());
        let child = pty_process::blocking::Command::from(command).spawn(screen).unwrap();
        let (send, bytes) = channel();
        let mut reader = std::fs::File::from(std::os::fd::AsFd::as_fd(&keyboard).try_clone_to_owned().unwrap());
        // It ends with an error when the program is gone.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let emulator = vt100::Parser::new(LINES, COLUMNS, 0);
        Terminal { keyboard, child, bytes, emulator, raw: String::new(), seen: 0 }
    }

    /// Waits until the program says this, behind what was waited for before.
    pub fn reads(&mut self, words: &str) {
        let began = Instant::now();
        loop {
            if let Some(at) = self.raw[self.seen..].find(words) {
                self.seen += at + words.len();
                return;
            }
            assert!(self.takes(began), "it does not say {words:?}:\n{}", self.screen());
        }
    }

    /// Waits until the program listens to keys: what is typed earlier the terminal shows by itself.
    pub fn listens(&mut self) {
        let began = Instant::now();
        while tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO) {
            assert!(began.elapsed() < PATIENCE, "it does not listen:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types.
    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a question and answers it.
    pub fn answers(&mut self, question: &str, answer: &str) {
        self.reads(question);
        self.listens();
        self.types(&format!("{answer}\r"));
    }

    /// Waits for the offer to keep a bad answer, and declines.
    pub fn keeps_nothing(&mut self) {
        self.reads("Keep the answer all the same?");
        self.listens();
        self.types("n");
    }

    /// Waits for the end of the program, and gives its exit code.
    pub fn ends(&mut self) -> i32 {
        let began = Instant::now();
        while self.takes(began) {}
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// What a person sees, without blanks at the ends of lines.
    pub fn screen(&self) -> String {
        self.emulator.screen().contents()
    }

    /// Takes what comes next; false at the end.
    fn takes(&mut self, began: Instant) -> bool {
        match self.bytes.recv_timeout(Duration::from_millis(200)) {
            Ok(bytes) => {
                self.emulator.process(&bytes);
                self.raw.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(RecvTimeoutError::Timeout) => {
                assert!(began.elapsed() < PATIENCE, "it says nothing more:\n{}", self.screen());
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
