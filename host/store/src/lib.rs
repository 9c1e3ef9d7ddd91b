//! Stores of objects.
