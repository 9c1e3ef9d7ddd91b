//! Formulas over conditions: what an event has to be for a transition.

/// The number of a condition, below [`CONDITIONS_MAX`].
pub type Condition = u8;

/// Conditions of a pattern: the answers for an event are bits of a word.
pub const CONDITIONS_MAX: usize = 64;

/// A formula over conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formula {
    Always,
    Is(Condition),
    Not(Box<Formula>),
    And(Box<Formula>, Box<Formula>),
    Or(Box<Formula>, Box<Formula>),
}

impl Formula {
    pub fn and(self, other: Formula) -> Formula {
        match (self, other) {
            (Formula::Always, other) => other,
            (this, Formula::Always) => this,
            (this, other) => Formula::And(Box::new(this), Box::new(other)),
        }
    }
    pub fn or(self, other: Formula) -> Formula {
        Formula::Or(Box::new(self), Box::new(other))
    }
    pub fn negated(self) -> Formula {
        match self {
            Formula::Not(inner) => *inner,
            other => Formula::Not(Box::new(other)),
        }
    }
    /// The conditions in it, as bits.
    pub fn conditions(&self) -> u64 {
        match self {
            Formula::Always => 0,
            Formula::Is(condition) => 1u64.checked_shl((*condition).into()).unwrap_or(0),
            Formula::Not(inner) => inner.conditions(),
            Formula::And(left, right) | Formula::Or(left, right) => left.conditions() | right.conditions(),
        }
    }
    /// The largest number of a condition in it.
    pub(crate) fn condition_max(&self) -> Option<Condition> {
        match self {
            Formula::Always => None,
            Formula::Is(condition) => Some(*condition),
            Formula::Not(inner) => inner.condition_max(),
            Formula::And(left, right) | Formula::Or(left, right) => left.condition_max().max(right.condition_max()),
        }
    }
    /// Whether it holds, given whether each condition does.
    pub(crate) fn holds(&self, is: &mut impl FnMut(Condition) -> bool) -> bool {
        match self {
            Formula::Always => true,
            Formula::Is(condition) => is(*condition),
            Formula::Not(inner) => !inner.holds(is),
            Formula::And(left, right) => left.holds(is) && right.holds(is),
            Formula::Or(left, right) => left.holds(is) || right.holds(is),
        }
    }
}
