//! A PostgreSQL database as the registry: this extension's own functions in it do the work.

use crate::address::{PASSWORD_FILE, Password, refuse_half_a_password};
use crate::error::{Error, root_cause};
use crate::holder::Terms;
use crate::store::{Entry, PATIENCE, Store, share, within};
use crate::tls::{self, Files};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::fmt;
use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where the database is.
#[derive(Clone)]
pub struct PostgresAddress {
    hosts: Vec<Server>,
    tls: Option<Files>,
    password: Option<Password>,
}

/// One of the hosts.
#[derive(Clone)]
struct Server {
    config: Config,
    place: String,
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hosts.iter().map(|server| &server.place)).finish()
    }
}

/// The options for TLS, as libpq calls them.
const FILES: tls::Names = ["sslrootcert", "sslcert", "sslkey"];

impl PostgresAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // The options of libpq for TLS are not the library's.
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut mode = None;
        let mut files = BTreeMap::new();
        let mut file = None;
        let mut others = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sslmode" => mode = Some(value),
                name if FILES.contains(&name) => {
                    files.insert(name.to_owned(), value.into_owned());
                }
                PASSWORD_FILE => file = Some(value),
                // Not in a form's encoding: for the library '+' is no space.
                _ => others.push(format!(
                    "{}={}",
                    utf8_percent_encode(&name, NON_ALPHANUMERIC),
                    utf8_percent_encode(&value, NON_ALPHANUMERIC),
                )),
            }
        }
        let tls = Files::of(FILES, |name| files.get(name).cloned())?;
        match (mode.as_deref(), &tls) {
            (None, _) | (Some("disable"), None) | (Some("verify-full"), Some(_)) => (),
            _ => {
                let modes = "with sslrootcert, sslmode is verify-full; without it, disable";
                return Err(modes.to_owned());
            }
        }
        let (scheme, rest) = base.split_once("://").ok_or("it has no scheme")?;
        refuse_half_a_password(rest)?;
        let (authority, database) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let options = others.join("&");
        // Each by itself: the library gives the second its turn only if the first cannot be
        // connected to, not if it is silent.
        let server = |host| Server::parse(&format!("{scheme}://{user}{host}{database}?{options}"));
        let hosts: Vec<_> = hosts.split(',').map(server).collect::<Result<_, _>>()?;
        let here = hosts.first().and_then(|first| first.config.get_password());
        let here = here.map(|here| String::from_utf8_lossy(here).into_owned());
        // Without either, the server may trust the user, or know it by its certificate.
        let password = match (here, file.as_deref()) {
            (None, None) => None,
            (here, file) => Some(Password::of(here, file)?),
        };
        Ok(Self { hosts, tls, password })
    }

    pub(crate) fn open(self, terms: Terms) -> PostgresStore {
        let seconds = terms.presence().as_secs_f64();
        PostgresStore { address: self, seconds, first: 0, connection: None }
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, String> {
        // Its error can hold the value of an option.
        let parsed: Result<Config, _> = text.parse();
        let mut config = parsed.map_err(|_| "it is not an address of a PostgreSQL database")?;
        config.application_name("snowflake_id lease");
        // A lease that a crash of the registry forgets is no lease. And a statement whose node has
        // given up shall not keep a connection of the registry.
        let options = config.get_options().unwrap_or_default();
        let more = "-c synchronous_commit=on -c client_connection_check_interval=1s";
        config.options(format!("{options} {more}"));
        let port = config.get_ports().first().unwrap_or(&5432);
        let host = match config.get_hosts() {
            [Host::Tcp(name)] => format!("{name}:{port}"),
            [Host::Unix(path)] => format!("{}:{port}", path.display()),
            _ => return Err("it names no host".to_owned()),
        };
        let database = config.get_dbname().unwrap_or_default();
        Ok(Self { place: format!("PostgreSQL at {host}/{database}"), config })
    }
}

/// The functions, called through one connection that is made anew when it broke.
pub struct PostgresStore {
    address: PostgresAddress,
    /// How long an announcement counts.
    seconds: f64,
    /// The host that answered last.
    first: usize,
    connection: Option<Connection>,
}

struct Connection {
    client: Client,
    /// What speaks with the server. By itself, it would wait for an answer also when nobody
    /// else does any more.
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PostgresStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.address.password.as_ref() {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    /// Connects to the first host that lets itself be used.
    async fn connect(&mut self) -> Result<Connection, Error> {
        let hosts = self.address.hosts.len();
        let mut failed = None;
        for turn in 0..hosts {
            self.first = (self.first + usize::from(turn > 0)) % hosts;
            match within(self.place(), share(hosts), self.connect_here()).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| self.refused("the address names no host")))
    }

    async fn connect_here(&self) -> Result<Connection, Error> {
        let PostgresAddress { hosts, tls, password } = &self.address;
        let mut config = hosts[self.first].config.clone();
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = password {
            config.password(password.read().await?);
        }
        let failed = |error| self.error(&error);
        let (client, task) = match tls {
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(connection).abort_handle())
            }
            Some(files) => {
                let tls = MakeRustlsConnect::new(files.read().await?);
                let (client, connection) = config.connect(tls).await.map_err(failed)?;
                (client, tokio::spawn(connection).abort_handle())
            }
        };
        let connection = Connection { client, task };
        let found = "SELECT FROM pg_catalog.pg_extension
             WHERE extname OPERATOR(pg_catalog.=) 'snowflake_id_node'";
        match connection.client.query_opt(found, &[]).await.map_err(failed)? {
            Some(_) => Ok(connection),
            None => Err(self.refused("it is no registry: CREATE EXTENSION snowflake_id_node")),
        }
    }

    /// Calls one of the functions, `what` being the rest of the statement after its schema, which the
    /// extension itself has made.
    async fn call(
        &mut self,
        what: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        // It is put back only if all went well.
        let connection = self.connection.take().filter(|found| !found.client.is_closed());
        let connection = match connection {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let rows = within(self.place(), PATIENCE, async {
            let statement = format!("SELECT * FROM snowflake_id_node.{what}");
            let rows = connection.client.query(&statement, values).await;
            rows.map_err(|error| self.error(&error))
        })
        .await?;
        self.connection = Some(connection);
        Ok(rows)
    }

    fn place(&self) -> &str {
        &self.address.hosts[self.first].place
    }

    fn entry(&self, row: &Row) -> Result<Entry, tokio_postgres::Error> {
        let number: i64 = row.try_get("number")?;
        Ok(Entry {
            number: number.cast_unsigned(),
            revision: row.try_get("revision")?,
            value: row.try_get("record")?,
            alive: row.try_get("alive")?,
            key: format!("number {number} in snowflake_id_node.registry of {}", self.place()),
        })
    }

    fn entries(&self, rows: &[Row]) -> Result<Vec<Entry>, Error> {
        let entries = rows.iter().map(|row| self.entry(row));
        entries.collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }

    fn refused(&self, why: &str) -> Error {
        Error::refused(self.place(), why)
    }

    fn error(&self, error: &tokio_postgres::Error) -> Error {
        let place = self.place();
        // Server's words are no secret, and say more than the library's.
        match error.as_db_error() {
            Some(error) if *error.code() == SqlState::CANNOT_CONNECT_NOW => {
                Error::unreachable(place, error.message())
            }
            Some(error) => Error::refused(place, error.message()),
            None => Error::unreachable(place, root_cause(error)),
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Store for PostgresStore {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let rows = self.call("registry_read()", &[]).await?;
        self.entries(&rows)
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        let rows = self.call("registry_read($1)", &[&number.cast_signed()]).await?;
        Ok(self.entries(&rows)?.pop())
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let values: [&(dyn ToSql + Sync); 3] = [&number.cast_signed(), &revision, &value];
        let rows = self.call("registry_write($1, $2, $3)", &values).await?;
        let written = rows.first().map(|row| row.try_get(0)).transpose();
        Ok(written.map_err(|error| self.error(&error))?.unwrap_or(false))
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        let values: [&(dyn ToSql + Sync); 2] = [&number.cast_signed(), &self.seconds.clone()];
        self.call("registry_announce($1, $2)", &values).await.map(drop)
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        let values: [&(dyn ToSql + Sync); 2] = [&number.cast_signed(), &0.0];
        self.call("registry_announce($1, $2)", &values).await.map(drop)
    }
}
