//! The rights of a key as files and requests name them. What they mean is in the hub's `rights`.

use serde::{Deserialize, Serialize};

/// See the module. A field that is missing limits nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RightsRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_messages: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub admin: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl RightsRow {
    pub fn limits_nothing(&self) -> bool {
        *self == RightsRow::default()
    }
}
