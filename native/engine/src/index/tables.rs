//! Tables of index files that lookups need again and again (fences, segment tables, rebuilt footers): a cache that is bounded in bytes.
//!
//! Everything in it can be read again from its file, which never changes; the key holds the nonce of that use of the file.

use std::any::Any;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::error::Result;

/// Nonce of the file, and which of its tables.
pub type Key = (u64, u64);

struct Entry {
    table: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

struct Inner {
    entries: LruCache<Key, Entry>,
    bytes: usize,
}

pub struct Tables {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

/// Bytes that an entry takes besides its table.
const ENTRY_BYTES: usize = 160;

impl Tables {
    pub fn new(bytes_max: usize) -> Tables {
        Tables { inner: Mutex::new(Inner { entries: LruCache::unbounded(), bytes: 0 }), bytes_max }
    }

    /// The table of this key, from `load` where it is not held; `weigh` tells its bytes. No lock is held while it loads.
    pub fn get<T: Any + Send + Sync>(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<T>,
        weigh: impl FnOnce(&T) -> usize,
    ) -> Result<Arc<T>> {
        if let Some(table) = self.held(key) {
            return Ok(table);
        }
        let table = Arc::new(load()?);
        self.put(key, Entry { bytes: weigh(&table) + ENTRY_BYTES, table: table.clone() });
        Ok(table)
    }

    /// The table of this key if it is held.
    pub fn held<T: Any + Send + Sync>(&self, key: Key) -> Option<Arc<T>> {
        let table = self.inner.lock().entries.get(&key).map(|entry| entry.table.clone())?;
        table.downcast().ok()
    }

    fn put(&self, key: Key, entry: Entry) {
        let mut inner = self.inner.lock();
        inner.bytes += entry.bytes;
        if let Some((_, old)) = inner.entries.push(key, entry) {
            inner.bytes -= old.bytes;
        }
        // What was just loaded stays, however large it is: it is in use.
        while inner.bytes > self.bytes_max && inner.entries.len() > 1 {
            let Some((_, old)) = inner.entries.pop_lru() else { break };
            inner.bytes -= old.bytes;
        }
    }

    pub fn remove(&self, key: Key) {
        let mut inner = self.inner.lock();
        if let Some(old) = inner.entries.pop(&key) {
            inner.bytes -= old.bytes;
        }
    }

    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.entries.clear();
        inner.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_was_used_last_stays() {
        let tables = Tables::new(10 * (1000 + ENTRY_BYTES));
        let loads = std::cell::Cell::new(0);
        let get = |key: u64| {
            let load = || {
                loads.set(loads.get() + 1);
                Ok(vec![key; 125])
            };
            let table = tables.get((key, 0), load, |t: &Vec<u64>| t.len() * 8).unwrap();
            assert_eq!(*table, vec![key; 125]);
        };
        (0..10).for_each(get);
        assert_eq!(loads.get(), 10);
        get(0);
        get(10);
        get(0);
        assert_eq!(loads.get(), 11);
        get(1);
        assert_eq!(loads.get(), 12);
        assert!(tables.bytes() <= 10 * (1000 + ENTRY_BYTES));
    }

    #[test]
    fn a_table_that_failed_to_load_is_not_held() {
        let tables = Tables::new(1000);
        assert!(tables.get((1, 1), || Err(crate::error::Error::corrupt("no")), |_: &u64| 8).is_err());
        assert_eq!(*tables.get((1, 1), || Ok(7u64), |_| 8).unwrap(), 7);
    }
}
