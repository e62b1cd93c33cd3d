//! What Cloud Foundry's servers have left in the same database of PostgreSQL: it is taken over
//! once, when our tables are made beside theirs, so that no cell loses a policy, a security group
//! or a lease when a deployment changes over (contract sections 3.1, 4.6 and 16.1).
//!
//! Theirs stay as they are, and nobody looks at them again.

use sqlx::{AnyConnection, Row};
use tracing::info;

use super::session::statement;

/// Something that can be taken over where these columns are.
struct Part {
    name: &'static str,
    /// Table and column, in the schema `public`.
    columns: &'static [(&'static str, &'static str)],
    sql: &'static str,
}

/// Tags keep their numbers. Between them are rows without an owner: here, too, all numbers up to
/// the last one have a row, and the free ones have been free for long.
const POLICIES: Part = Part {
    name: "policies",
    columns: &[
        ("groups", "guid"),
        ("groups", "type"),
        ("destinations", "start_port"),
        ("destinations", "end_port"),
        ("policies", "destination_id"),
    ],
    sql: "INSERT INTO tags (number, id, kind)
        SELECT id, guid, COALESCE(type, 'app') FROM public.groups WHERE guid IS NOT NULL;
    INSERT INTO tags (number, id, kind, released_at)
        SELECT number, 'nobody ' || number, 'app', 0
        FROM generate_series(1, (SELECT COALESCE(MAX(number), 0) FROM tags)) AS number
        WHERE number NOT IN (SELECT number FROM tags);
    INSERT INTO policies (source, destination, protocol, first_port, last_port)
        SELECT source.number, destination.number, ports.protocol, ports.start_port, ports.end_port
        FROM public.policies AS policy
        JOIN public.destinations AS ports ON ports.id = policy.destination_id
        JOIN tags AS source ON source.number = policy.group_id
        JOIN tags AS destination ON destination.number = ports.group_id
        WHERE ports.protocol IN ('tcp', 'udp')
        ON CONFLICT DO NOTHING",
};

const SECURITY_GROUPS: Part = Part {
    name: "security groups",
    columns: &[("security_groups", "rules"), ("security_groups", "running_default")],
    sql: "INSERT INTO security_groups
            (position, guid, name, rules, staging_default, running_default)
        SELECT id, guid, name, COALESCE(rules, '[]'),
            COALESCE(staging_default, FALSE)::int, COALESCE(running_default, FALSE)::int
        FROM public.security_groups",
};

/// Their spaces in a list of each group, as it was at first.
const LISTED_SPACES: Part = Part {
    name: "spaces of security groups",
    columns: &[("security_groups", "running_spaces"), ("security_groups", "staging_spaces")],
    sql: "INSERT INTO security_group_spaces (security_group, running, position, space)
        SELECT id, running, number, space
        FROM (SELECT id, 1 AS running, running_spaces::jsonb AS spaces FROM public.security_groups
            UNION ALL SELECT id, 0, staging_spaces::jsonb FROM public.security_groups) AS list,
        jsonb_array_elements_text(CASE jsonb_typeof(spaces) WHEN 'array' THEN spaces ELSE '[]' END)
            WITH ORDINALITY AS element (space, number)",
};

/// Their spaces in tables of their own, as it became later.
const JOINED_SPACES: Part = Part {
    name: "spaces of security groups",
    columns: &[
        ("running_security_groups_spaces", "space_guid"),
        ("staging_security_groups_spaces", "space_guid"),
    ],
    sql: "INSERT INTO security_group_spaces (security_group, running, position, space)
        SELECT position, running,
            ROW_NUMBER() OVER (PARTITION BY position, running ORDER BY space_guid), space_guid
        FROM (SELECT security_group_guid, space_guid, 1 AS running
                FROM public.running_security_groups_spaces
            UNION SELECT security_group_guid, space_guid, 0
                FROM public.staging_security_groups_spaces) AS joined
        JOIN security_groups ON guid = security_group_guid",
};

/// What no program has written is left out: it would be in the way of all the others.
const LEASES: Part = Part {
    name: "leases",
    columns: &[("subnets", "underlay_ip"), ("subnets", "overlay_hwaddr")],
    sql: "INSERT INTO leases (underlay, subnet, mac, renewed_at)
        SELECT underlay_ip, overlay_subnet, overlay_hwaddr, last_renewed_at * 1000000000
        FROM public.subnets
        WHERE underlay_ip ~ '^[0-9]+(\\.[0-9]+){3}$'
            AND overlay_subnet ~ '^[0-9]+(\\.[0-9]+){3}/[0-9]+$'
            AND overlay_hwaddr ~ '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$'
        ON CONFLICT DO NOTHING",
};

/// Takes over what is there. Called in the transaction in which our tables are made.
pub(super) async fn adopt(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    POLICIES.adopt(connection).await?;
    if SECURITY_GROUPS.adopt(connection).await? && !JOINED_SPACES.adopt(connection).await? {
        LISTED_SPACES.adopt(connection).await?;
    }
    LEASES.adopt(connection).await?;
    Ok(())
}

impl Part {
    /// Whether it was there.
    async fn adopt(&self, connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        // Shows only what this user may read.
        const THERE: &str = "SELECT COUNT(*) FROM information_schema.columns \
            WHERE table_schema = 'public' AND table_name = $1 AND column_name = $2";
        for (table, column) in self.columns {
            let there = statement(THERE).bind(*table).bind(*column);
            if there.fetch_one(&mut *connection).await?.try_get::<i64, _>(0)? == 0 {
                return Ok(false);
            }
        }
        sqlx::raw_sql(self.sql).execute(connection).await?;
        info!("took over the {} of Cloud Foundry's servers in the same database", self.name);
        Ok(true)
    }
}
