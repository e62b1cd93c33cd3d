//! Policies in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::policy::{Policy, PolicyFilter, SecurityGroup, Tag, TagNumber, TaggedPolicy};

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No tag.
    #[error("no free tag")]
    NoFreeTag,
    /// Another kind.
    #[error("the tag has another type")]
    TagType,
    /// Down.
    #[error("down")]
    Down,
}

/// How.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// URL.
    pub url: String,
    /// Connections.
    pub max_connections: u32,
    /// Bits.
    pub tag_bits: u8,
    /// Quarantine.
    pub tag_quarantine: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    policies: Vec<Policy>,
    tags: BTreeMap<u32, (String, String)>,
    groups: Vec<SecurityGroup>,
    generation: i64,
    groups_generation: i64,
}

/// The store.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Mutex<Inner>>,
    changes: Arc<watch::Sender<i64>>,
}

impl Inner {
    fn tag(&mut self, id: &str, kind: &str) -> Result<u32, DatabaseError> {
        if let Some((number, (_, known))) = self.tags.iter().find(|(_, (own, _))| own == id) {
            return if known == kind { Ok(*number) } else { Err(DatabaseError::TagType) };
        }
        let number =
            (1..=65535).find(|n| !self.tags.contains_key(n)).ok_or(DatabaseError::NoFreeTag)?;
        self.tags.insert(number, (id.into(), kind.into()));
        Ok(number)
    }
}

#[expect(missing_docs, clippy::unused_async, reason = "interim")]
impl Database {
    pub async fn open(_settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        let inner = Inner { generation: 1, groups_generation: 1, ..Inner::default() };
        Ok(Self { inner: Arc::new(Mutex::new(inner)), changes: Arc::new(watch::Sender::new(1)) })
    }
    pub async fn check(&self) -> Result<(), DatabaseError> {
        Ok(())
    }
    pub async fn create_policies(&self, policies: &[Policy]) -> Result<(), DatabaseError> {
        let mut inner = self.inner.lock();
        for policy in policies {
            inner.tag(&policy.source, "app")?;
            inner.tag(&policy.destination, "app")?;
            if !inner.policies.contains(policy) {
                inner.policies.push(policy.clone());
            }
        }
        inner.generation += 1;
        self.changes.send_replace(inner.generation);
        Ok(())
    }
    pub async fn delete_policies(&self, policies: &[Policy]) -> Result<(), DatabaseError> {
        let mut inner = self.inner.lock();
        inner.policies.retain(|policy| !policies.contains(policy));
        inner.generation += 1;
        self.changes.send_replace(inner.generation);
        Ok(())
    }
    pub async fn policies(
        &self,
        filter: &PolicyFilter,
    ) -> Result<Vec<TaggedPolicy>, DatabaseError> {
        let mut inner = self.inner.lock();
        let fits = |policy: &Policy| match filter {
            PolicyFilter::All => true,
            PolicyFilter::Either(ids) => {
                ids.contains(&policy.source) || ids.contains(&policy.destination)
            }
            PolicyFilter::Source(ids) => ids.contains(&policy.source),
            PolicyFilter::Destination(ids) => ids.contains(&policy.destination),
            PolicyFilter::Both(from, to) => {
                from.contains(&policy.source) && to.contains(&policy.destination)
            }
        };
        let found: Vec<Policy> = inner.policies.iter().filter(|p| fits(p)).cloned().collect();
        found
            .into_iter()
            .map(|policy| {
                Ok(TaggedPolicy {
                    source_tag: TagNumber(inner.tag(&policy.source, "app")?),
                    destination_tag: TagNumber(inner.tag(&policy.destination, "app")?),
                    policy,
                })
            })
            .collect()
    }
    pub async fn policy_count_by_source(
        &self,
        apps: &[String],
    ) -> Result<HashMap<String, u64>, DatabaseError> {
        let inner = self.inner.lock();
        let mut counts = HashMap::new();
        for policy in inner.policies.iter().filter(|p| apps.contains(&p.source)) {
            *counts.entry(policy.source.clone()).or_default() += 1;
        }
        Ok(counts)
    }
    pub async fn tags(&self) -> Result<Vec<Tag>, DatabaseError> {
        let inner = self.inner.lock();
        Ok(inner
            .tags
            .iter()
            .map(|(n, (id, kind))| Tag {
                number: TagNumber(*n),
                id: id.clone(),
                kind: kind.clone(),
            })
            .collect())
    }
    pub async fn create_tag(&self, id: &str, kind: &str) -> Result<Tag, DatabaseError> {
        let number = self.inner.lock().tag(id, kind)?;
        Ok(Tag { number: TagNumber(number), id: id.into(), kind: kind.into() })
    }
    pub async fn last_updated(&self) -> Result<i64, DatabaseError> {
        Ok(self.inner.lock().generation)
    }
    pub async fn security_groups_last_updated(&self) -> Result<i64, DatabaseError> {
        Ok(self.inner.lock().groups_generation)
    }
    pub async fn replace_security_groups(
        &self,
        groups: &[SecurityGroup],
    ) -> Result<bool, DatabaseError> {
        let mut inner = self.inner.lock();
        let numbered: Vec<SecurityGroup> =
            groups.iter().zip(1..).map(|(g, row)| SecurityGroup { row, ..g.clone() }).collect();
        let changed = inner.groups != numbered;
        inner.groups = numbered;
        inner.groups_generation += i64::from(changed);
        Ok(changed)
    }
    pub async fn security_groups(
        &self,
        spaces: &[String],
        from: i64,
        limit: i64,
    ) -> Result<(Vec<SecurityGroup>, i64), DatabaseError> {
        let inner = self.inner.lock();
        let bound = |list: &[String]| list.iter().any(|s| spaces.contains(s));
        let mut found: Vec<SecurityGroup> = inner
            .groups
            .iter()
            .filter(|g| {
                g.row >= from
                    && (g.running_default
                        || g.staging_default
                        || bound(&g.running_spaces)
                        || bound(&g.staging_spaces))
            })
            .cloned()
            .collect();
        let next = if limit > 0 { found.get(limit as usize).map_or(0, |g| g.row) } else { 0 };
        if limit > 0 {
            found.truncate(limit as usize);
        }
        Ok((found, next))
    }
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changes.subscribe()
    }
    pub async fn try_lead(&self, _name: &str, _hold: Duration) -> Result<bool, DatabaseError> {
        Ok(true)
    }
}
