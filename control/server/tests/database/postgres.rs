//! PostgreSQL servers of the tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection};

/// Keeps a server for as long as its input is open, so also when a test panics or is killed.
/// The server listens on a Unix socket in its own directory, as the user it insists on.
const KEEPER: &str = r#"
set -eu
trap '' INT
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/initdb" ] || { echo "install the package postgresql" >&2; exit 1; }
dir=$(mktemp -d)
cd "$dir"
server=
stop() {
    [ -z "$server" ] || { kill -INT "$server"; wait "$server" || true; }
    rm -rf "$dir"
}
trap stop EXIT
as=
if [ "$(id -u)" = 0 ]; then
    chown postgres: "$dir"
    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
options=listen_addresses=
if [ -n "${CERTIFICATE-}" ]; then
    umask 077
    printf '%s' "$CERTIFICATE" >"$dir/server.pem"
    [ -z "$as" ] || chown postgres: "$dir/server.pem"
    options="listen_addresses=127.0.0.1 -c ssl=on
        -c ssl_cert_file=$dir/server.pem -c ssl_key_file=$dir/server.pem"
fi
$as "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$dir/log"
# One that has ended and was not waited for has no command line any more.
alive() { [ -n "$server" ] && [ -n "$(tr -d '\0' 2>/dev/null <"/proc/$server/cmdline")" ]; }
start() {
    until "$bin/pg_isready" -q -h "$dir"; do
        if ! alive; then
            $as "$bin/postgres" -D "$dir/data" -k "$dir" -c $options -c fsync=off \
                -c max_connections=400 -c shared_buffers=16MB </dev/null >>"$dir/log" 2>&1 &
            server=$!
        fi
        sleep 0.1
    done
}
start
echo "$dir"
while read -r command; do
    case $command in
        kill) { kill -9 "$server"; wait "$server" || true; } 2>/dev/null ;;
        start) start ;;
    esac
    echo "$command"
done
"#;

/// A server that ends when this is dropped.
pub(crate) struct Postgres {
    keeper: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    directory: String,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server.
    pub(crate) fn start() -> Self {
        Self::keep(&mut Command::new("sh"))
    }

    /// Starts a server on a port of the loopback interface that has a certificate; both in `pem`,
    /// with its key.
    pub(crate) fn start_with_tls(port: u16, pem: &str) -> Self {
        Self::keep(Command::new("sh").env("PGPORT", port.to_string()).env("CERTIFICATE", pem))
    }

    fn keep(shell: &mut Command) -> Self {
        let mut keeper = shell
            .args(["-c", KEEPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = keeper.stdin.take();
        let mut answers = BufReader::new(keeper.stdout.take().unwrap());
        let mut directory = String::new();
        answers.read_line(&mut directory).unwrap();
        assert!(directory.ends_with('\n'), "PostgreSQL does not start");
        directory.pop();
        Self { keeper, commands, answers, directory, databases: AtomicU32::new(0) }
    }

    /// The URL of a new database.
    pub(crate) async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&self.url("postgres")).await.unwrap();
        let create = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")));
        create.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }

    /// The URL of a database, whether it is there or not.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.directory)
    }

    /// Kills the server as a crash would, with its connections.
    pub(crate) fn kill(&mut self) {
        self.command("kill");
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        self.command("start");
    }

    fn command(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), command);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.keeper.wait();
    }
}

/// The server that tests share, each with a database of its own. It ends after this program.
pub(crate) static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
