//! Shortens the ids in a table of messages to as many digits as tell them apart.

use uuid::Uuid;

/// Digits that are shown if fewer tell all ids of a table apart.
const MIN_ID_DIGITS: usize = 8;

/// How the ids of one table are shown.
pub struct ShortIds {
    digits: usize,
}

impl ShortIds {
    /// Ids begin with the time, so it is their ends that differ early.
    pub fn of(ids: impl Iterator<Item = Uuid>) -> ShortIds {
        let mut ids: Vec<u128> = ids.map(|id| id.as_u128().reverse_bits()).collect();
        ids.sort_unstable();
        ids.dedup();
        let same = ids
            .windows(2)
            .map(|pair| (pair[0] ^ pair[1]).leading_zeros() / 4);
        let most = same.max().unwrap_or(0) as usize;
        ShortIds {
            digits: MIN_ID_DIGITS.max(most + 1),
        }
    }

    /// The last digits of an id. Commands find the message by them, too.
    pub fn short(&self, id: Uuid) -> String {
        let id = id.simple().to_string();
        id[id.len() - self.digits.min(id.len())..].to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_as_short_as_the_others_of_its_table_allow() {
        let check = |ids: &[u128], wants: &[&str]| {
            let ids: Vec<Uuid> = ids.iter().map(|id| Uuid::from_u128(*id)).collect();
            let short = ShortIds::of(ids.iter().copied());
            let got: Vec<String> = ids.iter().map(|id| short.short(*id)).collect();
            assert_eq!(got, wants);
        };
        check(&[], &[]);
        check(&[0x0193_0000_1234_5678], &["12345678"]);
        check(&[0x1_1234_5678, 0x2_1234_5679], &["12345678", "12345679"]);
        check(
            &[0xa1_1234_5678, 0xb1_1234_5678],
            &["a112345678", "b112345678"],
        );
        // the same message, in two queues
        check(&[7, 7], &["00000007", "00000007"]);
        let last = 1 << 127;
        check(
            &[0, last],
            &[&"0".repeat(32), &Uuid::from_u128(last).simple().to_string()],
        );
    }
}
