//! The objects of a job: immutable, found by the SHA-256 of their content, written once.
//!
//! An object is named `objects/HH/HASH-GENERATION.NUMBER`, and no name is ever used twice. That is what makes removal
//! safe: a request to remove that comes late, from whatever generation, can't hit what was written after it.
//!
//! Laws: an object is removed only after its name stands in the index under `removing`; from then on nobody relies on
//! that name again, and the content, if it is needed, is written under another. What was written or found existing
//! for a checkpoint in flight is *held* and not removed by this process. Should another process remove it all the same
//! (someone deletes a savepoint by hand), the publication sees it in the index and is refused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidemill_model::Fault;
use tidemill_model::checkpoint::{ObjectRef, ObjectStore};

use crate::sealed::{self, damaged};

/// What was written for a checkpoint that never came about is held for so many checkpoints and so long: longer than any
/// upload that is still going on takes. If one does take longer, its publication is refused.
const HELD_CHECKPOINTS: u64 = 16;
const HELD_TIME: Duration = Duration::from_secs(3600);

/// Far more than one start ever writes.
const NUMBERS_PER_PROCESS: u64 = 1 << 40;

pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Ends with `/`.
    folder: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    listed: bool,
    /// Of this process; 0 if it only reads.
    generation: u64,
    next: u64,
    published: u64,
    /// By hash, the copies that may be relied upon.
    copies: HashMap<String, Vec<Copy>>,
    /// By hash.
    held: HashMap<String, Hold>,
    /// About to be named in the index.
    doomed: Vec<(String, Copy)>,
    /// Named there.
    gone: HashSet<String>,
    /// By hash, a copy whose content was seen to be another: nobody relies on it any more, in no later generation either.
    broken: HashMap<String, Copy>,
}

/// Content that checkpoints in flight will name.
struct Hold {
    /// How often.
    uses: usize,
    /// Checkpoints published, and the time, when it was used last.
    published: u64,
    time: Instant,
}

#[derive(Clone, Debug, PartialEq)]
struct Copy {
    name: String,
    bytes: u64,
}

impl Objects {
    pub fn new(store: Arc<dyn ObjectStore>, folder: String) -> Self {
        Self { store, folder, known: Mutex::default() }
    }

    /// From now on objects are written under this generation.
    pub fn begin(&self, generation: u64, removing: impl IntoIterator<Item = String>) -> Result<(), Fault> {
        self.begin_as(0, generation, removing)
    }

    /// The same for one of several processes: each counts from a number of its own, so that no name is used twice.
    pub fn begin_as(
        &self,
        process: usize,
        generation: u64,
        removing: impl IntoIterator<Item = String>,
    ) -> Result<(), Fault> {
        let mut known = self.lock();
        let next = process as u64 * NUMBERS_PER_PROCESS;
        let broken = std::mem::take(&mut known.broken);
        *known = Known { generation, next, gone: removing.into_iter().collect(), broken, ..Known::default() };
        self.list(&mut known)
    }

    /// Somebody else may have removed all but these.
    pub fn rely_on(&self, objects: &[ObjectRef]) {
        let relied: HashSet<&String> = objects.iter().map(|object| &object.sha256).collect();
        let mut known = self.lock();
        known.copies.retain(|hash, _| relied.contains(hash));
        // Who publishes holds what is in flight.
        known.held.clear();
    }

    /// Other processes of this start may have written some of these: looks for them, if there are any that this one does not know.
    pub fn learn<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Result<(), Fault> {
        let mut known = self.lock();
        if objects.into_iter().all(|object| known.has(object)) {
            return Ok(());
        }
        self.list(&mut known)
    }

    /// Bytes that were written: none if the content is there already.
    pub fn write(&self, content: &[u8]) -> Result<(ObjectRef, u64), Fault> {
        let object = ObjectRef { sha256: sealed::sha256(content), bytes: content.len() as u64 };
        let written = self.add(&object, |name| self.store.put(name, content))?;
        Ok((object, written))
    }

    pub fn write_file(&self, object: &ObjectRef, path: &Path) -> Result<u64, Fault> {
        self.add(object, |name| self.store.put_file(name, path))
    }

    fn add(&self, object: &ObjectRef, put: impl FnOnce(&str) -> Result<(), Fault>) -> Result<u64, Fault> {
        let name = {
            let mut known = self.lock();
            if known.generation == 0 {
                return Err(Fault::internal("objects are written without a generation"));
            }
            known.hold(&object.sha256);
            if known.has(object) {
                return Ok(0);
            }
            known.next += 1;
            let hash = &object.sha256;
            format!("{}{}/{hash}-{}.{}", self.folder, &hash[..2], known.generation, known.next)
        };
        put(&name)?;
        let mut known = self.lock();
        let copies = known.copies.entry(object.sha256.clone()).or_default();
        // Somebody may have listed it already.
        if copies.iter().all(|copy| copy.name != name) {
            copies.push(Copy { name, bytes: object.bytes });
        }
        Ok(object.bytes)
    }

    /// The content, which is what it was when it was written.
    pub fn read(&self, object: &ObjectRef) -> Result<Vec<u8>, Fault> {
        self.find(object, |name| {
            let content = self.store.get(name)?;
            Ok(content.map(|content| (sealed::sha256(&content) == object.sha256, content)))
        })
    }

    /// Brings the content to `path`. `hash` tells what came there.
    pub fn read_file(
        &self,
        object: &ObjectRef,
        path: &Path,
        hash: impl Fn(&Path) -> Result<ObjectRef, Fault>,
    ) -> Result<(), Fault> {
        let read = self.find(object, |name| {
            let there = self.store.get_file(name, path)?;
            there.then(|| hash(path).map(|found| (found == *object, ()))).transpose()
        });
        if read.is_err() {
            // A link or a copy that nobody may use.
            let _ = std::fs::remove_file(path);
        }
        read
    }

    /// Tries all copies with `read`, which says whether one is whole; lists them anew if none is.
    fn find<T>(&self, object: &ObjectRef, read: impl Fn(&str) -> Result<Option<(bool, T)>, Fault>) -> Result<T, Fault> {
        let mut fault = None;
        for again in [false, true] {
            for copy in self.copies(object, again)? {
                match read(&copy.name)? {
                    Some((true, content)) => return Ok(content),
                    Some((false, _)) => {
                        fault = Some(self.broken(&copy, object));
                        self.lock().distrust(&object.sha256, &copy);
                    }
                    None => {}
                }
            }
        }
        Err(fault.unwrap_or_else(|| self.lost(&self.lock(), object)))
    }

    fn copies(&self, object: &ObjectRef, again: bool) -> Result<Vec<Copy>, Fault> {
        let mut known = self.lock();
        if again || !known.listed {
            self.list(&mut known)?;
        }
        Ok(known.copies.get(&object.sha256).cloned().unwrap_or_default())
    }

    /// Checks that all are there with the right length.
    pub fn verify<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Result<(), Fault> {
        let mut known = self.lock();
        self.list(&mut known)?;
        objects.into_iter().try_for_each(|object| self.check(&known, object))
    }

    /// The same, by what this process knows: without a request to the store. Copies that are being removed don't count.
    pub fn check_known<'a>(
        &self,
        removing: &BTreeSet<String>,
        objects: impl IntoIterator<Item = &'a ObjectRef>,
    ) -> Result<(), Fault> {
        let mut known = self.lock();
        known.exclude(removing.iter().cloned());
        objects.into_iter().try_for_each(|object| self.check(&known, object))
    }

    fn check(&self, known: &Known, object: &ObjectRef) -> Result<(), Fault> {
        match known.copies.get(&object.sha256).and_then(|copies| copies.first()) {
            None => Err(self.lost(known, object)),
            Some(copy) if !known.has(object) => Err(self.broken(copy, object)),
            Some(_) => Ok(()),
        }
    }

    /// A checkpoint was published that names these objects, each as often as it was written: the index holds them now.
    pub fn published<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) {
        let mut known = self.lock();
        known.published += 1;
        for object in objects {
            if let Some(hold) = known.held.get_mut(&object.sha256) {
                hold.uses = hold.uses.saturating_sub(1);
            }
        }
        let old =
            |hold: &Hold| known.published - hold.published >= HELD_CHECKPOINTS && hold.time.elapsed() >= HELD_TIME;
        let over: Vec<String> =
            known.held.iter().filter(|(_, hold)| hold.uses == 0 || old(hold)).map(|(hash, _)| hash.clone()).collect();
        for hash in over {
            known.held.remove(&hash);
        }
    }

    /// Names of all copies of content that is neither `live` nor held. They can't be relied upon from now on, unless
    /// this is called again, as it is when the index has changed meanwhile. `removing` is what the index names already.
    pub fn doom(&self, removing: &BTreeSet<String>, live: &HashSet<String>) -> Vec<String> {
        let mut known = self.lock();
        known.exclude(removing.iter().cloned());
        for (hash, copy) in std::mem::take(&mut known.doomed) {
            known.copies.entry(hash).or_default().push(copy);
        }
        let Known { copies, held, doomed, .. } = &mut *known;
        copies.retain(|hash, copies| {
            let stays = live.contains(hash) || held.contains_key(hash);
            if !stays {
                doomed.extend(copies.drain(..).map(|copy| (hash.clone(), copy)));
            }
            stays
        });
        doomed.iter().map(|(_, copy)| copy.name.clone()).collect()
    }

    /// Names of all copies of what has these hashes and is not held.
    pub fn names_of<'a>(&self, hashes: impl Iterator<Item = &'a String>) -> Result<Vec<String>, Fault> {
        let mut known = self.lock();
        self.list(&mut known)?;
        let free = hashes.filter(|hash| !known.held.contains_key(*hash));
        let copies = free.filter_map(|hash| known.copies.get(hash)).flatten();
        Ok(copies.map(|copy| copy.name.clone()).collect())
    }

    /// Removes what the index names under `removing`.
    pub fn remove(&self, names: &[String]) -> Result<(), Fault> {
        self.lock().exclude(names.iter().cloned());
        self.store.delete(names)?;
        // No list that begins now shows them.
        let names: HashSet<&String> = names.iter().collect();
        let mut known = self.lock();
        known.gone.retain(|name| !names.contains(name));
        Ok(())
    }

    /// Learns which copies there are.
    fn list(&self, known: &mut Known) -> Result<(), Fault> {
        let listed = self.store.list(&self.folder)?;
        known.copies.clear();
        known.listed = true;
        let doomed: HashSet<&String> = known.doomed.iter().map(|(_, copy)| &copy.name).collect();
        for (name, bytes) in listed {
            let file = name.rsplit('/').next().unwrap_or_default();
            let Some((hash, _)) = file.split_once('-') else { continue };
            let is_broken = known.broken.get(hash).is_some_and(|copy| copy.name == name);
            if !known.gone.contains(&name) && !doomed.contains(&name) && !is_broken {
                known.copies.entry(hash.to_owned()).or_default().push(Copy { name, bytes });
            }
        }
        Ok(())
    }

    fn broken(&self, copy: &Copy, object: &ObjectRef) -> Fault {
        let what = if copy.bytes == object.bytes {
            "its content does not fit to its SHA-256".into()
        } else {
            format!("it has {} bytes instead of {}", copy.bytes, object.bytes)
        };
        damaged(&self.store.location(&copy.name), &what)
    }

    /// No copy can be relied upon.
    fn lost(&self, known: &Known, object: &ObjectRef) -> Fault {
        known.broken.get(&object.sha256).map_or_else(|| self.missing(object), |copy| self.broken(copy, object))
    }

    fn missing(&self, object: &ObjectRef) -> Fault {
        let name = format!("{}{}/{}", self.folder, object.sha256.get(..2).unwrap_or_default(), object.sha256);
        Fault::data(format!("`{}-*` is missing: {} bytes of a checkpoint", self.store.location(&name), object.bytes))
            .with_help("restore it from a copy, or restore the job from another checkpoint or savepoint")
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn has(&self, object: &ObjectRef) -> bool {
        self.copies.get(&object.sha256).is_some_and(|copies| copies.iter().any(|copy| copy.bytes == object.bytes))
    }

    /// The copy is not what its name says.
    fn distrust(&mut self, hash: &str, copy: &Copy) {
        if let Some(copies) = self.copies.get_mut(hash) {
            copies.retain(|other| other != copy);
        }
        self.broken.insert(hash.to_owned(), copy.clone());
    }

    fn hold(&mut self, hash: &str) {
        let (published, time) = (self.published, Instant::now());
        let hold = self.held.entry(hash.to_owned()).or_insert(Hold { uses: 0, published, time });
        *hold = Hold { uses: hold.uses + 1, published, time };
    }

    /// These names can't be relied upon any more.
    fn exclude(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let hash = name.rsplit('/').next().and_then(|file| file.split_once('-')).map(|(hash, _)| hash.to_owned());
            if let Some(copies) = hash.and_then(|hash| self.copies.get_mut(&hash)) {
                copies.retain(|copy| copy.name != name);
            }
            self.doomed.retain(|(_, copy)| copy.name != name);
            self.gone.insert(name);
        }
    }
}
