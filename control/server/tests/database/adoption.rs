//! A database that Cloud Foundry's servers have used (contract sections 3.1, 4.6 and 16.1).

use std::time::Duration;

use sarcenet_server::database::Database;
use sqlx::{AnyConnection, Connection};

use crate::world::{World, lease, listed, policy, tags};

const POLICIES: &str = r#"
    CREATE TABLE "groups" (id SERIAL PRIMARY KEY, guid TEXT UNIQUE, type TEXT DEFAULT 'app');
    CREATE TABLE destinations (id SERIAL PRIMARY KEY, group_id INT REFERENCES "groups" (id),
        port INT, start_port INT, end_port INT, protocol TEXT,
        UNIQUE (group_id, start_port, end_port, protocol));
    CREATE TABLE policies (id SERIAL PRIMARY KEY, group_id INT REFERENCES "groups" (id),
        destination_id INT REFERENCES destinations (id), UNIQUE (group_id, destination_id));
    INSERT INTO "groups" (guid, type) SELECT NULL, NULL FROM generate_series(1, 300);
    UPDATE "groups" SET guid = 'a', type = 'app' WHERE id = 2;
    UPDATE "groups" SET guid = 'b', type = 'app' WHERE id = 4;
    UPDATE "groups" SET guid = 'INGRESS_ROUTER', type = 'router' WHERE id = 5;
    INSERT INTO destinations (group_id, port, start_port, end_port, protocol)
        VALUES (4, 8080, 8080, 8080, 'tcp'), (2, 0, 7000, 8000, 'udp');
    INSERT INTO policies (group_id, destination_id) VALUES (2, 1), (2, 2), (4, 2);
"#;

const GROUPS: &str = r#"
    CREATE TABLE security_groups (id BIGSERIAL PRIMARY KEY, guid VARCHAR(36) UNIQUE,
        name VARCHAR(255), rules TEXT, staging_default BOOLEAN, running_default BOOLEAN,
        staging_spaces JSONB, running_spaces JSONB);
    INSERT INTO security_groups
        (guid, name, rules, staging_default, running_default, staging_spaces, running_spaces)
        VALUES ('G1', 'public', '[{"protocol":"all"}]', TRUE, FALSE, '[]', NULL),
            ('G2', 'bound', '[]', FALSE, FALSE, '["S3"]', '["S2", "S1"]');
"#;

const JOINED: &str = r"
    ALTER TABLE security_groups DROP COLUMN staging_spaces, DROP COLUMN running_spaces;
    CREATE TABLE running_security_groups_spaces (security_group_guid TEXT, space_guid TEXT);
    CREATE TABLE staging_security_groups_spaces (security_group_guid TEXT, space_guid TEXT);
    INSERT INTO running_security_groups_spaces VALUES ('G2', 'S1'), ('G2', 'S2'), ('gone', 'S1');
    INSERT INTO staging_security_groups_spaces VALUES ('G2', 'S3');
";

const LEASES: &str = r"
    CREATE TABLE subnets (id SERIAL PRIMARY KEY, underlay_ip VARCHAR(15) UNIQUE,
        overlay_subnet VARCHAR(18) UNIQUE, overlay_hwaddr VARCHAR(17) UNIQUE,
        last_renewed_at BIGINT);
    INSERT INTO subnets (underlay_ip, overlay_subnet, overlay_hwaddr, last_renewed_at) VALUES
        ('10.0.0.1', '10.255.7.0/24', 'ee:ee:0a:ff:07:00', 1699999000),
        ('10.0.0.2', '10.255.0.9/32', 'ee:ee:0a:ff:00:09', 1699990000),
        ('nobody', '', '', 0);
";

/// A database in which others have been with these statements, then opened.
async fn opened_after(statements: &[&'static str]) -> (World, Database) {
    let world = World::postgres();
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&world.url).await.unwrap();
    for sql in statements {
        sqlx::raw_sql(*sql).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let database = world.open().await;
    (world, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_taken_over_once_with_their_tags() {
    let (world, database) = opened_after(&[POLICIES]).await;
    let theirs = ["a(2) a(2) udp 7000-8000", "a(2) b(4) tcp 8080-8080", "b(4) a(2) udp 7000-8000"];
    let mut found = listed(&database).await;
    found.sort();
    assert_eq!(found, theirs);
    assert_eq!(tags(&database).await, ["2 a app", "4 b app", "5 INGRESS_ROUTER router"]);
    // The free numbers between are given out first, then those that follow.
    database.create_policies(&[policy("c", "d", 1), policy("e", "f", 2)]).await.unwrap();
    let all = tags(&database).await;
    assert_eq!(all[0], "1 c app");
    assert_eq!(all[2..4], ["3 d app", "4 b app"]);
    assert_eq!(all[5..], ["6 e app", "7 f app"]);
    // Ours are the only ones from now on.
    database.delete_policies(&[policy("a", "b", 8080)]).await.unwrap();
    let again = world.open().await;
    assert_eq!(listed(&again).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn security_groups_are_taken_over_with_their_spaces() {
    for (statements, running) in
        [(&[GROUPS][..], ["S2", "S1"]), (&[GROUPS, JOINED][..], ["S1", "S2"])]
    {
        let (_world, database) = opened_after(statements).await;
        let spaces = ["S1".to_owned()];
        let (groups, _) = database.security_groups(&spaces, 0, 0).await.unwrap();
        let [public, bound] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!((&*public.guid, &*public.rules), ("G1", r#"[{"protocol":"all"}]"#));
        assert!(public.staging_default && !public.running_default);
        assert!(public.running_spaces.is_empty() && public.staging_spaces.is_empty());
        assert_eq!(
            (&*bound.guid, &bound.running_spaces[..]),
            ("G2", &running.map(String::from)[..])
        );
        assert_eq!(bound.staging_spaces, ["S3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_taken_over_with_their_age() {
    let (_world, database) = opened_after(&[LEASES]).await;
    let theirs = [lease("10.0.0.1", "10.255.7.0/24"), lease("10.0.0.2", "10.255.0.9/32")];
    assert_eq!(database.leases(Duration::from_hours(24)).await.unwrap(), theirs);
    // The tests begin at 1,700,000,000.
    assert_eq!(database.leases(Duration::from_secs(1001)).await.unwrap(), theirs[..1]);
    assert_eq!(database.leases(Duration::from_secs(1000)).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_others_with_the_same_names_are_left_alone() {
    let theirs = "CREATE TABLE policies (id INT, insured TEXT); CREATE TABLE subnets (id INT); \
        CREATE TABLE security_groups (rules TEXT)";
    let (_world, database) = opened_after(&[theirs]).await;
    assert_eq!(database.policy_count().await.unwrap(), 0);
    assert_eq!(database.leases(Duration::from_hours(1)).await.unwrap(), []);
}
