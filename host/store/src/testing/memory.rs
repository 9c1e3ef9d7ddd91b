//! Objects in memory: as a store should be, and fast.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;

use crate::names;

#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectStore for Memory {
    fn location(&self, name: &str) -> String {
        format!("memory:{name}")
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        names::check(name)?;
        self.lock().insert(name.to_owned(), Arc::new(content.to_vec()));
        Ok(())
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        let content = fs::read(path).map_err(|e| Fault::io(format!("cannot read `{}`: {e}", path.display())))?;
        self.put(name, &content)
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        names::check(name)?;
        let mut objects = self.lock();
        let free = !objects.contains_key(name);
        if free {
            objects.insert(name.to_owned(), Arc::new(content.to_vec()));
        }
        Ok(free)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        names::check(name)?;
        Ok(self.lock().get(name).map(|content| content.to_vec()))
    }

    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        let failed = |e: std::io::Error| Fault::io(format!("cannot write `{}`: {e}", path.display()));
        match self.get(name)? {
            Some(content) => fs::write(path, content).map(|()| true).map_err(failed),
            None if path.exists() => fs::remove_file(path).map(|()| false).map_err(failed),
            None => Ok(false),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        names::check(name)?;
        Ok(self.lock().get(name).map(|content| content.len() as u64))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        let objects = self.lock();
        let found = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, content)| (name.clone(), content.len() as u64)).collect())
    }

    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        names.iter().try_for_each(|name| names::check(name))?;
        let mut objects = self.lock();
        for name in names {
            objects.remove(name);
        }
        Ok(())
    }
}
