//! The store of a life: the world's objects behind a wire on which requests fail, get lost, come late, or find half of their bytes.

use std::path::Path;
use std::sync::Arc;

use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;
use tidemill_store::testing::Memory;

use super::wire::{Call, How, Wire, crashed};

pub struct WiredStore(pub Arc<Wire>);

impl WiredStore {
    fn objects(&self) -> &Arc<Memory> {
        &self.0.world.objects
    }

    fn read<T>(&self, call: Call, read: impl FnOnce(&Memory) -> Result<T, Fault>) -> Result<T, Fault> {
        match self.0.store(call)? {
            None => read(self.objects()),
            Some(how) => Err(self.fault(how)),
        }
    }

    /// `torn`: what a crash in the middle leaves.
    fn write<T>(
        &self,
        call: Call,
        write: impl FnOnce(&Memory) -> Result<T, Fault> + Send + 'static,
        torn: impl FnOnce(&Memory) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let objects = self.objects();
        let Some(how) = self.0.store(call)? else { return write(objects) };
        match how {
            How::Failed | How::CrashBefore => {}
            How::Unanswered | How::CrashAfter => drop(write(objects)?),
            How::CrashTorn if self.0.world.accepts_torn && matches!(call, Call::Put | Call::PutFile) => {
                self.0.world.note("  half of an object is accepted");
                return torn(objects);
            }
            How::CrashTorn => drop(torn(objects)?),
            How::Late => self.0.world.later(move |objects| drop(write(objects))),
        }
        Err(self.fault(how))
    }

    fn fault(&self, how: How) -> Fault {
        match how {
            How::CrashBefore | How::CrashTorn | How::CrashAfter => {
                self.0.cut();
                crashed()
            }
            How::Failed | How::Unanswered | How::Late => {
                Fault::io("the store gives no answer").with_help("this is a test")
            }
        }
    }
}

impl ObjectStore for WiredStore {
    fn location(&self, name: &str) -> String {
        self.objects().location(name)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let (to, all) = (name.to_owned(), content.to_vec());
        let half = &content[..content.len() / 2];
        self.write(Call::Put, move |objects| objects.put(&to, &all), |objects| objects.put(name, half))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        let content = std::fs::read(path).map_err(|e| Fault::io(format!("cannot read `{}`: {e}", path.display())))?;
        let to = name.to_owned();
        let half = content[..content.len() / 2].to_vec();
        self.write(Call::PutFile, move |objects| objects.put(&to, &content), |objects| objects.put(name, &half))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        let (to, all) = (name.to_owned(), content.to_vec());
        self.write(Call::Create, move |objects| objects.create(&to, &all), |_| Ok(false))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.read(Call::Read, |objects| objects.get(name))
    }

    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        // Not counted: how many files there are is not known before.
        if self.0.is_cut() { Err(crashed()) } else { self.objects().get_file(name, path) }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        if self.0.is_cut() { Err(crashed()) } else { self.objects().size(name) }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        self.read(Call::List, |objects| objects.list(prefix))
    }

    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        let all = names.to_vec();
        let half = &names[..names.len() / 2];
        self.write(Call::Delete, move |objects| objects.delete(&all), |objects| objects.delete(half))
    }
}
