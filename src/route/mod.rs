//! Routing rules.

mod policy;

pub use self::policy::{
    DirectResponse, GrpcMatch, HeaderChanges, PathRewrite, Redirect, Rewrite, Route, RouteAction, RouteMatch,
    WeightedTarget,
};
