//! What a circuit does, and who decides that.

/// What the circuit does with calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CircuitState {
    /// It lets them through.
    Closed,
    /// It lets a few through, to see how they do.
    HalfOpen,
    /// It refuses them.
    Open,
}

impl CircuitState {
    /// As status and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Who decides about a circuit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum CircuitControl {
    /// What calls show.
    #[default]
    Calls,
    /// An operator, who opened it.
    HeldOpen,
    /// An operator, who closed it.
    HeldClosed,
}

impl CircuitControl {
    /// As status has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::HeldOpen => "held_open",
            Self::HeldClosed => "held_closed",
        }
    }
}
