//! What must hold of a life's output and of every checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_model::Fault;
use tidemill_model::checkpoint::{CheckpointStore, Manifest};
use tidemill_model::plan::Backend;
use tidemill_store::Snapshots;

use super::life::undisturbed;
use super::shape::{PIPELINE, Shape};
use super::version::Version;
use super::world::{Rows, World};
use crate::chance::Chance;

/// Rows that are shown of a difference.
const SHOWN: usize = 5;

/// The rows are those expected, in any order.
pub fn same(expected: &Rows, got: &Rows) -> Result<(), String> {
    for (sink, rows) in expected {
        let have = got.get(sink).map_or(&[][..], Vec::as_slice);
        differs(sink, rows, have, |n| n != 0)?;
    }
    Ok(())
}

/// No row is there that is not expected, and none more often.
pub fn no_more(expected: &Rows, got: &Rows) -> Result<(), String> {
    for (sink, rows) in got {
        let known = expected.get(sink).map_or(&[][..], Vec::as_slice);
        differs(sink, known, rows, |n| n > 0)?;
    }
    Ok(())
}

fn differs(sink: &str, expected: &[String], got: &[String], wrong: impl Fn(i64) -> bool) -> Result<(), String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    expected.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    got.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    let wrong: Vec<(&str, i64)> = counts.into_iter().filter(|(_, n)| wrong(*n)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = wrong.iter().take(SHOWN).map(|(row, n)| format!("    {n:+} {row}")).collect();
    let (have, want, differ) = (got.len(), expected.len(), wrong.len());
    Err(format!("`{sink}` has {have} rows, expected {want}; {differ} differ:\n{}", shown.join("\n")))
}

/// A checkpoint restores with other workers and, where its form allows it, on the other backend: what was visible with it and
/// what the run gives that goes on from it are what is expected.
pub fn restores(
    shape: &Shape,
    world: &Arc<World>,
    manifest: &Manifest,
    expected: &Rows,
    chance: &mut Chance,
) -> Result<(), String> {
    let backend = other(manifest, shape.options.state.backend, chance);
    let workers = 1 + chance.below(3);
    let seed = chance.next();
    let named = manifest.parts.iter().flat_map(|p| p.committables.iter().map(|c| (p.node.as_str(), c)));
    let mut rows = world.visible_with(named);
    // Whoever restores may have newer versions.
    let mut shape = shape.clone();
    for (_, operator) in shape.keyed.clone() {
        if chance.one_in(3) {
            let Version { number, timed, .. } = shape.version(operator);
            shape.versions.insert(operator, Version { number: number + 1, timed: !timed, refuses: false });
        }
    }
    let about = |what: String| format!("checkpoint {} on {backend:?} with {workers} workers: {what}", manifest.id);
    let rest = undisturbed(&shape, world, workers, backend, Some((manifest, seed)));
    for (sink, more) in rest.map_err(|fault| about(fault.to_string()))? {
        rows.entry(sink).or_default().extend(more);
    }
    same(expected, &rows).map_err(about)
}

/// Hidden files that no checkpoint and no savepoint names.
pub fn lost_files(world: &World) -> Result<Vec<String>, String> {
    let store = Snapshots::new(world.objects.clone(), PIPELINE);
    let listed = store.list().map_err(|fault| fault.to_string())?;
    let manifests: Result<Vec<Manifest>, Fault> = listed.iter().map(|listed| store.load(listed)).collect();
    let parts = manifests.map_err(|fault| fault.to_string())?.into_iter().flat_map(|manifest| manifest.parts);
    world.lost(&parts.flat_map(|part| part.committables).collect::<Vec<_>>())
}

/// Native files are for the backend that wrote them.
pub fn other(manifest: &Manifest, backend: Backend, chance: &mut Chance) -> Backend {
    let native = manifest.parts.iter().any(|part| !part.files.is_empty());
    if native { backend } else { chance.pick(&[Backend::Heap, Backend::RocksDb]) }
}
