//! The section `database`, and the pool of connections (contract sections 13.1 and 13.2).

use std::path::Path;
use std::time::Duration;

use sarcenet_server::database::{DatabaseSettings, PostgresServer, PostgresTls};

use super::keys::Keys;

/// How long to wait for a database that is not there (contract section 13.1).
const CONNECTING: Duration = Duration::from_mins(2);

/// How a deployment says how many bytes a tag has.
const TAG_LENGTH: &str = "tag_length";

/// Where the database is. Nothing in it gets a tag: whatever length tags have, they are left alone.
pub(super) fn settings(keys: &mut Keys) -> Option<DatabaseSettings> {
    let most = keys.number("max_open_connections", 0..=10_000).filter(|most| *most > 0);
    let settings = keys.section("database.", section)?;
    let most = most.and_then(|most| u32::try_from(most).ok()).unwrap_or(settings.max_connections);
    Some(DatabaseSettings { max_connections: most.max(2), tag_bits: 24, ..settings })
}

/// Where the database is, and how many bytes the tags in it have.
pub(super) fn with_tags(keys: &mut Keys) -> Option<(DatabaseSettings, u8)> {
    let bytes = match keys.number(TAG_LENGTH, 1..=3) {
        Some(3) => {
            let what = "cannot be 3: the tunnel's header has 16 bits for a tag; use 2, with which \
                        all apps keep the tags that they have";
            keys.wrong(TAG_LENGTH, what);
            None
        }
        bytes => bytes.and_then(|bytes| u8::try_from(bytes).ok()),
    };
    let bytes = bytes.unwrap_or(2);
    Some((DatabaseSettings { tag_bits: 8 * bytes, ..settings(keys)? }, bytes))
}

fn section(keys: &mut Keys) -> Option<DatabaseSettings> {
    let url = match keys.required_text("type")?.as_str() {
        "postgres" => postgres(keys)?.url(),
        "sqlite3" => {
            let file = keys.required_text("database_name")?;
            if !Path::new(&file).is_absolute() {
                keys.wrong("database_name", "must be the absolute path of a file for sqlite3");
                return None;
            }
            format!("sqlite:{file}")
        }
        "mysql" => {
            let what = "cannot be mysql: use postgres, or sqlite3 for a single server; what is in \
                        the old database must be put in again, cells keep their policies meanwhile";
            keys.wrong("type", what);
            return None;
        }
        other => {
            keys.wrong("type", format_args!("must be postgres or sqlite3, not `{other}`"));
            return None;
        }
    };
    let start_timeout = keys.seconds("timeout", CONNECTING);
    Some(DatabaseSettings { start_timeout, ..DatabaseSettings::new(url) })
}

fn postgres(keys: &mut Keys) -> Option<PostgresServer> {
    let host = keys.required_text("host");
    let port = keys.required_number("port", 1..=65535).and_then(|port| u16::try_from(port).ok());
    let user = keys.required_text("user");
    let password = keys.text("password").unwrap_or_default().into();
    let name = keys.required_text("database_name");
    let ca = keys.path("ca_cert");
    let verify_name = !keys.flag("skip_hostname_validation");
    let tls = keys.flag("require_ssl").then_some(PostgresTls { ca, verify_name });
    Some(PostgresServer { host: host?, port: port?, user: user?, password, name: name?, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(database: &str) -> Result<DatabaseSettings, String> {
        let mut keys = Keys::parse(format!("{{\"database\":{database}}}").as_bytes()).unwrap();
        let settings = settings(&mut keys);
        match keys.finish(Path::new("f")) {
            Ok(_) => Ok(settings.unwrap()),
            Err(e) => Err(e.to_string().rsplit("invalid config: ").next().unwrap().to_owned()),
        }
    }

    #[test]
    fn databases_of_all_kinds() {
        let postgres = r#"{"type":"postgres","user":"u","password":"p","host":"db","port":5432,
            "timeout":5,"database_name":"n""#;
        let url = |more: &str| read(&format!("{postgres}{more}}}")).unwrap().url;
        assert_eq!(url(""), "postgres://u:p@db:5432/n?sslmode=disable");
        assert_eq!(
            url(r#","require_ssl":true,"ca_cert":"/ca.crt""#),
            "postgres://u:p@db:5432/n?sslmode=verify-full&sslrootcert=/ca.crt"
        );
        assert_eq!(
            url(r#","require_ssl":true,"skip_hostname_validation":true"#),
            "postgres://u:p@db:5432/n?sslmode=verify-ca"
        );
        let settings = read(&format!("{postgres}}}")).unwrap();
        assert_eq!(settings.start_timeout, Duration::from_secs(5));
        let file = read(r#"{"type":"sqlite3","database_name":"/var/x.db"}"#).unwrap();
        assert_eq!(file.url, "sqlite:/var/x.db");
        for (database, said) in [
            ("null", "database is missing"),
            ("{}", "database.type is missing"),
            (r#"{"type":"mysql"}"#, "database.type cannot be mysql: use postgres, or sqlite3"),
            (r#"{"type":"oracle"}"#, "database.type must be postgres or sqlite3, not `oracle`"),
            (r#"{"type":"sqlite3","database_name":"x"}"#, "database.database_name must be the abs"),
            (
                r#"{"type":"postgres"}"#,
                "database.host is missing; database.port is missing; database.user is missing; \
                 database.database_name is missing",
            ),
        ] {
            let wrong = read(database).unwrap_err();
            assert!(wrong.starts_with(said), "{database}: {wrong}");
        }
    }
}
