use std::{
    env, io,
    net::SocketAddr,
    process::{Command, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{harness::DEADLINE, usage::Usage};

/// This program once more, in another part, so that what it uses is its own. Ended when this is
/// dropped.
pub struct Child {
    process: std::process::Child,
    pub control: Control,
}

/// Lines between a child and its parent. It ends when one of them does.
pub struct Control {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Child {
    /// Starts the part of this name, which is given the address of its control first.
    pub async fn start(part: &str, arguments: &[String]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut command = Command::new(env::current_exe()?);
        command.arg(part).arg(listener.local_addr()?.to_string()).args(arguments);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let (stream, _) = timeout(DEADLINE, listener.accept()).await??;
        Ok(Self { process, control: Control::over(stream)? })
    }

    /// What it uses, whenever that is called.
    pub fn usage(&self) -> impl Fn() -> Usage + use<> {
        let id = self.process.id();
        move || Usage::of(&[id])
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Control {
    /// The child's end.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { lines: BufReader::new(reader).lines(), writer })
    }

    pub async fn say(&mut self, line: impl ToString) -> io::Result<()> {
        self.writer.write_all(format!("{}\n", line.to_string()).as_bytes()).await
    }

    /// The next line. If this is dropped, nothing is lost.
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn heard(&mut self) -> io::Result<String> {
        let line = self.lines.next_line().await?;
        line.ok_or_else(|| io::Error::other("a process that takes part has ended"))
    }

    /// Waits for this line and passes others over.
    pub async fn hear(&mut self, wanted: impl ToString) -> io::Result<()> {
        let wanted = wanted.to_string();
        let heard = async {
            while self.heard().await? != wanted {}
            io::Result::Ok(())
        };
        let late = |_| io::Error::other(format!("a process never said `{wanted}`"));
        timeout(DEADLINE, heard).await.map_err(late)?
    }

    /// Returns when the other end is gone.
    pub async fn closed(mut self) {
        while self.heard().await.is_ok() {}
    }
}
