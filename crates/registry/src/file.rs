//! Files that an address names: what is read of them, and what must hold of them first.

use crate::error::Error;
use crate::words::Words;
use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Its text goes to a registry. So it must be meant to be a password: whoever can change the
    /// address, and names another file of the server's, shall not have it sent.
    Password,
    /// A private key of TLS. It goes nowhere, but must not be open to others.
    Key,
    /// Certificates, which everybody may see.
    Certificates,
}

/// A file that an address names.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// The option that names it. Everybody may see that in an error, and nobody the path.
    pub(crate) option: &'static str,
    path: String,
    care: Care,
    /// Whether a thread reads it.
    busy: Arc<AtomicBool>,
}

/// How long it may take to read a file. One on a disk of the machine's own is read at once.
const PATIENCE: Duration = Duration::from_secs(1);

impl File {
    pub(crate) fn new(option: &'static str, path: &str, care: Care) -> Self {
        Self { option, path: path.to_owned(), care, busy: Arc::default() }
    }

    pub(crate) fn unusable(&self, why: impl std::fmt::Display) -> Error {
        Error::File { option: self.option, why: Words::of(why) }
    }

    /// What is in it now. It is read by a thread of its own, since a file system that hangs can
    /// be waited for, but not interrupted; there is never more than one such thread for a file.
    pub(crate) async fn read(&self) -> Result<Vec<u8>, Error> {
        let hangs = "its file system does not answer";
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(self.unusable(hangs));
        }
        let (path, care, busy) = (self.path.clone(), self.care, Arc::clone(&self.busy));
        let reading = tokio::task::spawn_blocking(move || {
            let content = read(&path, care);
            busy.store(false, Ordering::Release);
            content
        });
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(content)) => content.map_err(|why| self.unusable(why)),
            Ok(Err(_)) => Err(self.unusable("the thread that reads it has failed")),
            Err(_) => Err(self.unusable(hangs)),
        }
    }

    /// A password: the one line that is in it, without its end.
    pub(crate) async fn password(&self) -> Result<String, Error> {
        one_line(self.read().await?).map_err(|why| self.unusable(why))
    }
}

impl Care {
    /// So many bytes at most.
    const fn limit(self) -> u64 {
        match self {
            Self::Password => 1024,
            // The authorities of an operating system are a quarter of that.
            Self::Key | Self::Certificates => 1024 * 1024,
        }
    }

    /// What libpq asks of such files, and of passwords a little more: see the reference.
    fn check(self, found: &Metadata) -> Result<(), String> {
        // Not a FIFO, which would be waited for; nor a device or a directory.
        if !found.is_file() {
            return Err("it is no regular file".to_owned());
        }
        if found.len() > self.limit() {
            return Err(format!("it is larger than {} bytes", self.limit()));
        }
        let mode = found.mode() & 0o7777;
        match self {
            Self::Password if found.uid() != rustix::process::geteuid().as_raw() => {
                Err("it must belong to the user that the server runs as".to_owned())
            }
            Self::Password if mode != 0o600 && mode != 0o400 => {
                Err(format!("its mode is {mode:04o} and must be 0600 or 0400"))
            }
            Self::Key if found.uid() == 0 && mode & 0o037 != 0 => {
                Err(format!("its mode is {mode:04o} and must be 0640 or less"))
            }
            Self::Key if found.uid() != 0 && mode & 0o077 != 0 => {
                Err(format!("its mode is {mode:04o} and must be 0600 or less"))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: &str, care: Care) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| error.to_string();
    // Before it is opened: that alone can do something to a device.
    care.check(&fs::metadata(path).map_err(words)?)?;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = file.map_err(words)?;
    // It may be another one by now.
    care.check(&file.metadata().map_err(words)?)?;
    let mut content = Vec::new();
    file.take(care.limit() + 1).read_to_end(&mut content).map_err(words)?;
    if content.len() as u64 > care.limit() {
        return Err(format!("it is larger than {} bytes", care.limit()));
    }
    Ok(content)
}

fn one_line(content: Vec<u8>) -> Result<String, &'static str> {
    let mut text = String::from_utf8(content).map_err(|_| "it is not UTF-8")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.contains(['\n', '\r']) {
        return Err("it holds more than one line");
    }
    if text.contains(char::is_control) {
        return Err("it holds control characters");
    }
    if text.is_empty() {
        return Err("it holds no password");
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Instant;

    /// A directory that is removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, content: &[u8], mode: u32, care: Care) -> File {
            let path = self.0.join("file");
            let _ = fs::remove_file(&path);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            File::new("option", path.to_str().unwrap(), care)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn unusable(why: &str) -> Error {
        Error::File { option: "option", why: Words::of(why) }
    }

    #[tokio::test]
    async fn a_password_is_one_line() {
        let here = Directory::new("password");
        for (content, password) in [
            (&b"secret"[..], Ok("secret")),
            (b"s:e/c r@et%\n", Ok("s:e/c r@et%")),
            ("gehäim\r\n".as_bytes(), Ok("gehäim")),
            (b"", Err("it holds no password")),
            (b"\n", Err("it holds no password")),
            (b"secret\n\n", Err("it holds more than one line")),
            (b"-----BEGIN\nAAAA\n", Err("it holds more than one line")),
            (b"one\rtwo", Err("it holds more than one line")),
            (b"se\0cret", Err("it holds control characters")),
            (b"\xff", Err("it is not UTF-8")),
            (&[b'a'; 1024], Ok(&*"a".repeat(1024))),
            (&[b'a'; 1025], Err("it is larger than 1024 bytes")),
        ] {
            let read = here.file(content, 0o600, Care::Password).password().await;
            assert_eq!(read, password.map(str::to_owned).map_err(unusable));
        }
    }

    #[tokio::test]
    async fn others_must_not_be_able_to_read_a_secret() {
        let here = Directory::new("modes");
        for mode in [0o600, 0o400] {
            assert!(here.file(b"x", mode, Care::Password).read().await.is_ok());
        }
        for mode in [0o640, 0o604, 0o660, 0o644, 0o700, 0o444] {
            let why = format!("its mode is {mode:04o} and must be 0600 or 0400");
            let read = here.file(b"x", mode, Care::Password).read().await;
            assert_eq!(read, Err(unusable(&why)));
        }
        assert!(here.file(b"x", 0o600, Care::Key).read().await.is_ok());
        assert!(here.file(b"x", 0o666, Care::Key).read().await.is_err());
        assert!(here.file(b"x", 0o666, Care::Certificates).read().await.is_ok());
        // As libpq: where it is root's, its group may read a key.
        let of = |path: &str, mode| {
            let path = here.0.join(path);
            fs::write(&path, b"x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fs::metadata(path).unwrap()
        };
        let root = rustix::process::geteuid().is_root();
        assert_eq!(Care::Key.check(&of("group", 0o640)).is_ok(), root);
        assert!(Care::Key.check(&of("writing group", 0o660)).is_err());
        if root {
            let path = here.0.join("another's");
            fs::write(&path, b"x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let file = File::new("option", path.to_str().unwrap(), Care::Password);
            let why = "it must belong to the user that the server runs as";
            assert_eq!(file.read().await, Err(unusable(why)));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(Care::Key.check(&fs::metadata(&path).unwrap()).is_err());
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_not_waited_for() {
        let here = Directory::new("kinds");
        let fifo = here.0.join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [&*fifo, &*here.0, "/dev/zero".as_ref()] {
            for care in [Care::Password, Care::Key, Care::Certificates] {
                let begun = Instant::now();
                let read = File::new("option", path.to_str().unwrap(), care).read().await;
                assert_eq!(read, Err(unusable("it is no regular file")));
                assert!(begun.elapsed() < PATIENCE);
            }
        }
        let none = File::new("option", "/nowhere/at/all", Care::Key).read().await;
        assert_eq!(none, Err(unusable("No such file or directory (os error 2)")));
    }

    #[tokio::test]
    async fn a_file_that_hangs_holds_up_one_thread() {
        let here = Directory::new("hang");
        let file = here.file(b"secret", 0o600, Care::Password);
        // As if a thread were at it and did not come back.
        file.busy.store(true, Ordering::Release);
        let hangs = Err(unusable("its file system does not answer"));
        assert_eq!(file.clone().password().await, hangs);
        file.busy.store(false, Ordering::Release);
        assert_eq!(file.password().await, Ok("secret".to_owned()));
    }
}
