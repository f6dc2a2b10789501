//! What an agent writes: line by line into the log, the last lines kept for the report of its end.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
    task::JoinHandle,
};

/// How many lines are kept.
const KEPT_LINES: usize = 8;
/// A longer line is shown in pieces.
const MAX_LINE_BYTES: u64 = 1024;
/// How long the report of an end waits for the last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Follows a pipe until its end.
pub struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Logs what comes out of `pipe`, each line marked with `who`.
    ///
    /// # Errors
    /// The descriptor is no pipe that can be waited for.
    pub fn follow(pipe: OwnedFd, who: String) -> io::Result<Self> {
        let receiver = pipe::Receiver::from_owned_fd(pipe)?;
        let lines = Arc::default();
        let reader = tokio::spawn(read(receiver, who, Arc::clone(&lines)));
        Ok(Output { lines, reader })
    }

    /// The last lines, joined by ` | `, once the writer is gone.
    pub async fn tail(self) -> String {
        // A process that the agent left behind may hold the pipe open.
        let _ = tokio::time::timeout(LAST_LINES, self.reader).await;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

async fn read(receiver: pipe::Receiver, who: String, lines: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::with_capacity(1024, receiver);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().filter(|c| !c.is_control()).collect();
        if text.is_empty() {
            continue;
        }
        log::info!("{who}: {text}");
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_no_line_is_endless() {
        let (reader, mut writer) = io::pipe().unwrap();
        let output = Output::follow(reader.into(), "test".into()).unwrap();
        let thread = std::thread::spawn(move || {
            writer.write_all(&[b'x'; 10_000]).unwrap();
            for n in 0..20 {
                writeln!(writer, "\nline {n}\x1b[0m").unwrap();
            }
        });
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        let tail = output.tail().await;
        assert!(tail.ends_with("line 18[0m | line 19[0m"), "{tail}");
        assert_eq!(tail.matches("line").count(), KEPT_LINES);
    }
}
