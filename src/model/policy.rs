//! Policies of a user's own: a name, a type, a seat.

use std::{any::type_name, collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    limit::KeyFn,
    seat::{Position, Seat},
};

/// A policy of the user's own.
///
/// Registered with the builder, it is a key like any built-in one: under `services.<name>`, its routes and `defaults`
/// for the client seats, under `inbound` for the server seat. It is checked at load, reloaded, and shown with its
/// provenance by `sinew config show`. A reload that leaves its value unchanged keeps its seat, and so its state.
pub trait Policy: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its key in the configuration: snake_case, not one of the built-in keys.
    const NAME: &'static str;

    /// Where in the stack it acts.
    const SEAT: Position;

    /// Its JSON Schema, as JSON text. The default accepts anything.
    fn schema() -> String {
        "true".into()
    }

    /// Checks what the type alone cannot.
    ///
    /// # Errors
    /// What is wrong, and what to write instead; shown with the place of the policy.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Makes the policy's part of the stack. Called once for each place it stands at, and again when its value changes.
    fn seat(self: Arc<Self>) -> Arc<dyn Seat>;
}

/// The policies of one place, by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PolicySet {
    values: BTreeMap<Arc<str>, PolicyValue>,
}

impl PolicySet {
    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(|name| &**name)
    }

    pub(crate) fn insert(&mut self, name: impl Into<Arc<str>>, value: PolicyValue) {
        self.values.insert(name.into(), value);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&PolicyValue> {
        self.values.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &PolicyValue)> {
        self.values.iter().map(|(name, value)| (&**name, value))
    }

    /// These policies, and those of `outer` that this place does not set.
    pub(crate) fn over(&self, outer: &PolicySet) -> PolicySet {
        let mut values = outer.values.clone();
        values.extend(self.values.iter().map(|(name, value)| (name.clone(), value.clone())));
        PolicySet { values }
    }

    /// The seats at one position, outermost first in order of names.
    pub(crate) fn seats(&self, position: Position) -> impl Iterator<Item = &Arc<dyn Seat>> {
        self.values.values().filter(move |value| value.position == position).map(|value| &value.seat)
    }
}

/// A checked policy of the user's own. Equal if its value is equal.
#[derive(Clone)]
pub(crate) struct PolicyValue {
    pub(crate) value: Value,
    pub(crate) position: Position,
    pub(crate) seat: Arc<dyn Seat>,
}

impl PartialEq for PolicyValue {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.position == other.position
    }
}

impl fmt::Debug for PolicyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.value, self.position)
    }
}

/// A checked policy that has no seat yet: seats are made only where a policy takes effect and only when it changed.
#[derive(Clone)]
pub(crate) struct PolicyDraft {
    pub(crate) value: Value,
    pub(crate) position: Position,
    make: Arc<dyn Fn() -> Arc<dyn Seat> + Send + Sync>,
}

impl PolicyDraft {
    /// Checks a policy made by code.
    pub(crate) fn of<P: Policy>(policy: &P) -> Result<Self, PolicyFault> {
        let value = serde_json::to_value(policy).map_err(|error| does_not_serialize::<P>(&error))?;
        Self::from_value::<P>(value)
    }

    fn from_value<P: Policy>(value: Value) -> Result<Self, PolicyFault> {
        let policy: P = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            PolicyFault {
                path: if path == "." { String::new() } else { path },
                message: error.into_inner().to_string(),
            }
        })?;
        policy.validate().map_err(|message| PolicyFault { path: String::new(), message })?;
        let value = serde_json::to_value(&policy).map_err(|error| does_not_serialize::<P>(&error))?;
        let policy = Arc::new(policy);
        Ok(Self { value, position: P::SEAT, make: Arc::new(move || policy.clone().seat()) })
    }

    /// The policy with its seat, which is that of `previous` if the value did not change.
    pub(crate) fn seated(&self, previous: Option<&PolicyValue>) -> PolicyValue {
        let seat = match previous {
            Some(previous) if previous.value == self.value && previous.position == self.position => {
                previous.seat.clone()
            }
            _ => (self.make)(),
        };
        PolicyValue { value: self.value.clone(), position: self.position, seat }
    }
}

fn does_not_serialize<P>(error: &serde_json::Error) -> PolicyFault {
    PolicyFault { path: String::new(), message: format!("{} does not serialize: {error}", type_name::<P>()) }
}

impl fmt::Debug for PolicyDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.value, self.position)
    }
}

/// Why a policy's value is not acceptable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PolicyFault {
    /// The field inside the policy, such as `limits[0].rate`; empty for the policy as a whole.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) message: String,
}

/// A policy type behind its name.
trait Registered: Send + Sync {
    fn position(&self) -> Position;
    fn schema(&self) -> String;
    fn draft(&self, value: Value) -> Result<PolicyDraft, PolicyFault>;
}

struct Entry<P>(std::marker::PhantomData<fn() -> P>);

impl<P: Policy> Registered for Entry<P> {
    fn position(&self) -> Position {
        P::SEAT
    }

    fn schema(&self) -> String {
        P::schema()
    }

    fn draft(&self, value: Value) -> Result<PolicyDraft, PolicyFault> {
        PolicyDraft::from_value::<P>(value)
    }
}

/// The policy types a mesh knows.
#[derive(Clone, Default)]
pub(crate) struct PolicyRegistry {
    entries: BTreeMap<&'static str, Arc<dyn Registered>>,
    /// Functions from requests to keys of rate limits, by name.
    rate_limit_keys: BTreeMap<Arc<str>, KeyFn>,
}

impl PolicyRegistry {
    pub(crate) fn register<P: Policy>(&mut self) {
        self.entries.insert(P::NAME, Arc::new(Entry::<P>(std::marker::PhantomData)));
    }

    pub(crate) fn register_rate_limit_key(&mut self, function: KeyFn) {
        self.rate_limit_keys.insert(function.name().into(), function);
    }

    pub(crate) fn rate_limit_key(&self, name: &str) -> Option<KeyFn> {
        self.rate_limit_keys.get(name).cloned()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.keys().copied()
    }

    pub(crate) fn position(&self, name: &str) -> Option<Position> {
        self.entries.get(name).map(|entry| entry.position())
    }

    pub(crate) fn schema(&self, name: &str) -> Option<String> {
        self.entries.get(name).map(|entry| entry.schema())
    }

    /// Checks a value.
    pub(crate) fn draft(&self, name: &str, value: Value) -> Result<PolicyDraft, PolicyFault> {
        match self.entries.get(name) {
            Some(entry) => entry.draft(value),
            None => Err(PolicyFault { path: String::new(), message: format!("no policy `{name}` is registered") }),
        }
    }
}

impl fmt::Debug for PolicyRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}
