//! Policies of a user's own: a name, a type, a seat.

use std::{any::type_name, collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::seat::{Position, Seat};

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

/// A policy type behind its name.
trait Registered: Send + Sync {
    fn position(&self) -> Position;
    fn schema(&self) -> String;
    fn build(&self, value: Value) -> Result<PolicyValue, String>;
}

struct Entry<P>(std::marker::PhantomData<fn() -> P>);

impl<P: Policy> Registered for Entry<P> {
    fn position(&self) -> Position {
        P::SEAT
    }

    fn schema(&self) -> String {
        P::schema()
    }

    fn build(&self, value: Value) -> Result<PolicyValue, String> {
        let policy: P = serde_json::from_value(value).map_err(|error| error.to_string())?;
        policy.validate()?;
        let value = serde_json::to_value(&policy)
            .map_err(|error| format!("{} does not serialize: {error}", type_name::<P>()))?;
        Ok(PolicyValue { value, position: P::SEAT, seat: Arc::new(policy).seat() })
    }
}

/// The policy types a mesh knows.
#[derive(Clone, Default)]
pub(crate) struct PolicyRegistry {
    entries: BTreeMap<&'static str, Arc<dyn Registered>>,
}

impl PolicyRegistry {
    pub(crate) fn register<P: Policy>(&mut self) {
        self.entries.insert(P::NAME, Arc::new(Entry::<P>(std::marker::PhantomData)));
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

    /// Checks a value. `previous` lends its seat if the value did not change.
    pub(crate) fn build(
        &self,
        name: &str,
        value: Value,
        previous: Option<&PolicyValue>,
    ) -> Result<PolicyValue, String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("no policy `{name}` is registered"))?;
        let mut built = entry.build(value)?;
        if let Some(previous) = previous.filter(|previous| **previous == built) {
            built.seat = previous.seat.clone();
        }
        Ok(built)
    }
}

impl fmt::Debug for PolicyRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}
