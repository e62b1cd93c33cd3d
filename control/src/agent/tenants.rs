//! Whose containers are here, for those who ask servers about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sarcenet_agent_api::{AttachmentId, Tenant};
use tokio::sync::watch;

use super::{Agent, Entry};

/// Longest id of a space in bytes that a server is asked for; Cloud Foundry's have 36.
const LONGEST_ID: usize = 256;

/// Apps and spaces in one reply: as many as surely fit a frame.
const PAGE: usize = 128;

/// The apps and spaces of the containers here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Apps.
    pub apps: BTreeSet<String>,
    /// Spaces.
    pub spaces: BTreeSet<String>,
}

impl Tenants {
    /// Those of these containers.
    pub(super) fn of(containers: &BTreeMap<AttachmentId, Entry>) -> Self {
        let mut tenants = Self::default();
        for Entry { saved, .. } in containers.values() {
            tenants.apps.extend(saved.app.clone());
            let space = saved.terms.metadata.space_id.clone();
            tenants.spaces.extend(space.filter(|id| (1..=LONGEST_ID).contains(&id.len())));
        }
        tenants
    }

    /// Each by itself, in order.
    pub fn list(&self) -> impl Iterator<Item = Tenant> {
        let apps = self.apps.iter().cloned().map(Tenant::App);
        apps.chain(self.spaces.iter().cloned().map(Tenant::Space))
    }
}

impl FromIterator<Tenant> for Tenants {
    fn from_iter<T: IntoIterator<Item = Tenant>>(list: T) -> Self {
        let mut tenants = Self::default();
        for tenant in list {
            match tenant {
                Tenant::App(app) => tenants.apps.insert(app),
                Tenant::Space(space) => tenants.spaces.insert(space),
            };
        }
        tenants
    }
}

impl Agent {
    /// A page of those whose containers are here, and whether there are more.
    pub fn tenants_after(&self, after: Option<&Tenant>) -> (Vec<Tenant>, bool) {
        let tenants = Arc::clone(&self.tenants.borrow());
        let mut left = tenants.list().filter(|tenant| after.is_none_or(|after| tenant > after));
        let page = left.by_ref().take(PAGE).collect();
        (page, left.next().is_some())
    }

    /// Whose containers are here, now and whenever that changes.
    pub fn tenants(&self) -> watch::Receiver<Arc<Tenants>> {
        self.tenants.subscribe()
    }

    /// Tells who wants to know whose `containers` are here.
    pub(super) fn tell_tenants(&self, containers: &BTreeMap<AttachmentId, Entry>) {
        let now = Tenants::of(containers);
        self.tenants.send_if_modified(|tenants| {
            let news = **tenants != now;
            if news {
                *tenants = Arc::new(now);
            }
            news
        });
    }
}
