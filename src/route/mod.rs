//! Routing rules: what a request must be like, and what happens to it.

mod policy;
mod rewrite;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::rewrite::{apply_rewrite, redirect_response};
pub use self::{
    policy::{
        DirectResponse, GrpcMatch, HeaderChanges, PathRewrite, Redirect, Rewrite, Route, RouteAction, RouteMatch,
        WeightedTarget,
    },
    table::{RouteTable, choose},
};
