//! Apps and their tags.

use std::collections::HashMap;

use sarcenet_agent_api::AppInfo;

/// The tags of apps, found by the app's id: there are thousands, and each change of the policies asks
/// for all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apps(HashMap<String, u16>);

impl Apps {
    /// The tag of an app, if it is known.
    pub fn tag(&self, app: &str) -> Option<u16> {
        self.0.get(app).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ids and tags, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.0.iter().map(|(app, &tag)| (app.as_str(), tag))
    }
}

impl FromIterator<AppInfo> for Apps {
    fn from_iter<I: IntoIterator<Item = AppInfo>>(apps: I) -> Self {
        Self(apps.into_iter().map(|AppInfo { id, tag }| (id, tag)).collect())
    }
}
