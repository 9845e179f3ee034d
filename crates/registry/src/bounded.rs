//! Bounds for what a PostgreSQL server sends: tokio-postgres has none.

use crate::net::ANSWER;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// A stream of PostgreSQL's messages, as they are before they are encrypted. What comes is bounded in
/// bytes and in messages that nobody asked for, for as long as the connection lasts; and in how
/// often the client can be made to say something more.
pub(crate) struct Bounded<S> {
    stream: S,
    bounds: Arc<Bounds>,
    /// The head of a message, as much of it as has come: its kind and its length.
    head: Vec<u8>,
    /// So many bytes of the message are still to come.
    body: usize,
    /// Whether nothing has come yet.
    is_new: bool,
    /// Whether the client has read since it wrote.
    has_read: bool,
}

/// What is left.
pub(crate) struct Bounds {
    bytes: AtomicUsize,
    /// Messages that nobody asked for. The client keeps of some what they say, at ten times the size.
    unasked: AtomicUsize,
    turns: AtomicUsize,
    /// Why the connection was ended, if it was here. The client may see no more than its end.
    ended: OnceLock<&'static str>,
}

/// So many messages that nobody asked for: a server sends some twenty settings at the start.
const UNASKED: usize = 1000;

/// How often a client has to say something more before it is let in.
const TURNS_TO_CONNECT: usize = 8;

const TOO_LONG: &str = "its answer is too long";
const FOREIGN: &str = "it does not speak as PostgreSQL does";

/// A message's kind and length.
const HEAD: usize = 5;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: ANSWER.into(),
            unasked: UNASKED.into(),
            turns: TURNS_TO_CONNECT.into(),
            ended: OnceLock::new(),
        }
    }
}

impl Bounds {
    /// Lets the client make one call.
    pub(crate) fn allow_a_call(&self) {
        self.turns.store(1, Ordering::Relaxed);
    }

    /// Why the connection was ended, if a bound was reached.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        self.ended.get().copied()
    }

    /// Whether the connection should be followed by another one, since an answer may no longer
    /// be as long as it should be allowed to be.
    pub(crate) fn are_near(&self) -> bool {
        let near = |left: &AtomicUsize, all| left.load(Ordering::Relaxed) < all / 2;
        near(&self.bytes, ANSWER) || near(&self.unasked, UNASKED)
    }

    fn end(&self, why: &'static str) -> io::Error {
        let why = self.ended.get_or_init(|| why);
        io::Error::new(io::ErrorKind::InvalidData, *why)
    }

    fn take(&self, left: &AtomicUsize, count: usize, why: &'static str) -> io::Result<()> {
        let more = left.load(Ordering::Relaxed).checked_sub(count).ok_or_else(|| self.end(why))?;
        left.store(more, Ordering::Relaxed);
        Ok(())
    }
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S, bounds: &Arc<Bounds>) -> Self {
        let bounds = Arc::clone(bounds);
        Self { stream, bounds, head: Vec::new(), body: 0, is_new: true, has_read: false }
    }

    /// Looks at what has come.
    fn came(&mut self, mut new: &[u8]) -> io::Result<()> {
        self.bounds.take(&self.bounds.bytes, new.len(), TOO_LONG)?;
        while !new.is_empty() {
            let skipped = new.len().min(self.body);
            self.body -= skipped;
            new = &new[skipped..];
            let taken = new.len().min(HEAD - self.head.len());
            self.head.extend_from_slice(&new[..taken]);
            new = &new[taken..];
            // A start begins with what is asked for, a refusal, or something to be said before.
            if self.is_new && !matches!(self.head.first(), None | Some(b'R' | b'E' | b'N' | b'v')) {
                return Err(self.bounds.end(FOREIGN));
            }
            if let [kind, length @ ..] = &self.head[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                // It counts itself.
                let body = (u32::from_be_bytes(length) as usize).checked_sub(length.len());
                let is_new = std::mem::take(&mut self.is_new);
                let too_long = if is_new { FOREIGN } else { TOO_LONG };
                match body {
                    Some(body) if body <= ANSWER => self.body = body,
                    _ => return Err(self.bounds.end(too_long)),
                }
                // A setting, a notice, a notification.
                if matches!(kind, b'S' | b'N' | b'A') {
                    self.bounds.take(&self.bounds.unasked, 1, TOO_LONG)?;
                }
                self.head.clear();
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        self.has_read |= !new.is_empty();
        Poll::Ready(self.came(new))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The library asks the server for what it does not know of an answer, and again if it
        // does not know something of that.
        if std::mem::take(&mut self.has_read) {
            let why = "its answers ask for one call after the other";
            self.bounds.take(&self.bounds.turns, 1, why)?;
        }
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Bounded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// TLS, with the bounds above it.
pub(crate) struct BoundedTls<T> {
    pub(crate) tls: T,
    pub(crate) bounds: Arc<Bounds>,
}

impl<S, T> TlsConnect<S> for BoundedTls<T>
where
    T: TlsConnect<S>,
    T::Stream: Unpin,
    T::Future: Send + 'static,
{
    type Stream = Bounded<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self { tls, bounds } = self;
        let connected = tls.connect(stream);
        Box::pin(async move { Ok(Bounded::new(connected.await?, &bounds)) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(kind: u8, body: usize) -> Vec<u8> {
        let length = u32::try_from(body + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), &vec![0; body]].concat()
    }

    /// What becomes of pieces of an answer.
    fn came(pieces: &[&[u8]]) -> Result<(), String> {
        let mut stream = Bounded::new((), &Arc::default());
        pieces.iter().try_for_each(|piece| stream.came(piece)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_bounded_however_it_is_cut() {
        let start = message(b'R', 4);
        let settings = |count| message(b'S', 4).repeat(count);
        for (answer, outcome) in [
            (start.clone(), Ok(())),
            ([&start[..], &settings(UNASKED)].concat(), Ok(())),
            ([&start[..], &settings(UNASKED + 1)].concat(), Err(TOO_LONG)),
            ([&start[..], &message(b'D', 4).repeat(UNASKED * 10)].concat(), Ok(())),
            ([&start[..], &message(b'D', ANSWER - 20)].concat(), Ok(())),
            ([&start[..], &message(b'D', ANSWER)].concat(), Err(TOO_LONG)),
            ([&start[..], b"D\x7f\xff\xff\xff"].concat(), Err(TOO_LONG)),
            ([&start[..], b"D\0\0\0\x03"].concat(), Err(TOO_LONG)),
            (b"R\x7f\xff\xff\xff".to_vec(), Err(FOREIGN)),
            (b"HTTP/1.1 200 OK".to_vec(), Err(FOREIGN)),
            (b"220 mail.example".to_vec(), Err(FOREIGN)),
        ] {
            let outcome = outcome.map_err(str::to_owned);
            assert_eq!(came(&[&answer]), outcome);
            if answer.len() < 100_000 {
                assert_eq!(came(&answer.chunks(1).collect::<Vec<_>>()), outcome);
                assert_eq!(came(&answer.chunks(7).collect::<Vec<_>>()), outcome);
            }
        }
    }
}
