//! What a caller may change and see (contract section 1.3).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tracing::warn;

use crate::access::Caller;
use crate::cloud_controller::{CloudController, CloudControllerError};
use crate::database::Database;
use crate::http::reply::ApiError;
use crate::policy::{Policy, TaggedPolicy};

/// The checks of changes and lists. Admins pass all of them.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) database: Database,
    /// Who knows the spaces; without it there are none, and who may write may write everything.
    pub(super) cloud_controller: Option<Arc<CloudController>>,
    /// Most policies with one app as their source, for callers who are no admins.
    pub(super) quota: u64,
}

/// A change that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Delete,
}

impl Guard {
    /// Whether the caller is a developer of all apps of the policies.
    ///
    /// Apps that Cloud Controller does not know keep nobody from removing their policies, but none
    /// can be created for them: each would take two tags, of which there is a limited number.
    pub(super) async fn access(
        &self,
        caller: &Caller,
        change: Change,
        policies: &[Policy],
    ) -> Result<(), ApiError> {
        let Some(cloud_controller) = self.asked_for(caller) else { return Ok(()) };
        match allowed(cloud_controller, caller, change, policies).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(ApiError::forbidden("one or more applications cannot be found or accessed"))
            }
            Err(e) => {
                warn!("cannot check a change of policies: {e}");
                Err(ApiError::internal("check access failed"))
            }
        }
    }

    /// Whether there may be so many policies. Those that exist already are counted again.
    pub(super) async fn quota(&self, caller: &Caller, policies: &[Policy]) -> Result<(), ApiError> {
        if caller.is_admin() {
            return Ok(());
        }
        let apps: Vec<String> = apps(policies).into_iter().map(ToOwned::to_owned).collect();
        let mut counts = self.database.policy_count_by_source(&apps).await.map_err(|e| {
            warn!("cannot count policies: {e}");
            ApiError::internal("check quota failed")
        })?;
        for policy in policies {
            *counts.entry(policy.source.clone()).or_default() += 1;
        }
        if counts.values().any(|count| *count > self.quota) {
            return Err(ApiError::forbidden("policy quota exceeded"));
        }
        Ok(())
    }

    /// Those policies of which both apps are in spaces of the caller.
    pub(super) async fn visible(
        &self,
        caller: &Caller,
        mut policies: Vec<Policy>,
    ) -> Result<Vec<Policy>, ApiError> {
        let Some(cloud_controller) = self.asked_for(caller) else { return Ok(policies) };
        let failed = |e: CloudControllerError| {
            warn!("cannot filter policies: {e}");
            ApiError::internal("filter policies failed")
        };
        let apps = cloud_controller.spaces_of_apps(&apps(&policies), caller).await;
        let apps: HashMap<String, String> = apps.map_err(failed)?;
        let spaces = cloud_controller.spaces_of_user(&caller.subject).await.map_err(failed)?;
        let seen = |app: &str| apps.get(app).is_some_and(|space| spaces.contains(space));
        policies.retain(|policy| seen(&policy.source) && seen(&policy.destination));
        Ok(policies)
    }

    fn asked_for(&self, caller: &Caller) -> Option<&CloudController> {
        self.cloud_controller.as_deref().filter(|_| !caller.is_admin())
    }
}

async fn allowed(
    cloud_controller: &CloudController,
    caller: &Caller,
    change: Change,
    policies: &[Policy],
) -> Result<bool, CloudControllerError> {
    let apps = apps(policies);
    let spaces = cloud_controller.spaces_of_apps(&apps, caller).await?;
    if change == Change::Create && spaces.len() < apps.len() {
        return Ok(false);
    }
    for space in spaces.values().collect::<BTreeSet<_>>() {
        if !cloud_controller.is_developer(&caller.subject, space).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All apps of the policies.
pub(super) fn apps(policies: &[Policy]) -> BTreeSet<&str> {
    policies.iter().flat_map(|policy| [&*policy.source, &*policy.destination]).collect()
}

/// Without tags, which users do not see.
pub(super) fn without_tags(policies: Vec<TaggedPolicy>) -> Vec<Policy> {
    policies.into_iter().map(|tagged| tagged.policy).collect()
}
