//! One pair of key and value types for all tables, so that the program has redb's trees once.
//!
//! redb compiles its trees for the types of a table, some 50 KB for each pair. All tables have the pair [`KeyBytes`] and
//! [`ValueBytes`] instead, which answers redb's questions as the types of the table in use would: its [`Layout`], which each
//! call of redb enters. So a file is as redb writes it with the types themselves, byte for byte.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::marker::PhantomData;

use redb::{Key, TypeName, Value};

/// What redb asks of the types of a table.
pub struct Layout {
    key_name: fn() -> TypeName,
    key_width: fn() -> Option<usize>,
    compare: fn(&[u8], &[u8]) -> Ordering,
    separator: for<'a> fn(&'a [u8], &'a [u8]) -> Cow<'a, [u8]>,
    value_name: fn() -> TypeName,
    value_width: fn() -> Option<usize>,
}

/// The layout of a table with these types.
pub struct LayoutOf<K, V>(PhantomData<(K, V)>);

impl<K: Key + 'static, V: Value + 'static> LayoutOf<K, V> {
    pub const LAYOUT: &'static Layout = &Layout {
        key_name: K::type_name,
        key_width: K::fixed_width,
        compare: K::compare,
        separator: K::separator,
        value_name: V::type_name,
        value_width: V::fixed_width,
    };
}

thread_local! {
    /// The layout of the table that this thread uses just now.
    static ENTERED: Cell<Option<&'static Layout>> = const { Cell::new(None) };
}

impl Layout {
    /// Calls redb for a table of this layout. Another one may be used meanwhile, by a predicate for example.
    pub fn enter<T>(&'static self, call: impl FnOnce() -> T) -> T {
        struct Leave(Option<&'static Layout>);
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.set(self.0);
            }
        }
        let _leave = Leave(ENTERED.replace(Some(self)));
        call()
    }

    /// A wrong width would damage the table, so a call that has entered no layout ends here.
    fn entered() -> &'static Layout {
        ENTERED.get().expect("redb was called without a layout")
    }
}

/// Stands for the key or the value type of the layout.
#[derive(Debug)]
pub struct LayoutBytes<const IS_KEY: bool>;

pub type KeyBytes = LayoutBytes<true>;
pub type ValueBytes = LayoutBytes<false>;

impl<const IS_KEY: bool> Value for LayoutBytes<IS_KEY> {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        let layout = Layout::entered();
        if IS_KEY {
            (layout.key_width)()
        } else {
            (layout.value_width)()
        }
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        let layout = Layout::entered();
        if IS_KEY {
            (layout.key_name)()
        } else {
            (layout.value_name)()
        }
    }
}

impl Key for KeyBytes {
    fn compare(one: &[u8], other: &[u8]) -> Ordering {
        (Layout::entered().compare)(one, other)
    }

    fn separator<'a>(left: &'a [u8], right: &'a [u8]) -> Cow<'a, [u8]> {
        (Layout::entered().separator)(left, right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_a_call_ends_with_it() {
        let width = || (KeyBytes::fixed_width(), ValueBytes::fixed_width());
        let (numbers, texts) = (LayoutOf::<u64, u128>::LAYOUT, LayoutOf::<&str, ()>::LAYOUT);
        numbers.enter(|| {
            assert_eq!(width(), (Some(8), Some(16)));
            texts.enter(|| assert_eq!(width(), (None, Some(0))));
            assert_eq!(width(), (Some(8), Some(16)));
            let panics = || texts.enter(|| panic!("a predicate"));
            assert!(std::panic::catch_unwind(panics).is_err());
            assert_eq!(width(), (Some(8), Some(16)));
        });
        assert!(std::panic::catch_unwind(width).is_err());
    }
}
