//! Opening: what is refused, what is waited for, and what is made.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sarcenet_server::database::{Clock, Database, DatabaseError, DatabaseSettings};
use sarcenet_test_postgres::Postgres;
use sqlx::{AnyConnection, Connection};

use crate::world::{World, listed, policy, with_both};

with_both!(
    what_was_stored_is_there_when_it_is_opened_again,
    a_database_of_a_newer_release_is_refused,
    the_time_is_the_databases_own,
);

async fn what_was_stored_is_there_when_it_is_opened_again(world: World) {
    let database = world.open().await;
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    let told = database.last_updated().await.unwrap();
    database.close().await;
    assert!(database.check().await.unwrap_err().is_temporary());
    let database = world.open().await;
    assert_eq!(listed(&database).await, ["a(1) b(2) tcp 1-1"]);
    assert_eq!(*database.changes().borrow(), told);
}

async fn execute(url: &str, sql: &'static str) {
    let url = url.replace("a b?.db", "a%20b%3F.db").replace("sqlite:", "sqlite://");
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn a_database_of_a_newer_release_is_refused(world: World) {
    drop(world.open().await);
    let newer = if world.url.starts_with("sqlite") {
        "INSERT INTO versions (version, applied_at) VALUES (77, 0)"
    } else {
        "INSERT INTO sarcenet.versions (version, applied_at) VALUES (77, 0)"
    };
    execute(&world.url, newer).await;
    let refused = Database::open(&world.settings()).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Newer { found: 77, .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("has schema version 77, this program knows versions up to"), "{text}");
}

async fn the_time_is_the_databases_own(world: World) {
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
    // Both run on this machine; SQLite tells milliseconds.
    let before = now() - 1_000_000;
    let database = world.open_with(|settings| settings.clock = Clock::Database).await;
    let opened = database.last_updated().await.unwrap();
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    let changed = database.last_updated().await.unwrap();
    assert!(before <= opened && opened < changed && changed <= now() + 1_000_000);
}

#[tokio::test]
async fn settings_that_name_no_database_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("sqlite:{}", directory.path().join(name).display());
    let other = path("other.db");
    std::fs::write(&other["sqlite:".len()..], "").unwrap();
    sqlx::any::install_default_drivers();
    execute(&other, "CREATE TABLE theirs (a INTEGER)").await;
    for (url, bits, expected) in [
        (path("no/such/directory.db"), 16, "its directory does not exist"),
        (path("a.db"), 0, "a tag has 1 to 24 bits, not 0"),
        (path("a.db"), 25, "a tag has 1 to 24 bits, not 25"),
        (other, 16, "the file is the database of another program"),
        ("mysql://db/x".into(), 16, "write sqlite:PATH or postgres://USER:PASSWORD@HOST"),
    ] {
        let settings = DatabaseSettings { tag_bits: bits, ..DatabaseSettings::new(&url) };
        let refused = Database::open(&settings).await.unwrap_err();
        assert!(matches!(refused, DatabaseError::Settings { .. }), "{url}: {refused:?}");
        assert!(refused.to_string().contains(expected), "{url}: {refused}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let world = World::sqlite();
    let database = world.open().await;
    let many: Vec<_> = (1..2000).map(|port| policy("a", "b", port)).collect();
    database.create_policies(&many).await.unwrap();
    drop(database);
    execute(&world.url, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let path = &world.url["sqlite:".len()..];
    let whole = std::fs::read(path).unwrap();
    let mut torn = whole.clone();
    torn[whole.len() / 4..whole.len() / 2].fill(0x5a);
    for damaged in [b"not a database, but long enough for one".repeat(99), torn] {
        std::fs::write(path, &damaged).unwrap();
        let refused = Database::open(&world.settings()).await.unwrap_err();
        assert!(matches!(refused, DatabaseError::Damaged { .. }), "{refused:?}");
        assert!(
            refused.to_string().contains("open database: the database is damaged"),
            "{refused}"
        );
        assert!(std::fs::read(path).unwrap() == damaged, "the file was changed");
    }
    std::fs::write(path, whole).unwrap();
    assert_eq!(world.open().await.policy_count().await.unwrap(), 1999);
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    let world = World::sqlite();
    let database = world.open().await;
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    for file in std::fs::read_dir(world.directory()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let world = World::at(server.url("postgres"));
    server.kill();
    let mut hasty = world.settings();
    hasty.start_timeout = Duration::from_millis(50);
    let refused = Database::open(&hasty).await.unwrap_err();
    assert!(refused.is_temporary(), "{refused}");

    let settings = world.settings();
    let opening = tokio::spawn(async move { Database::open(&settings).await });
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = server.await.unwrap();
    opening.await.unwrap().unwrap().check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_user_is_refused_at_once() {
    let world = World::postgres();
    let url = world.url.replace("postgres@", "nobody:secret@");
    let refused = Database::open(&DatabaseSettings::new(url)).await.unwrap_err();
    assert!(!refused.is_temporary(), "{refused}");
    assert!(refused.to_string().contains(r#"role "nobody" does not exist"#), "{refused}");
}

/// A certificate for `localhost` with its key, both in PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_verified_by_its_certificate() {
    let (own, key) = certificate();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pem = format!("{own}{key}");
    let starting = tokio::task::spawn_blocking(move || Postgres::start_with_tls(port, &pem));
    let _server = starting.await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours.pem", "other.pem"].map(|name| directory.path().join(name));
    std::fs::write(&ours, own).unwrap();
    std::fs::write(&other, certificate().0).unwrap();
    let open = async |host: &str, mode: &str, ca: &std::path::Path| {
        let (user, ca) = ("postgres", ca.display());
        let url = format!("{user}://{user}@{host}:{port}/{user}?sslmode={mode}&sslrootcert={ca}");
        let start_timeout = Duration::from_secs(20);
        Database::open(&DatabaseSettings { start_timeout, ..DatabaseSettings::new(url) }).await
    };
    let database = open("localhost", "verify-full", &ours).await.unwrap();
    database.create_policies(&[policy("a", "b", 1)]).await.unwrap();
    open("127.0.0.1", "verify-ca", &ours).await.unwrap();
    open("127.0.0.1", "require", &other).await.unwrap();
    for refused in [
        open("localhost", "verify-full", &other).await,
        open("127.0.0.1", "verify-full", &ours).await,
        open("127.0.0.1", "verify-ca", &other).await,
        open("localhost", "verify-full", &directory.path().join("none.pem")).await,
    ] {
        let error = refused.unwrap_err();
        assert!(!error.is_temporary(), "{error}");
    }
}
