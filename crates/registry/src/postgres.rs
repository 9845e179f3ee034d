//! A PostgreSQL database as the registry: this extension's own functions in it do the work.

use crate::address::{Options, PASSWORD_FILE, Password, refuse_half_a_password};
use crate::bounded::{Bounded, BoundedTls, Bounds};
use crate::error::{Error, root_cause};
use crate::net::{Hosts, Pipe, Spot, Target};
use crate::store::{Entry, Store};
use crate::tls::{self, Files};
use crate::words::Words;
use futures_util::TryStreamExt;
use snowflake_core::tenancy::Terms;
use std::fmt;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where the database is.
#[derive(Clone)]
pub struct PostgresAddress {
    servers: Vec<Server>,
    tls: Option<Files>,
    password: Option<Password>,
    /// Whether a standby will not do.
    writable: bool,
}

/// One of the hosts.
#[derive(Clone)]
struct Server {
    config: Config,
    place: String,
    /// As its certificate names it.
    name: String,
    target: Target,
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers.iter().map(|server| &server.place)).finish()
    }
}

/// The options for TLS, as libpq calls them.
const SSL_MODE: &str = "sslmode";
const FILES: tls::Names = ["sslrootcert", "sslcert", "sslkey"];

/// One of several hosts is asked for that takes writes.
const SESSION_ATTRS: &str = "target_session_attrs";

impl PostgresAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // Nothing of the options is the library's: it takes some that mean nothing here.
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let options =
            Options::parse(query, &[FILES[0], FILES[1], FILES[2], SSL_MODE, SESSION_ATTRS])?;
        let tls = Files::of(FILES, |name| options.value(name).map(str::to_owned))?;
        match (options.value(SSL_MODE), &tls) {
            (None, _) | (Some("disable"), None) | (Some("verify-full"), Some(_)) => (),
            _ => {
                let modes = "with sslrootcert, sslmode is verify-full; without it, disable";
                return Err(modes.to_owned());
            }
        }
        let writable = match options.value(SESSION_ATTRS) {
            None | Some("any") => false,
            Some("read-write") => true,
            Some(_) => return Err("target_session_attrs is read-write, or any".to_owned()),
        };
        let (scheme, rest) = base.split_once("://").ok_or("it has no scheme")?;
        refuse_half_a_password(rest)?;
        let (authority, database) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if database.trim_end_matches('/').is_empty() {
            // The server would take the user's name for it.
            return Err("it ends with a database, for example /ids".to_owned());
        }
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let server = |host| Server::parse(&format!("{scheme}://{user}{host}{database}"));
        let servers: Vec<_> = hosts.split(',').map(server).collect::<Result<_, _>>()?;
        let here = servers.first().and_then(|first| first.config.get_password());
        let here = here.map(|here| String::from_utf8_lossy(here).into_owned());
        // Without either, the server may trust the user, or know it by its certificate.
        let password = match (here, options.value(PASSWORD_FILE)) {
            (None, None) => None,
            (here, file) => Some(Password::of(here, file)?),
        };
        Ok(Self { servers, tls, password, writable })
    }

    pub(crate) fn open(self, terms: Terms) -> PostgresStore {
        let seconds = terms.presence().as_secs_f64();
        let hosts = self.servers.iter().map(|server| (server.place.clone(), server.target.clone()));
        PostgresStore { hosts: Hosts::new(hosts), address: self, seconds, connection: None }
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, String> {
        // Its error can hold what is not to be shown.
        let parsed: Result<Config, _> = text.parse();
        let mut config = parsed.map_err(|_| "it is not an address of a PostgreSQL database")?;
        config.application_name("snowflake_id lease");
        // A lease that a crash of the registry forgets is no lease. And a statement whose node has
        // given up shall not keep a connection of the registry.
        // Its warnings shall be heard.
        config.options(
            "-c synchronous_commit=on -c client_connection_check_interval=1s -c client_min_messages=warning",
        );
        let port = *config.get_ports().first().unwrap_or(&5432);
        let (host, name, target) = match config.get_hosts() {
            [Host::Tcp(name)] => {
                (format!("{name}:{port}"), name.clone(), Target::Tcp(name.clone(), port))
            }
            [Host::Unix(path)] => {
                let socket = path.join(format!(".s.PGSQL.{port}"));
                (format!("{}:{port}", path.display()), String::new(), Target::Unix(socket))
            }
            _ => return Err("it names no host".to_owned()),
        };
        let database = config.get_dbname().unwrap_or_default();
        Ok(Self { place: format!("PostgreSQL at {host}/{database}"), config, name, target })
    }
}

/// The functions, called through one connection.
pub struct PostgresStore {
    address: PostgresAddress,
    hosts: Hosts,
    /// How long an announcement counts.
    seconds: f64,
    connection: Option<Connection>,
}

struct Connection {
    client: Client,
    bounds: Arc<Bounds>,
    place: String,
    /// What speaks with the server. By itself, it would wait for an answer also when nobody
    /// else does any more.
    task: AbortHandle,
    heard: Arc<Heard>,
}

/// The server's last warning.
#[derive(Default)]
struct Heard(Mutex<Option<Words>>);

impl Heard {
    fn warning(&self) -> MutexGuard<'_, Option<Words>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Speaks with the server for as long as the connection lasts, and listens for warnings.
async fn listen<S, T>(mut connection: tokio_postgres::Connection<S, T>, heard: Arc<Heard>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && !matches!(
                notice.parsed_severity(),
                Some(Severity::Notice | Severity::Debug | Severity::Info | Severity::Log)
            )
        {
            *heard.warning() = Some(Words::of(notice.message()));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A value, with its type. Both are said with each statement: the library would ask the server.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl PostgresAddress {
    async fn connect(&self, host: usize, spot: &Spot) -> Result<Connection, Error> {
        let Server { config, place, name, .. } = &self.servers[host];
        let mut config = config.clone();
        config.ssl_mode(if self.tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &self.password {
            config.password(password.read().await?);
        }
        let stream = spot.connect().await.map_err(|error| Error::unreachable(place, error))?;
        let (bounds, heard) = (Arc::default(), Arc::<Heard>::default());
        let failed = |error| in_words(place, &error);
        let (client, task) = match &self.tls {
            None => {
                let stream = Bounded::new(stream, &bounds);
                let connected = config.connect_raw(stream, NoTls).await;
                let (client, connection) = connected.map_err(failed)?;
                (client, tokio::spawn(listen(connection, Arc::clone(&heard))).abort_handle())
            }
            Some(files) => {
                let mut tls = MakeRustlsConnect::new(files.read().await?);
                let tls = MakeTlsConnect::<Box<dyn Pipe>>::make_tls_connect(&mut tls, name);
                let tls = tls.map_err(|error| Error::unreachable(place, error))?;
                let tls = BoundedTls { tls, bounds: Arc::clone(&bounds) };
                let (client, connection) = config.connect_raw(stream, tls).await.map_err(failed)?;
                (client, tokio::spawn(listen(connection, Arc::clone(&heard))).abort_handle())
            }
        };
        let connection = Connection { client, bounds, place: place.clone(), task, heard };
        if self.writable {
            let text = |row: Row| row.try_get::<_, String>(0);
            let standby = connection.query("SHOW transaction_read_only", &[], text).await?;
            if standby.first().is_some_and(|on| on == "on") {
                let why = "it is a standby, and the address asks for one that takes writes";
                return Err(Error::refused(&connection.place, why));
            }
        }
        let found = "SELECT FROM pg_catalog.pg_extension
             WHERE extname OPERATOR(pg_catalog.=) 'snowflake_id_node'";
        if connection.query(found, &[], |_| Ok(())).await?.is_empty() {
            let why = "it is no registry: CREATE EXTENSION snowflake_id_node";
            return Err(Error::refused(&connection.place, why));
        }
        Ok(connection)
    }
}

impl Connection {
    /// The rows of a statement, each made at once into what is wanted of it.
    async fn query<T>(
        &self,
        statement: &str,
        values: &[Parameter<'_>],
        of_row: impl Fn(Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, Error> {
        self.bounds.allow_a_call();
        let failed = |error| match self.bounds.ended() {
            Some(why) => Error::no_registry(&self.place, why),
            None => in_words(&self.place, &error),
        };
        let values = values.iter().map(|(value, kind)| (*value, kind.clone()));
        let mut rows = pin!(self.client.query_typed_raw(statement, values).await.map_err(failed)?);
        let mut found = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            found.push(of_row(row).map_err(failed)?);
        }
        Ok(found)
    }
}

impl PostgresStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match &self.address.password {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    async fn announce_for(&mut self, number: u64, seconds: f64) -> Result<(), Error> {
        let values: [Parameter; 2] =
            [(&number.cast_signed(), Type::INT8), (&seconds, Type::FLOAT8)];
        self.call("registry_announce($1, $2)", &values, |_| Ok(())).await.map(drop)
    }

    /// Calls one of the functions, `what` being the rest of the statement after its schema, which the
    /// extension itself has made.
    async fn call<T>(
        &mut self,
        what: &str,
        values: &[Parameter<'_>],
        of_row: impl Fn(Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, Error> {
        let Self { address, hosts, connection, .. } = self;
        connection.take_if(|found| found.client.is_closed() || found.bounds.are_near());
        let (rows, warning) = hosts
            .call(
                connection,
                async |host, spot| address.connect(host, spot).await,
                async |connection| {
                    // That of an earlier statement, or of the connection's beginning.
                    connection.heard.warning().take();
                    let statement = format!("SELECT * FROM snowflake_id_node.{what}");
                    let rows = connection.query(&statement, values, &of_row).await?;
                    Ok((rows, connection.heard.warning().take()))
                },
            )
            .await?;
        // A commit that was told not to wait for its standby any longer succeeds with a warning. It is
        // lost if that standby takes over, and was no commit.
        match warning {
            Some(why) => Err(Error::refused(hosts.last_place(), why)),
            None => Ok(rows),
        }
    }
}

fn entry(row: Row) -> Result<Entry, tokio_postgres::Error> {
    let number: i64 = row.try_get("number")?;
    Ok(Entry {
        number: number.cast_unsigned(),
        revision: row.try_get("revision")?,
        value: row.try_get("record")?,
        alive: row.try_get("alive")?,
    })
}

fn in_words(place: &str, error: &tokio_postgres::Error) -> Error {
    // The server's words are no secret, and say more than the library's.
    match error.as_db_error() {
        Some(error) if *error.code() == SqlState::CANNOT_CONNECT_NOW => {
            return Error::unreachable(place, error.message());
        }
        Some(error) => return Error::refused(place, error.message()),
        None => (),
    }
    let why = root_cause(error);
    // What kind of error it is, the library says to people only.
    let outside = error.to_string();
    let foreign = ["unexpected message", "error parsing", "error deserializing", "invalid column"];
    let mut source = std::error::Error::source(error);
    let io = loop {
        match source.map(|source| (source.downcast_ref::<std::io::Error>(), source.source())) {
            Some((Some(found), _)) => break Some(found.kind()),
            Some((None, next)) => source = next,
            None => break None,
        }
    };
    // A certificate that is not accepted is InvalidData, too.
    let tls = outside.starts_with("error performing TLS");
    if !tls && matches!(io, Some(ErrorKind::InvalidData | ErrorKind::InvalidInput))
        || foreign.iter().any(|foreign| outside.starts_with(foreign))
    {
        return Error::no_registry(place, why);
    }
    Error::unreachable(place, why)
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Store for PostgresStore {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        self.call("registry_read()", &[], entry).await
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        let values: [Parameter; 1] = [(&number.cast_signed(), Type::INT8)];
        Ok(self.call("registry_read($1)", &values, entry).await?.pop())
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let values: [Parameter; 3] =
            [(&number.cast_signed(), Type::INT8), (&revision, Type::INT8), (&value, Type::TEXT)];
        let written = |row: Row| row.try_get(0);
        let rows = self.call("registry_write($1, $2, $3)", &values, written).await?;
        Ok(rows.first().copied().unwrap_or(false))
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        let seconds = self.seconds;
        self.announce_for(number, seconds).await
    }

    fn key(&self, number: u64) -> String {
        format!("number {number} in snowflake_id_node.registry of {}", self.hosts.last_place())
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        self.announce_for(number, 0.0).await
    }
}
