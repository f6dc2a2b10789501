//! The table of containers of this shim.
//!
//! ```text
//!   reserve ──▶ Creating ──commit──▶ Ready ──remove──▶ (gone)
//!                  └──drop: creation failed or was cancelled──▶ (gone)
//! ```
//! One short lock protects the table; it is never held across an await. An id is taken
//! from the moment its creation begins, so looking and inserting is one step.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use layout::BundleState;
use runtime::{container::Container, io::IoContext};
use thiserror::Error;
use tokio::sync::watch;

/// A container that exists.
pub struct Task {
    /// The container in the OCI backend.
    pub container: Arc<Container>,
    /// What `delete` in another process would go by; so does this one.
    pub state: BundleState,
    /// For the stdio of execs.
    pub io: IoContext,
    /// Serialises deletions; true once one has succeeded.
    pub deleted: tokio::sync::Mutex<bool>,
}

/// The id has no container, or not yet.
#[derive(Debug, Error)]
pub enum TableError {
    /// No container of that id.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// The id is taken, by a container or by one that is being created.
    #[error("container {0} already exists")]
    AlreadyExists(String),
}

enum Slot {
    Creating(Creation),
    Ready(Arc<Task>),
}

/// The two ends of a creation that others may see: ask it to stop, wait until it is over.
#[derive(Clone)]
pub struct Creation {
    cancel: Arc<watch::Sender<bool>>,
    over: watch::Receiver<()>,
}

/// Containers by id.
#[derive(Default)]
pub struct Tasks(Mutex<HashMap<String, Slot>>);

/// An id that is taken for a container in creation. Dropping it frees the id.
pub struct Reservation {
    id: String,
    tasks: Arc<Tasks>,
    creation: Creation,
    cancelled: watch::Receiver<bool>,
    committed: bool,
    /// Dropped last: whoever waits for the end of the creation finds the table as it will stay.
    _over: watch::Sender<()>,
}

/// What an id stands for.
pub enum Lookup {
    /// A container in creation.
    Creating(Creation),
    /// A container.
    Ready(Arc<Task>),
}

impl Tasks {
    /// Takes an id for a container that is about to be created.
    ///
    /// # Errors
    /// [`TableError::AlreadyExists`].
    pub fn reserve(self: &Arc<Self>, id: &str) -> Result<Reservation, TableError> {
        let mut table = self.lock();
        if table.contains_key(id) {
            return Err(TableError::AlreadyExists(id.to_owned()));
        }
        let (cancel, cancelled) = watch::channel(false);
        let (over, is_over) = watch::channel(());
        let creation = Creation { cancel: Arc::new(cancel), over: is_over };
        table.insert(id.to_owned(), Slot::Creating(creation.clone()));
        Ok(Reservation {
            id: id.to_owned(),
            tasks: Arc::clone(self),
            creation,
            cancelled,
            committed: false,
            _over: over,
        })
    }

    /// The container or creation of an id.
    ///
    /// # Errors
    /// [`TableError::NotFound`].
    pub fn lookup(&self, id: &str) -> Result<Lookup, TableError> {
        match self.lock().get(id) {
            Some(Slot::Creating(creation)) => Ok(Lookup::Creating(creation.clone())),
            Some(Slot::Ready(task)) => Ok(Lookup::Ready(Arc::clone(task))),
            None => Err(TableError::NotFound(id.to_owned())),
        }
    }

    /// A container that exists.
    ///
    /// # Errors
    /// [`TableError::NotFound`], also while it is being created.
    pub fn get(&self, id: &str) -> Result<Arc<Task>, TableError> {
        match self.lookup(id)? {
            Lookup::Ready(task) => Ok(task),
            Lookup::Creating(_) => Err(TableError::NotFound(id.to_owned())),
        }
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Whether there is neither a container nor a creation.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether there is a container that exists.
    pub fn has_ready(&self) -> bool {
        self.lock().values().any(|slot| matches!(slot, Slot::Ready(_)))
    }

    /// Cancels all creations and waits until they are over, for `deadline` at most; what is left then goes on by itself.
    pub async fn cancel_creations(&self, deadline: Duration) {
        let creations = self.creations();
        creations.iter().for_each(Creation::cancel);
        let all = async {
            for creation in creations {
                creation.over(deadline).await;
            }
        };
        let _ = tokio::time::timeout(deadline, all).await;
    }

    /// All creations that are under way.
    fn creations(&self) -> Vec<Creation> {
        let creating = |slot: &Slot| match slot {
            Slot::Creating(creation) => Some(creation.clone()),
            Slot::Ready(_) => None,
        };
        self.lock().values().filter_map(creating).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Creation {
    /// Asks the creation to stop and to undo itself.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Waits until the creation is over, with whatever result; `false` if `deadline` passes first.
    pub async fn over(mut self, deadline: Duration) -> bool {
        // The sender never sends: the only thing to hear is that it was dropped.
        tokio::time::timeout(deadline, self.over.changed()).await.is_ok()
    }
}

impl Reservation {
    /// The creation as others see it.
    pub fn creation(&self) -> Creation {
        self.creation.clone()
    }

    /// Waits until the creation is asked to stop. Cancel-safe.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cancelled = self.cancelled.clone();
        async move {
            // An error means that nobody is left who could ask.
            if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the creation was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Puts the container into the place that was kept for it.
    pub fn commit(mut self, task: Task) -> Arc<Task> {
        let task = Arc::new(task);
        self.tasks.lock().insert(self.id.clone(), Slot::Ready(Arc::clone(&task)));
        self.committed = true;
        task
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.committed {
            self.tasks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_while_its_container_is_being_created() {
        let tasks = Arc::new(Tasks::default());
        let reservation = tasks.reserve("a").unwrap();
        assert!(matches!(tasks.reserve("a"), Err(TableError::AlreadyExists(_))));
        assert!(matches!(tasks.get("a"), Err(TableError::NotFound(_))));
        assert!(tasks.reserve("b").is_ok());
        drop(reservation);
        assert!(tasks.is_empty());
        assert!(tasks.reserve("a").is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_creation_is_over_once_its_reservation_is_gone() {
        let tasks = Arc::new(Tasks::default());
        let reservation = tasks.reserve("a").unwrap();
        let Ok(Lookup::Creating(creation)) = tasks.lookup("a") else { panic!("not creating") };
        assert!(!reservation.is_cancelled());
        creation.cancel();
        reservation.cancelled().await;
        assert!(!creation.clone().over(Duration::from_millis(1)).await, "it is still there");
        drop(reservation);
        assert!(creation.over(Duration::from_secs(5)).await);
        assert!(tasks.is_empty());
    }
}
