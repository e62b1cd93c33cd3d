//! The routes of both APIs, as tables: routers, CORS answers and the description are made of them.

use axum::http::Method;

/// Routes of the external API (contract section 1.1). `OPTIONS` is served on each path besides.
pub const EXTERNAL: &[Route<External>] = &[
    Route::new(Method::GET, "/", External::Uptime),
    Route::new(Method::GET, "/networking", External::Uptime),
    Route::new(Method::GET, "/health", External::Health),
    Route::new(Method::GET, "/networking/{version}/external/whoami", External::WhoAmI),
    Route::new(Method::POST, "/networking/{version}/external/policies", External::CreatePolicies),
    Route::new(
        Method::POST,
        "/networking/{version}/external/policies/delete",
        External::DeletePolicies,
    ),
    Route::new(Method::GET, "/networking/{version}/external/policies", External::PoliciesIndex),
    Route::new(Method::POST, "/networking/{version}/external/policies/cleanup", External::Cleanup),
    Route::new(Method::GET, "/networking/{version}/external/tags", External::TagsIndex),
];

/// Routes of the internal API (contract sections 2 and 16.1).
pub const INTERNAL: &[Route<Internal>] = &[
    Route::new(Method::GET, "/networking/{version}/internal/policies", Internal::Policies),
    Route::new(
        Method::GET,
        "/networking/{version}/internal/policies_last_updated",
        Internal::PoliciesLastUpdated,
    ),
    Route::new(
        Method::GET,
        "/networking/{version}/internal/security_groups",
        Internal::SecurityGroups,
    ),
    Route::new(
        Method::GET,
        "/networking/{version}/internal/security_groups_last_updated",
        Internal::SecurityGroupsLastUpdated,
    ),
    Route::new(Method::PUT, "/networking/v1/internal/tags", Internal::CreateTag),
];

/// A method on a path, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<O> {
    /// The method.
    pub method: Method,
    /// The path, with the names of variable segments in braces.
    pub path: &'static str,
    /// What is done.
    pub operation: O,
}

/// What users ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum External {
    /// Since when the server is up.
    Uptime,
    /// Whether it can serve.
    Health,
    /// Who the caller is.
    WhoAmI,
    /// Adds policies.
    CreatePolicies,
    /// Removes policies.
    DeletePolicies,
    /// Lists policies.
    PoliciesIndex,
    /// Removes policies of apps that are gone.
    Cleanup,
    /// Lists tags.
    TagsIndex,
}

/// What cells ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internal {
    /// Policies with tags, at once or as soon as they change.
    Policies,
    /// When policies changed last.
    PoliciesLastUpdated,
    /// Security groups, page by page.
    SecurityGroups,
    /// When security groups changed last, at once or as soon as they do.
    SecurityGroupsLastUpdated,
    /// The tag of something that is no app.
    CreateTag,
}

/// What a caller must be allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing; no token is looked at.
    Open,
    /// To write policies, of their own spaces at least.
    Write,
    /// Everything.
    Admin,
}

impl External {
    pub(super) fn access(self) -> Access {
        match self {
            Self::Uptime | Self::Health => Access::Open,
            Self::CreatePolicies | Self::DeletePolicies | Self::PoliciesIndex => Access::Write,
            Self::WhoAmI | Self::Cleanup | Self::TagsIndex => Access::Admin,
        }
    }
}

impl<O> Route<O> {
    const fn new(method: Method, path: &'static str, operation: O) -> Self {
        Self { method, path, operation }
    }
}

/// The paths of a table, each with its routes.
pub(super) fn by_path<O>(routes: &[Route<O>]) -> Vec<(&'static str, Vec<&Route<O>>)> {
    let mut paths: Vec<(&'static str, Vec<&Route<O>>)> = Vec::new();
    for route in routes {
        match paths.iter_mut().find(|(path, _)| *path == route.path) {
            Some((_, of_path)) => of_path.push(route),
            None => paths.push((route.path, vec![route])),
        }
    }
    paths
}
