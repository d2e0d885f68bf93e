//! What goes wrong when.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::{Fault, World};
use crate::{
    error::BoxError,
    rt::{self, Rng},
};

/// What happens to an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// [`Instance::fault`](super::Instance::fault).
    Fault(Fault),
    /// [`Instance::heal`](super::Instance::heal).
    Heal,
    /// [`Instance::kill`](super::Instance::kill).
    Kill,
    /// [`Instance::start`](super::Instance::start).
    Start,
    /// [`Instance::leave`](super::Instance::leave).
    Leave,
    /// [`Instance::join`](super::Instance::join).
    Join,
}

/// What happens to which instance when, as a value: played by [`World::play`], printed line by line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    steps: Vec<(Duration, String, Action)>,
}

impl Script {
    /// Nothing happens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what happens to an instance so long after the beginning.
    #[must_use]
    pub fn at(mut self, after: Duration, instance: &str, action: Action) -> Self {
        let place = self.steps.partition_point(|(at, ..)| *at <= after);
        self.steps.insert(place, (after, instance.to_owned(), action));
        self
    }

    /// Troubles of all kinds for these instances, one at a time and each followed by its end, over `length`. The same for
    /// the same seed.
    pub fn random(seed: u64, instances: &[&str], length: Duration) -> Self {
        let mut dice = Rng::seeded(seed);
        let mut script = Self::new();
        let mut now = Duration::ZERO;
        while !instances.is_empty() {
            now += Duration::from_millis(200 + u64::from(dice.below(1_000)));
            let until = now + Duration::from_millis(500 + u64::from(dice.below(5_000)));
            if until > length {
                break;
            }
            let instance = instances[dice.below(instances.len() as u32) as usize];
            let (begin, end) = match dice.below(9) {
                0 => (Action::Kill, Action::Start),
                1 => (Action::Leave, Action::Join),
                2 => (Action::Fault(Fault::Refuse), Action::Heal),
                3 => (Action::Fault(Fault::Silent), Action::Heal),
                4 => (Action::Fault(Fault::Hang), Action::Heal),
                5 => (Action::Fault(Fault::Abort(StatusCode::SERVICE_UNAVAILABLE)), Action::Heal),
                6 => (Action::Fault(Fault::ResetBody(dice.below(64) as usize)), Action::Heal),
                7 => (Action::Fault(Fault::Drip(10 + dice.below(1_000) as usize)), Action::Heal),
                _ => (Action::Fault(Fault::Delay(Duration::from_millis(dice.below(3_000).into()))), Action::Heal),
            };
            script = script.at(now, instance, begin).at(until, instance, end);
            now = until;
        }
        script
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, instance, action) in &self.steps {
            writeln!(f, "{at:?} {instance} {action:?}")?;
        }
        Ok(())
    }
}

impl World {
    /// Plays a script from now on; done with its last step. To go on meanwhile, `tokio::join!` it with what goes on.
    ///
    /// # Errors
    /// If a mesh cannot be started anew.
    ///
    /// # Panics
    /// If it names an instance that there is not.
    pub async fn play(&self, script: &Script) -> Result<(), BoxError> {
        let begun = rt::now();
        for (after, instance, action) in &script.steps {
            rt::sleep_until(begun + *after).await;
            let instance = self.instance(instance);
            match action {
                Action::Fault(fault) => instance.fault(*fault),
                Action::Heal => instance.heal(),
                Action::Kill => instance.kill().await,
                Action::Start => instance.start().await?,
                Action::Leave => instance.leave(),
                Action::Join => instance.join(),
            }
        }
        Ok(())
    }
}
