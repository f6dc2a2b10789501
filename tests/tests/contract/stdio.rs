//! Output, input and terminals: whole, in order, and without one stream holding up another.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;

use crate::bench::{Bench, bundle::fifo, scenarios};

scenarios! {
    both "stdio::the_output_of_a_short_program_is_whole" => short;
    both "stdio::a_quarter_of_a_gigabyte_arrives_whole" => large;
    both "stdio::stdin_reaches_the_program_and_its_end_too" => stdin;
    both "stdio::a_terminal_is_one_and_can_be_resized" => terminal;
    both "stdio::a_reader_that_does_not_read_holds_up_its_own_stream_only" => blocked;
    both "stdio::a_logging_program_gets_both_streams" => logger;
}

fn pipe(bench: &Bench<'_>, name: &str) -> Result<PathBuf> {
    let path = bench.dir.join(name);
    fifo(&path)?;
    Ok(path)
}

/// Opened for writing as well: the open does not wait for the shim, and no end of file is seen when it is gone.
fn reader(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

/// Fails unless `fifo` holds exactly `text`.
fn expect(fifo: &mut File, text: &str) -> Result<()> {
    let mut seen = vec![0; text.len()];
    fifo.read_exact(&mut seen)?;
    ensure!(seen == text.as_bytes(), "{:?} instead of {text:?}", String::from_utf8_lossy(&seen));
    nix::fcntl::fcntl(&*fifo, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    let more = fifo.read(&mut [0]);
    ensure!(more.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "more came: {more:?}");
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn short(bench: &Bench<'_>) -> Result<()> {
    for round in 0..10 {
        let out = pipe(bench, &format!("out{round}"))?;
        let mut fifo = reader(&out)?;
        let container = bench
            .container(&format!("c{round}"))
            .args(&["sh", "-c", "echo one; echo two"])
            .stdio("", &text(&out), &text(&out))
            .run()?;
        ensure!(container.wait()? == 0, "the program");
        container.delete()?;
        expect(&mut fifo, "one\ntwo\n").context("the output")?;
    }
    Ok(())
}

fn large(bench: &Bench<'_>) -> Result<()> {
    const BYTES: u64 = 256 << 20;
    let out = pipe(bench, "out")?;
    let mut fifo = reader(&out)?;
    let counting = thread::spawn(move || std::io::copy(&mut (&mut fifo).take(BYTES), &mut std::io::sink()));
    let container = bench
        .container("a")
        .args(&["sh", "-c", "read x < /dev/null; head -c 268435456 /dev/zero"])
        .stdio("", &text(&out), &text(&out))
        .run()?;
    ensure!(container.wait()? == 0, "the program");
    container.delete()?;
    let bytes = counting.join().expect("no panic")?;
    ensure!(bytes == BYTES, "{bytes} of {BYTES} bytes came");
    Ok(())
}

fn stdin(bench: &Bench<'_>) -> Result<()> {
    let (input, out) = (pipe(bench, "in")?, pipe(bench, "out")?);
    let mut fifo = reader(&out)?;
    let container =
        bench.container("a").args(&["wc", "-c"]).stdio(&text(&input), &text(&out), &text(&out)).run()?;
    let mut writer = OpenOptions::new().write(true).open(&input)?;
    writer.write_all(&[b'x'; 100_000])?;
    let request = api::CloseIORequest { id: container.id.clone(), stdin: true, ..Default::default() };
    container.shim.order("CloseIO", &request)?;
    drop(writer);
    ensure!(container.wait()? == 0, "the program");
    container.delete()?;
    expect(&mut fifo, "100000\n")
}

fn terminal(bench: &Bench<'_>) -> Result<()> {
    let out = pipe(bench, "out")?;
    let mut fifo = reader(&out)?;
    let script =
        "test -t 0 && test -t 1 && trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let container =
        bench.container("a").args(&["sh", "-c", script]).terminal().stdio("", &text(&out), "").run()?;
    let mut seen = Vec::new();
    let mut until = |word: &str, seen: &mut Vec<u8>| -> Result<()> {
        let mut buffer = [0; 64];
        while !String::from_utf8_lossy(seen).contains(word) {
            let read = fifo.read(&mut buffer)?;
            ensure!(read > 0, "the output ended: {:?}", String::from_utf8_lossy(seen));
            seen.extend_from_slice(&buffer[..read]);
        }
        Ok(())
    };
    until("ready\r\n", &mut seen)?;
    let request =
        api::ResizePtyRequest { id: container.id.clone(), width: 123, height: 45, ..Default::default() };
    container.shim.order("ResizePty", &request)?;
    until("45 123\r\n", &mut seen)?;
    ensure!(container.wait()? == 0, "the program");
    Ok(())
}

fn blocked(bench: &Bench<'_>) -> Result<()> {
    let (out, err) = (pipe(bench, "out")?, pipe(bench, "err")?);
    // Nobody reads it, but it is open.
    let unread = reader(&out)?;
    let mut fifo = reader(&err)?;
    let script = "head -c 1000000 /dev/zero & echo seen >&2; exec sleep 100000";
    let container =
        bench.container("a").args(&["sh", "-c", script]).stdio("", &text(&out), &text(&err)).run()?;
    let mut seen = [0; 5];
    fifo.read_exact(&mut seen)?;
    ensure!(&seen == b"seen\n", "{seen:?}");
    ensure!(container.sh("echo exec")? == "exec\n", "an exec of the same container");
    container.kill(9)?;
    ensure!(container.wait()? == 137, "the exit");
    drop(unread);
    container.delete()?;
    Ok(())
}

fn logger(bench: &Bench<'_>) -> Result<()> {
    let program = bench.dir.join("logger");
    let log = bench.dir.join("logged");
    let script = format!(
        "#!/bin/sh\nexec 5>&-\ncat <&3 >> {0}.out &\ncat <&4 >> {0}.err\nwait\n: > {0}.done\n",
        log.display()
    );
    let draft = program.with_extension("draft");
    fs::write(&draft, script)?;
    fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(&draft, &program)?;
    let uri = format!("binary://{}", program.display());
    let container =
        bench.container("a").args(&["sh", "-c", "echo out; echo err >&2"]).stdio("", &uri, &uri).run()?;
    ensure!(container.wait()? == 0, "the program");
    container.delete()?;
    let file = |end: &str| fs::read_to_string(format!("{}.{end}", log.display())).unwrap_or_default();
    tests::wait::holds("the log to be whole", std::time::Duration::from_secs(10), || {
        Ok(file("out") == "out\n" && file("err") == "err\n")
    })
}
