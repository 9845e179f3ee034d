//! As much of ZooKeeper's protocol as a registry needs: its messages, and a session to send them in.
//! See zookeeper.jute and ZooDefs.java of Apache ZooKeeper.
//!
//! A client of its own, since those that there are set no bound to what a server sends, and connect
//! to a name's addresses as they like.

use crate::net::{ANSWER, Pipe};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

/// Why a call got no answer that can be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection does not work.
    Io(io::Error),
    /// The server refuses, with one of its codes.
    Code(i32),
    /// What it says is not ZooKeeper's protocol.
    Foreign(&'static str),
}

pub(super) const NO_NODE: i32 = -101;
pub(super) const NO_AUTH: i32 = -102;
pub(super) const BAD_VERSION: i32 = -103;
pub(super) const NODE_EXISTS: i32 = -110;
const SESSION_EXPIRED: i32 = -112;
pub(super) const INVALID_ACL: i32 = -114;
pub(super) const AUTH_FAILED: i32 = -115;

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Io(error) => return error.fmt(f),
            Self::Foreign(why) => why,
            Self::Code(NO_NODE) => "node not exists",
            Self::Code(NO_AUTH) => "not authorized",
            Self::Code(BAD_VERSION) => "mismatch version",
            Self::Code(NODE_EXISTS) => "node already exists",
            Self::Code(SESSION_EXPIRED) => "session expired",
            Self::Code(INVALID_ACL) => "invalid acls",
            Self::Code(AUTH_FAILED) => "authentication failed",
            Self::Code(-111) => "node has not empty children",
            Self::Code(-118) => "session moved",
            Self::Code(-119) => "write request is sent to read only server",
            Self::Code(-125) => "exceed path quota",
            Self::Code(-127) => "request was throttled due to server heavy loading",
            Self::Code(code) => return write!(f, "error {code}"),
        };
        f.write_str(text)
    }
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// A node's version, and whose it is.
pub(super) struct Stat {
    pub(super) version: i32,
    /// The session that it ends with; 0 if with none.
    pub(super) ephemeral_owner: i64,
}

/// Who may do something with a node.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Everybody, everything.
    Anyone,
    /// The user that made it, everything.
    Creator,
}

/// A message that is written.
struct Request(Vec<u8>);

impl Request {
    fn new(xid: i32, operation: i32) -> Self {
        Self(Vec::new()).int(xid).int(operation)
    }

    fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bool(mut self, value: bool) -> Self {
        self.0.push(value.into());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        // Nothing here is longer than a path or a record.
        self = self.int(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }
}

/// A message that is read.
struct Reply<'a>(&'a [u8]);

impl<'a> Reply<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(Failure::Foreign("its answer is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn int(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn bool(&mut self) -> Result<bool> {
        self.array().map(|[byte]| byte != 0)
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        // -1 stands for none.
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn stat(&mut self) -> Result<Stat> {
        // czxid, mzxid, ctime and mtime.
        self.take(4 * 8)?;
        let version = self.int()?;
        // cversion and aversion.
        self.take(2 * 4)?;
        let ephemeral_owner = self.long()?;
        // dataLength, numChildren and pzxid.
        self.take(2 * 4 + 8)?;
        Ok(Stat { version, ephemeral_owner })
    }
}

/// A session with one server of an ensemble, over one connection. It is kept alive until it is dropped.
pub(super) struct Session {
    wire: Arc<Mutex<Wire>>,
    pub(super) id: i64,
    /// The server, for people.
    pub(super) place: String,
    pings: AbortHandle,
}

struct Wire {
    stream: Box<dyn Pipe>,
    xid: i32,
    /// So many bytes may still come.
    left: usize,
}

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;
const MULTI_READ: i32 = 22;
const AUTH: i32 = 100;

/// So long at least a session is left alone, whatever the server asks for.
const PAUSE: Duration = Duration::from_millis(500);

/// The numbers of messages that are not counted.
const XID_PING: i32 = -2;
const XID_AUTH: i32 = -4;

impl Wire {
    async fn send(&mut self, Request(message): Request) -> Result<()> {
        let length = i32::try_from(message.len()).unwrap_or(i32::MAX);
        let framed = [&length.to_be_bytes()[..], &message].concat();
        self.stream.write_all(&framed).await?;
        Ok(self.stream.flush().await?)
    }

    async fn receive(&mut self) -> Result<Vec<u8>> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|&length| length <= ANSWER);
        let length = length.ok_or(Failure::Foreign("it does not speak as ZooKeeper does"))?;
        self.left = self.left.checked_sub(length).ok_or(TOO_LONG)?;
        let mut message = Vec::new();
        // Room is made for what has come, not for what is announced.
        (&mut self.stream).take(length as u64).read_to_end(&mut message).await?;
        if message.len() < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(message)
    }

    /// The answer to a message, behind its head.
    async fn answer(&mut self, xid: i32) -> Result<Vec<u8>> {
        let mut message = self.receive().await?;
        let mut head = Reply(&message);
        let (found, _zxid, code) = (head.int()?, head.long()?, head.int()?);
        if found != xid {
            return Err(Failure::Foreign("its answer is to something else"));
        }
        if code != 0 {
            return Err(Failure::Code(code));
        }
        let rest = message.len() - head.0.len();
        message.drain(..rest);
        Ok(message)
    }

    async fn ping(&mut self) -> Result<()> {
        self.send(Request::new(XID_PING, PING)).await?;
        self.left = self.left.max(64);
        self.answer(XID_PING).await.map(drop)
    }
}

const TOO_LONG: Failure = Failure::Foreign("its answer is too long");

impl Drop for Session {
    fn drop(&mut self) {
        self.pings.abort();
    }
}

impl Session {
    /// Begins a session that outlasts its connection for `timeout`, if the server allows that.
    pub(super) async fn open(
        place: &str,
        stream: Box<dyn Pipe>,
        timeout: Duration,
        credentials: Option<&str>,
    ) -> Result<Self> {
        let mut wire = Wire { stream, xid: 0, left: ANSWER };
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // The protocol's version, the last change seen, the session and its password: none.
        let hello = Request(Vec::new()).int(0).long(0).int(millis).long(0).bytes(&[0; 16]);
        wire.send(hello.bool(false)).await?;
        let message = wire.receive().await?;
        let mut reply = Reply(&message);
        let (version, granted, id) = (reply.int()?, reply.int()?, reply.long()?);
        let password = reply.bytes()?.len();
        if version != 0 || password != 16 {
            return Err(Failure::Foreign("it does not speak as ZooKeeper does"));
        }
        let granted = u64::try_from(granted).ok().filter(|&granted| granted > 0);
        let granted = Duration::from_millis(granted.ok_or(Failure::Code(SESSION_EXPIRED))?);
        if let Some(credentials) = credentials {
            let auth = Request::new(XID_AUTH, AUTH).int(0).text("digest");
            wire.send(auth.bytes(credentials.as_bytes())).await?;
            wire.answer(XID_AUTH).await?;
        }
        let pause = (granted / 3).max(PAUSE);
        let wire = Arc::new(Mutex::new(wire));
        let of_pings = Arc::clone(&wire);
        let pings = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                // The next call finds out what is the matter.
                let mut wire = of_pings.lock().await;
                let answer = tokio::time::timeout(pause, wire.ping()).await;
                if !matches!(answer, Ok(Ok(()))) {
                    let _ = wire.stream.shutdown().await;
                    return;
                }
            }
        });
        Ok(Self { wire, id, place: place.to_owned(), pings: pings.abort_handle() })
    }

    async fn call(&self, operation: i32, fill: impl FnOnce(Request) -> Request) -> Result<Vec<u8>> {
        let mut wire = self.wire.lock().await;
        wire.xid = wire.xid.wrapping_add(1).max(1);
        let xid = wire.xid;
        wire.send(fill(Request::new(xid, operation))).await?;
        wire.answer(xid).await
    }

    /// From now on, as much may come as for one call.
    pub(super) async fn begin(&self) {
        self.wire.lock().await.left = ANSWER;
    }

    pub(super) async fn create(
        &self,
        path: &str,
        data: &[u8],
        access: Access,
        ephemeral: bool,
    ) -> Result<()> {
        const ALL: i32 = 31;
        let (scheme, id) = match access {
            Access::Anyone => ("world", "anyone"),
            Access::Creator => ("auth", ""),
        };
        let fill = |request: Request| {
            let request = request.text(path).bytes(data).int(1).int(ALL).text(scheme).text(id);
            request.int(ephemeral.into())
        };
        self.call(CREATE, fill).await.map(drop)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        const ANY_VERSION: i32 = -1;
        self.call(DELETE, |request| request.text(path).int(ANY_VERSION)).await.map(drop)
    }

    pub(super) async fn exists(&self, path: &str) -> Result<Stat> {
        let reply = self.call(EXISTS, |request| request.text(path).bool(false)).await?;
        Reply(&reply).stat()
    }

    pub(super) async fn data(&self, path: &str) -> Result<(Vec<u8>, Stat)> {
        let reply = self.call(GET_DATA, |request| request.text(path).bool(false)).await?;
        let mut reply = Reply(&reply);
        Ok((reply.bytes()?.to_vec(), reply.stat()?))
    }

    pub(super) async fn set_data(&self, path: &str, data: &[u8], version: i32) -> Result<()> {
        let fill = |request: Request| request.text(path).bytes(data).int(version);
        self.call(SET_DATA, fill).await.map(drop)
    }

    /// Does something with the name of each child.
    pub(super) async fn children(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> std::result::Result<(), crate::Error>,
    ) -> Result<std::result::Result<(), crate::Error>> {
        let reply = self.call(GET_CHILDREN, |request| request.text(path).bool(false)).await?;
        let mut reply = Reply(&reply);
        for _ in 0..reply.int()? {
            let name = std::str::from_utf8(reply.bytes()?);
            let name = name.map_err(|_| Failure::Foreign("a name in its answer is not UTF-8"))?;
            if let Err(error) = each(name) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// The data of several nodes at once; nothing for one that is not there.
    pub(super) async fn data_of(&self, paths: &[String]) -> Result<Vec<Option<(Vec<u8>, Stat)>>> {
        const END: i32 = -1;
        let fill = |request: Request| {
            let each = |request: Request, path: &String| {
                request.int(GET_DATA).bool(false).int(-1).text(path).bool(false)
            };
            paths.iter().fold(request, each).int(END).bool(true).int(-1)
        };
        let reply = self.call(MULTI_READ, fill).await?;
        let mut reply = Reply(&reply);
        let mut found = Vec::new();
        for _ in paths {
            let (operation, _done, _code) = (reply.int()?, reply.bool()?, reply.int()?);
            found.push(match operation {
                GET_DATA => Some((reply.bytes()?.to_vec(), reply.stat()?)),
                END => match reply.int()? {
                    NO_NODE => None,
                    code => return Err(Failure::Code(code)),
                },
                _ => return Err(Failure::Foreign("its answer is to something else")),
            });
        }
        Ok(found)
    }
}
