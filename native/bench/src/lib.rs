//! Long histories made straight in the engine, for tests and for the benchmark of docs/testing.md.

pub mod churn;
pub mod clock;
pub mod history;
pub mod sizes;
