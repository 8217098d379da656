//! What a hub needs of an object store, and of time: the only things from outside that the shared log depends on.
//!
//! It is a trait so that the tests can drive the real log through lost responses, late requests and wrong clocks.

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// When a `PUT` may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutIf {
    Always,
    /// `If-None-Match: *`: no object has this name. The only condition that is needed: stores keep it better than `If-Match`.
    Absent,
}

/// The outcome of a `PUT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was written.
    Done,
    /// 412: the condition did not hold, perhaps because of an earlier attempt of the same request.
    Failed,
}

/// An object with its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub bytes: Vec<u8>,
    /// When it was written: milliseconds since 1970, by the store's clock.
    pub modified: u64,
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub name: String,
    pub size: u64,
    /// See [`Object::modified`].
    pub modified: u64,
}

/// A response, with the time at which the store gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<T> {
    pub value: T,
    /// Milliseconds since 1970, by the store's clock.
    pub date: u64,
}

/// Why there is no usable response.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectFault {
    /// It is unknown whether the request has, or will have, an effect: a timeout, a broken connection, 409, 429 or 5xx.
    Unknown(Error),
    /// The store refuses: wrong credentials, no such bucket, or a request that it does not understand.
    Refused(Error),
}

impl ObjectFault {
    pub fn error(self) -> Error {
        match self {
            ObjectFault::Unknown(e) | ObjectFault::Refused(e) => e,
        }
    }

    /// The error of a caller that may repeat its request.
    pub fn busy(self) -> Error {
        Error {
            kind: Kind::Busy,
            ..self.error()
        }
    }
}

pub type ObjectResult<T> = std::result::Result<Response<T>, ObjectFault>;

/// Names have the characters `a-z 0-9 / . -` and are relative to the prefix of the settings.
pub trait ObjectStore: Send + Sync {
    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome>;

    /// `None`: there is no such object now.
    fn get(&self, name: &str) -> ObjectResult<Option<Object>>;

    /// Removes an object; it is no failure if there is none.
    fn delete(&self, name: &str) -> ObjectResult<()>;

    /// All objects whose names begin with `prefix` and come after `after`, sorted by name.
    fn list(&self, prefix: &str, after: &str) -> ObjectResult<Vec<ListedObject>>;

    /// Milliseconds on a clock of this machine that never decreases; it may stop while the machine sleeps.
    fn monotonic(&self) -> u64;

    /// Waits, and no longer than this.
    fn wait(&self, time: Duration);

    /// A random number.
    fn random(&self) -> u64;
}

/// Attempts of [`sure`]: together they take about half a minute.
const REQUEST_ATTEMPTS: u32 = 10;

/// Repeats a request that may be repeated, while its outcome is unknown.
pub fn sure<T>(objects: &dyn ObjectStore, request: impl Fn() -> ObjectResult<T>) -> Result<T> {
    let mut pause = Duration::from_millis(50);
    for _ in 1..REQUEST_ATTEMPTS {
        match request() {
            Ok(response) => return Ok(response.value),
            Err(ObjectFault::Refused(e)) => return Err(e),
            Err(ObjectFault::Unknown(e)) => log::debug!("{e}; trying again"),
        }
        objects.wait(pause);
        pause *= 2;
    }
    Ok(request().map_err(ObjectFault::error)?.value)
}
