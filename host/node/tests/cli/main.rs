//! The program `tidemill` as its users meet it: a process, real files, signals, pipes.

mod cases;
mod cluster;
mod components;
mod disk;
mod durable;
mod examples;
mod interrupts;
mod kept;
mod network;
mod recovery;
mod reports;
mod support;
mod upgrades;
