//! PostgreSQL servers that tests start for themselves.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

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
while read -r command name; do
    case $command in
        create) "$bin/createdb" -h "$dir" -U postgres -T template0 "$name" || command=failed ;;
        kill) { kill -9 "$server"; wait "$server" || true; } 2>/dev/null ;;
        start) start ;;
    esac
    echo "$command"
done
"#;

/// A server that ends when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    keeper: Child,
    /// None when it has been dropped.
    conversation: Option<Mutex<Conversation>>,
    directory: String,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Conversation {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Postgres {
    /// Starts a server that listens on a Unix socket.
    ///
    /// # Panics
    ///
    /// When there is no PostgreSQL on this machine, or it does not start.
    pub fn start() -> Self {
        Self::keep(&mut Command::new("sh"))
    }

    /// Starts a server that also listens on a port of the loopback interface and has a certificate
    /// there; both in `pem`, with its key.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with_tls(port: u16, pem: &str) -> Self {
        Self::keep(Command::new("sh").env("PGPORT", port.to_string()).env("CERTIFICATE", pem))
    }

    fn keep(shell: &mut Command) -> Self {
        let shell = shell.args(["-c", KEEPER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = shell.spawn().expect("sh runs");
        let commands = keeper.stdin.take().expect("its input is piped");
        let output = keeper.stdout.take().expect("its output is piped");
        let mut conversation = Conversation { commands, answers: BufReader::new(output) };
        let directory = conversation.answer();
        let conversation = Some(Mutex::new(conversation));
        Self { keeper, conversation, directory, databases: AtomicU32::new(0) }
    }

    /// The URL of a new database.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn database(&self) -> String {
        self.url(&self.database_name())
    }

    /// The name of a new database.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn database_name(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.command("create", &name);
        name
    }

    /// The URL of a database, whether it is there or not.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.directory)
    }

    /// The directory of its socket.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Kills the server as a crash would, with its connections.
    ///
    /// # Panics
    ///
    /// When it has not been started.
    pub fn kill(&self) {
        self.command("kill", "");
    }

    /// Starts it again.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&self) {
        self.command("start", "");
    }

    fn command(&self, command: &str, name: &str) {
        let conversation = self.conversation.as_ref().expect("it has not been dropped");
        let mut conversation = conversation.lock();
        writeln!(conversation.commands, "{command} {name}").expect("the keeper listens");
        assert_eq!(conversation.answer(), command, "PostgreSQL does not do it");
    }
}

impl Conversation {
    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the keeper answers in UTF-8");
        assert_eq!(answer.pop(), Some('\n'), "PostgreSQL does not start");
        answer
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.conversation = None;
        let _ = self.keeper.wait();
    }
}

/// The server that the tests of one program share, each with a database of its own. It ends after
/// the program.
pub static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
